"""Stage 1: labels on y only, general text, the loss, causal and masked training."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from larr import artifacts
from larr.config import Config
from larr.text import training
from larr.text.backbone import LanguageModel, load_base, load_language_model
from larr.text.corpus import Description
from larr.text.pretrain import (
    IGNORED,
    MASKED,
    Collator,
    Row,
    describe,
    gather,
    labelled_losses,
    perplexity,
    pretrain,
)
from tests.fake_data import KEYWORDS, make_data
from tests.tiny_models import KINDS

PREDICTS = {"bert": "masked", "xlm-roberta": "masked", "modernbert": "masked", "headless": None}
PLACE = Description(
    prompt=[("poi_name", "Noodle shop")],
    target=[("poi_menu", "tofu, rice"), ("poi_tags", "spicy")],
    chain=None,
)


def small(output: Path, model: Path, general: Path, **backbone: object) -> Config:
    return make_data(
        output,
        backbone={"model": str(model)} | backbone,
        pretrain={"general_text": general, "learning_rate": 3e-2, "max_steps": 10},
    )


def test_only_y_has_labels(lm: LanguageModel) -> None:
    row = describe(lm.tokens, PLACE, np.random.default_rng(0))
    x = lm.tokens.encode(PLACE.prompt)
    assert row["input_ids"][: len(x)] == x
    assert row["labels"] == [IGNORED] * len(x) + row["input_ids"][len(x) :]
    assert row["labels"][len(x)] in lm.tokens.starts.values()


def test_keywords_of_y_occur_in_both_orders(lm: LanguageModel) -> None:
    random = np.random.default_rng(0)
    x = len(lm.tokens.encode(PLACE.prompt))
    firsts = {describe(lm.tokens, PLACE, random)["input_ids"][x] for _ in range(20)}
    assert firsts == {lm.tokens.starts["poi_menu"], lm.tokens.starts["poi_tags"]}


@pytest.mark.parametrize("kind", ["qwen2", "gemma3", "bert"])
def test_the_loss_equals_the_models_own_loss(
    kind: str, models: dict[str, Path], prepared: Config
) -> None:
    lm = load_base(prepared.with_settings({"backbone.model": str(models[kind])}))
    if kind == "gemma3":
        lm.model.config.final_logit_softcapping = 0.1
    general: Row = {"input_ids": [5, 6, 7], "labels": [5, 6, 7]}
    rows = [general, describe(lm.tokens, PLACE, np.random.default_rng(0))]
    batch = Collator(lm, seed=0)(rows)
    labels = batch["labels"]
    if kind != "bert":  # the model shifts its labels by one position
        labels = torch.nn.functional.pad(labels[:, :-1], (1, 0), value=IGNORED)
    with torch.no_grad():
        expected = lm.model(**batch | {"labels": labels}).loss
        losses = labelled_losses(lm.model, batch)
    torch.testing.assert_close(losses.mean(), expected)
    assert len(losses) == (labels != IGNORED).sum()
    if kind != "bert":
        assert len(losses) == sum(label != IGNORED for row in rows for label in row["labels"][1:])
    assert perplexity(lm, rows) == pytest.approx(math.exp(expected.item()), rel=1e-3)


def test_an_encoder_predicts_masked_tokens_only_in_y(models: dict[str, Path]) -> None:
    config = Config.model_validate(
        {"keywords": KEYWORDS, "backbone": {"model": str(models["bert"]), "max_length": 64}}
    )
    lm = load_base(config)
    row = describe(lm.tokens, PLACE, np.random.default_rng(0))
    assert row["labels"][-1] == IGNORED, "[SEP] is not part of y"
    batch = Collator(lm, seed=0)([row] * 200)
    masked = batch["input_ids"] == lm.tokens.tokenizer.mask_token_id
    chosen = batch["labels"] != IGNORED
    assert torch.equal(masked, chosen)
    can_be = [id_ >= 0 and id_ not in lm.tokens.marker_ids for id_ in row["labels"]]
    assert chosen.any(dim=0).tolist() == can_be, "x and the markers are not masked"
    assert float(chosen[:, can_be].float().mean()) == pytest.approx(MASKED, abs=0.03)
    assert set(batch["labels"][chosen].tolist()) <= set(row["labels"])


def test_the_perplexity_of_no_texts_is_none(lm: LanguageModel) -> None:
    assert perplexity(lm, []) is None


@pytest.mark.parametrize("ratio", [0.0, 1.0, 3.0])
def test_general_text_has_the_configured_share_of_tokens(
    prepared: Config, general: Path, lm: LanguageModel, ratio: float
) -> None:
    settings = {"general_text": general, "general_ratio": ratio}
    pretrain_settings = prepared.pretrain.model_copy(update=settings)
    train, held_out, _ = gather(
        prepared.model_copy(update={"pretrain": pretrain_settings}), lm.tokens
    )
    markers = set(lm.tokens.marker_ids)
    domain = [row for row in train if markers & set(row["input_ids"])]
    other = [row for row in train if not markers & set(row["input_ids"])]
    tokens = sum(len(row["input_ids"]) for row in domain)
    assert sum(len(row["input_ids"]) for row in other) == pytest.approx(
        ratio * tokens, rel=0.15, abs=70
    )
    assert all(row["labels"] == row["input_ids"] for row in other)
    assert held_out["general"], "general text is held out even if none is used for training"
    assert len(held_out["y"]) == 2
    assert not {tuple(row["input_ids"]) for row in held_out["y"]} & {
        tuple(row["input_ids"]) for row in domain
    }


@pytest.mark.parametrize("rank", [0, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_the_stage_trains_saves_and_measures(
    tmp_path: Path,
    models: dict[str, Path],
    general: Path,
    kind: str,
    rank: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = small(tmp_path, models[kind], general, lora_rank=rank)
    pretrain(config)
    manifest = artifacts.manifest(artifacts.folder(config, "pretrain"))
    figures = manifest["figures"]
    before, after = load_base(config), load_language_model(config.output / "pretrain", config)
    assert after.predicts == before.predicts == PREDICTS.get(kind, "next")
    if after.predicts:
        assert figures["perplexity_y_after"] < figures["perplexity_y_before"]
        assert figures["perplexity_y_text_before"] > 1
    else:
        assert "stage 1 is skipped" in capsys.readouterr().err
        assert figures["perplexity_y_before"] is figures["perplexity_y_after"] is None
    assert after.tokens.marker_ids == before.tokens.marker_ids
    assert after.tokens.encode(PLACE.prompt) == before.tokens.encode(PLACE.prompt)
    rows = torch.tensor(before.tokens.marker_ids)
    if not after.predicts:
        return
    for layer in ("get_input_embeddings", "get_output_embeddings"):
        old, new = (getattr(lm.model, layer)().weight for lm in (before, after))
        assert not torch.equal(old[rows], new[rows]), "the new rows are trained, also with LoRA"
        if rank:
            torch.testing.assert_close(old[:200], new[:200])


def test_the_same_seed_gives_the_same_bytes(
    tmp_path: Path, models: dict[str, Path], general: Path
) -> None:
    config = small(tmp_path, models["qwen2"], general)
    hashes = []
    for _ in range(2):
        pretrain(config)
        manifest = artifacts.manifest(artifacts.folder(config, "pretrain"))
        hashes.append({name: file["sha256"] for name, file in manifest["files"].items()})
    assert hashes[0] == hashes[1]
    assert "model.safetensors" in hashes[0]


def test_the_learning_rate_depends_on_the_model(prepared: Config) -> None:
    builtin = prepared.with_settings({"backbone.model": "builtin"})
    configured = prepared.with_settings({"pretrain.learning_rate": 5e-5})
    rates = [
        training.arguments(config, config.pretrain, 5)["learning_rate"]
        for config in (prepared, builtin, configured)
    ]
    assert rates == [1e-4, 1e-3, 5e-5]
