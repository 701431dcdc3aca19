"""The shipped checkpoint belongs to the encyclopedia and the recipe of this version."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from larr.text import base_lm
from larr.text.backbone import BUILTIN
from larr_lab.base_lm import (
    RECIPE,
    SEED,
    _blocks,
    make,
    make_tokenizer,
    perplexity,
    split,
    text_hash,
)
from larr_lab.city import encyclopedia

SMALL = RECIPE | {"vocabulary": 300, "hidden": 16, "feedforward": 16, "block": 32, "epochs": 1}
ORIGIN = json.loads((BUILTIN / "origin.json").read_text())


@pytest.fixture(scope="module")
def documents() -> list[str]:
    return list(encyclopedia.articles(SEED))


def test_checkpoint_was_made_from_this_text_and_recipe(documents: list[str]) -> None:
    assert ORIGIN["text_sha256"] == text_hash(documents), "run python -m larr_lab.base_lm again"
    assert ORIGIN["recipe"] == RECIPE
    assert ORIGIN["seed"] == SEED


def test_checkpoint_is_small_and_without_pickle() -> None:
    files = [path for path in BUILTIN.iterdir() if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 8e6
    assert {path.suffix for path in files} <= {".json", ".safetensors"}


def test_checkpoint_has_the_recorded_perplexity(documents: list[str]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(BUILTIN)
    model = AutoModelForCausalLM.from_pretrained(BUILTIN)
    assert model.num_parameters() == ORIGIN["parameters"]
    blocks = _blocks(tokenizer, split(documents)[1], RECIPE["block"])
    assert perplexity(model, blocks) == pytest.approx(ORIGIN["held_out_perplexity"], rel=0.01)


def test_tokenizer_knows_every_string_and_no_case() -> None:
    tokenizer = make_tokenizer(["noodles and rice"] * 3, 300)
    for text in ("Noodles", "川菜 ☂ \x00", "noodles"):
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.decode(ids).strip() == text.lower()
    assert tokenizer("noodles")["input_ids"] == tokenizer("Noodles")["input_ids"]
    in_front = tokenizer("noodles")["input_ids"]
    assert tokenizer("rice noodles")["input_ids"][-len(in_front) :] == in_front


def test_held_out_documents_are_not_trained_on() -> None:
    documents = [f"document {number}" for number in range(500)]
    train, test = split(documents)
    assert len(test) == 10
    assert sorted(train + test) == sorted(documents)


def test_same_text_gives_the_same_bytes(tmp_path: Path) -> None:
    documents = [f"dish {number} is eaten with rice and tea" for number in range(200)]
    for name in ("a", "b"):
        made = make(tmp_path / name, documents, SMALL)
        assert made["held_out_perplexity"] > 1
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("a", "b")]
    assert weights[0] == weights[1]


def test_other_sizes_are_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: dict[str, object] = {}
    monkeypatch.setattr(base_lm, "make", lambda folder, _, recipe: made.update({folder: recipe}))
    monkeypatch.setattr(sys, "argv", ["base_lm", str(tmp_path), "--hidden", "256", "--epochs=3"])
    base_lm.main()
    assert made == {tmp_path: RECIPE | {"hidden": 256, "epochs": 3}}
