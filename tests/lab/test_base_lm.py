"""The shipped checkpoint and its text match the encyclopedia and recipe of this version."""

from __future__ import annotations

import hashlib
import json
import lzma
import sys
from pathlib import Path

import pytest
from scripts import base_lm
from scripts.base_lm import (
    RECIPE,
    SEED,
    perplexity,
    split,
    token_blocks,
    train_base_lm,
    train_tokenizer,
)
from transformers import AutoModelForCausalLM, AutoTokenizer

from larr.text.checkpoint import BUILTIN
from larr.text.corpus import BUILTIN_TEXT
from larr_lab import encyclopedia

SMALL = RECIPE | {"vocabulary": 300, "hidden": 16, "feedforward": 16, "block": 32, "epochs": 1}
ORIGIN = json.loads((BUILTIN / "origin.json").read_text())


@pytest.fixture(scope="module")
def text() -> bytes:
    return lzma.decompress(BUILTIN_TEXT.read_bytes())


def test_the_shipped_text_equals_the_generated_one(text: bytes) -> None:
    articles = "".join(f"{article}\n" for article in encyclopedia.articles(SEED)).encode()
    assert text == articles, "run python scripts/base_lm.py again"


def test_the_checkpoint_has_this_text_and_recipe(text: bytes) -> None:
    assert ORIGIN["text_sha256"] == hashlib.sha256(text).hexdigest()
    assert ORIGIN["recipe"] == RECIPE
    assert ORIGIN["seed"] == SEED


def test_the_checkpoint_is_small_and_without_pickle() -> None:
    files = [path for path in BUILTIN.iterdir() if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 8e6
    assert {path.suffix for path in files} <= {".json", ".safetensors", ".xz"}


def test_the_checkpoint_has_the_recorded_perplexity(text: bytes) -> None:
    tokenizer = AutoTokenizer.from_pretrained(BUILTIN)
    model = AutoModelForCausalLM.from_pretrained(BUILTIN)
    assert model.num_parameters() == ORIGIN["parameters"]
    held_out = split(text.decode().splitlines())[1]
    blocks = token_blocks(tokenizer, held_out, RECIPE["block"])
    assert perplexity(model, blocks) == pytest.approx(ORIGIN["held_out_perplexity"], rel=0.01)


def test_the_tokenizer_encodes_any_string_in_lower_case() -> None:
    tokenizer = train_tokenizer(["noodles and rice"] * 3, 300)
    for string in ("Noodles", "川菜 ☂ \x00", "noodles"):
        ids = tokenizer(string)["input_ids"]
        assert tokenizer.decode(ids).strip() == string.lower()
    assert tokenizer("noodles")["input_ids"] == tokenizer("Noodles")["input_ids"]
    in_front = tokenizer("noodles")["input_ids"]
    assert tokenizer("rice noodles")["input_ids"][-len(in_front) :] == in_front


def test_held_out_documents_are_not_in_the_training_text() -> None:
    documents = [f"document {number}" for number in range(500)]
    train, held_out = split(documents)
    assert len(held_out) == 10
    assert sorted(train + held_out) == sorted(documents)


def test_the_same_text_gives_the_same_bytes(tmp_path: Path) -> None:
    documents = [f"dish {number} is eaten with rice and tea" for number in range(200)]
    for name in ("a", "b"):
        origin = train_base_lm(tmp_path / name, documents, SMALL)
        assert origin["held_out_perplexity"] > 1
    for file in ("model.safetensors", "tokenizer.json", BUILTIN_TEXT.name):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    shipped = {path.name for path in BUILTIN.iterdir()}
    assert {path.name for path in (tmp_path / "a").iterdir()} == shipped


def test_other_sizes_are_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipes: dict[Path, dict[str, object]] = {}
    monkeypatch.setattr(
        base_lm, "train_base_lm", lambda folder, _, recipe: recipes.update({folder: recipe})
    )
    monkeypatch.setattr(base_lm.encyclopedia, "articles", lambda _: [])
    monkeypatch.setattr(sys, "argv", ["base_lm", str(tmp_path), "--hidden", "256", "--epochs=3"])
    base_lm.main()
    assert recipes == {tmp_path: RECIPE | {"hidden": 256, "epochs": 3}}
