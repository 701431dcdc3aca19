"""Stage 2: batches, masks, L_2 compared with a naive implementation, learning."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer

from larr import artifacts
from larr.config import Config
from larr.config.text import ContrastConfig
from larr.losses import cosine, false_negatives
from larr.serve.embedder import Embedder
from larr.text import encoder as encoders
from larr.text import training
from larr.text.backbone import LanguageModel
from larr.text.contrast import TripleLoss, contrast, whiten, without_negatives
from larr.text.encoder import as_encoder, as_input, compute, load_encoder, similar_lengths
from larr.text.pairs import EMPTY, SPREAD, VIEWS, TripleCollator, examples, held_out
from larr.text.pretrain import pretrain
from tests.fake_data import make_data
from tests.tiny_models import KINDS, make_model


def rows_of(config: Config, count: int) -> list[dict[str, Any]]:
    columns = examples(config, held_out(config))
    return [{name: column[row] for name, column in columns.items()} for row in range(count)]


def loss_of(
    rows: list[dict[str, Any]],
    lm: LanguageModel,
    encoder: SentenceTransformer,
    contrast: ContrastConfig,
    log_share: np.ndarray | None = None,
) -> dict[str, float]:
    batch = TripleCollator(lm.tokens, contrast.shown)(rows)
    shares = torch.tensor(log_share if log_share is not None else np.zeros(1_000))
    loss = TripleLoss(encoder, contrast, shares.float(), bf16=False)
    with torch.no_grad():
        terms = loss(groups_of(batch), batch["label"])
    return {name: float(value) for name, value in terms.items()}


def groups_of(batch: dict[str, torch.Tensor]) -> list[dict[str, torch.Tensor]]:
    names = [name.removesuffix("_input_ids") for name in batch if name.endswith("_input_ids")]
    return [
        {key: batch[f"{name}_{key}"] for key in ("input_ids", "attention_mask")} for name in names
    ]


def test_a_batch_maps_each_example_to_its_texts(prepared: Config, lm: LanguageModel) -> None:
    rows = rows_of(prepared, 16)
    batch = TripleCollator(lm.tokens, shown=4)(rows)
    sequences = [
        [int(id_) for id_, kept in zip(ids, mask, strict=True) if kept]
        for group in groups_of(batch)
        for ids, mask in zip(group["input_ids"], group["attention_mask"], strict=True)
    ]
    shown = {text for row in rows for text in row["not_taken"]}
    assert len(sequences) == len({row[view] for row in rows for view in VIEWS} - {EMPTY} | shown)
    for row, label in zip(rows, batch["label"].tolist(), strict=True):
        for view, position in zip(VIEWS, label, strict=False):
            if row[view] == EMPTY:
                assert position == -1
            else:
                assert sequences[position] == lm.tokens.encode(json.loads(str(row[view])))
        keys, shown = label[len(VIEWS) : -4], label[-4:]
        assert keys == row["keys"]
        expected = [lm.tokens.encode(json.loads(text)) for text in row["not_taken"]]
        assert [sequences[position] for position in shown if position >= 0] == expected


def test_groups_for_a_large_model_have_little_padding(prepared: Config, lm: LanguageModel) -> None:
    rows = rows_of(prepared, 16)
    small, large = (
        TripleCollator(lm.tokens, shown=4, large=large)(rows) for large in (False, True)
    )
    texts = [
        [ids[kept] for group in groups_of(batch) for ids, kept in rows_in(group)]
        for batch in (small, large)
    ]
    assert [text.tolist() for text in texts[0]] == [text.tolist() for text in texts[1]]
    assert torch.equal(small["label"], large["label"])
    for group in groups_of(large):
        lengths = group["attention_mask"].sum(dim=1)
        assert lengths.max() <= SPREAD * lengths.min()
    expected = [slice(0, 2), slice(2, 5), slice(5, 7)]
    assert similar_lengths([9, 10, 500, 510, 520, 600, 610], 2_048, 1.4) == expected


def rows_in(group: dict[str, torch.Tensor]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return list(zip(group["input_ids"], group["attention_mask"].bool(), strict=True))


def test_false_negatives_share_a_key() -> None:
    keys = torch.tensor([[1, 7, -1], [1, 8, -1], [2, 8, 3], [4, 9, 3]])
    expected = [[1, 1, 0, 0], [1, 1, 1, 0], [0, 1, 1, 1], [0, 0, 1, 1]]
    assert false_negatives(keys).int().tolist() == expected


def test_the_score_is_the_cosine() -> None:
    first, second = torch.tensor([[3.0, 0.0]]), torch.tensor([[1.0, 0.0], [-2.0, 0.0], [0.0, 5.0]])
    torch.testing.assert_close(cosine(first, second), torch.tensor([[1.0, -1.0, 0.0]]))


def naive_pair_loss(
    rows: list[dict[str, Any]],
    vectors: dict[str, np.ndarray],
    views: tuple[str, str],
    keys: tuple[int, ...],
    log_share: np.ndarray | None = None,
) -> float:
    """Computes Eq. (12)-(20) pair by pair; rows with the same key or text are not negatives.

    With `log_share`, adds the places shown as negatives and corrects the scores for popularity.
    """
    rows = [row for row in rows if EMPTY not in (row[views[0]], row[views[1]])]
    total = 0.0
    for anchor_view, other_view in (views, views[::-1]):
        for anchor in rows:
            terms = []
            for other in rows:
                false = other is not anchor and (
                    any(anchor["keys"][key] == other["keys"][key] >= 0 for key in keys)
                    or any(anchor[view] == other[view] for view in views)
                )
                if not false:
                    term = vectors[anchor[anchor_view]] @ vectors[other[other_view]] / 0.05
                    if log_share is not None:
                        term -= log_share[(other if views[1] == other_view else anchor)["keys"][1]]
                    terms.append((term, other is anchor))
            if log_share is not None and anchor_view == views[0]:
                shown = set(anchor["not_taken"]) - {anchor[other_view]}
                vector = vectors[anchor[anchor_view]]
                terms += [(vector @ vectors[text] / 0.05, False) for text in shown]
            largest = max(term for term, _ in terms)
            below = sum(np.exp(term - largest) for term, _ in terms)
            total -= next(term for term, own in terms if own) - largest - np.log(below)
    return float(total / (2 * len(rows)))


def test_the_loss_equals_a_naive_implementation(prepared: Config, lm: LanguageModel) -> None:
    rows = rows_of(prepared, 24)
    encoder = as_encoder(lm, 16).eval()
    shown = {text for row in rows for text in row["not_taken"]}
    texts = sorted({row[view] for row in rows for view in VIEWS} - {EMPTY} | shown)
    exact = compute(encoder, [json.loads(text) for text in texts], 4096).astype(np.float64)
    vectors = dict(zip(texts, exact, strict=True))
    settings = ContrastConfig(lambda_user_user=1.0, lambda_place_place=2.0, lambda_user_place=0.5)
    log_share = np.log(np.random.default_rng(0).random(100))
    user_place = naive_pair_loss(rows, vectors, ("user", "place"), (0, 1, 2), log_share)
    expected = {
        "user_user": naive_pair_loss(rows, vectors, ("profile", "action"), (0,)),
        "place_place": 2.0 * naive_pair_loss(rows, vectors, ("business", "basic"), (1, 2)),
        "user_place": 0.5 * user_place,
    }
    assert loss_of(rows, lm, encoder, settings, log_share) == pytest.approx(expected, rel=1e-4)
    of_paper = settings.model_copy(update={"shown": 0, "correct_popularity": False})
    rows = [row | {"not_taken": []} for row in rows]
    expected["user_place"] = 0.5 * naive_pair_loss(rows, vectors, ("user", "place"), (0, 1, 2))
    assert loss_of(rows, lm, encoder, of_paper) == pytest.approx(expected, rel=1e-4)


def test_without_masks_all_other_rows_are_negatives(prepared: Config, lm: LanguageModel) -> None:
    rows, encoder = rows_of(prepared, 24), as_encoder(lm, 16).eval()
    masked, plain = (
        loss_of(rows, lm, encoder, ContrastConfig(mask_false_negatives=masks))
        for masks in (True, False)
    )
    assert all(plain[name] > masked[name] for name in plain)


def test_examples_without_negatives_are_counted() -> None:
    contrast = ContrastConfig(batch_size=2)
    keys = [[1, 1, -1], [1, 2, -1], [1, 3, -1], [2, 4, -1]]
    rows = {"keys": keys, "not_taken": [[], [], [], []]}
    assert without_negatives(contrast, rows) == 0.5, "the first batch has only one user"
    assert without_negatives(contrast, rows | {"not_taken": [["tea"], [], [], []]}) == 0.25
    no_masks = contrast.model_copy(update={"mask_false_negatives": False})
    assert without_negatives(no_masks, rows) == 0


def test_the_head_starts_with_equal_variances(lm: LanguageModel) -> None:
    random = np.random.default_rng(0)
    states = random.normal(size=(4000, 32)) * np.geomspace(30, 1, 32) + 100
    encoder = as_encoder(lm, 16)
    whiten(encoder, states)
    with torch.no_grad():
        whitened = encoder[2].linear(torch.tensor(states, dtype=torch.float32)).numpy()
    np.testing.assert_allclose(whitened.mean(axis=0), 0, atol=2e-3)
    spread = whitened.std(axis=0) * 4
    assert spread.max() < 1.01
    assert spread.min() > 0.8


def test_the_stage_learns_who_orders_where(tmp_path: Path) -> None:
    config = make_data(
        tmp_path,
        places=200,
        users=200,
        orders=600,
        contrast={
            "triples": 400,
            "batch_size": 16,
            "held_out": 0.2,
            "pooling": "end",
            "lambda_user_user": 1.0,
            "lambda_place_place": 1.0,
            "drop_keyword": 0.2,
            "single_keyword": 0.25,
        },
    )
    pretrain(config)
    contrast(config)
    manifest = artifacts.manifest(artifacts.folder(config, "contrast"))
    recalls = manifest["figures"]["recall_at_10"]
    assert set(recalls) == {"untuned", "cpt_only", "whole"}
    assert recalls["whole"]["user_to_place"] > 0.7
    untuned, both = (recalls[name]["user_to_place"] for name in ("untuned", "whole"))
    assert both > 1.2 * untuned  # the base LM already knows kitchens and cities
    alone = "poi_tags to business texts"
    untuned, both = (recalls[name]["single_keywords"][alone] for name in ("untuned", "whole"))
    assert both > 1.5 * untuned
    auc = manifest["figures"]["held_out_auc"]
    assert max(auc) > auc[0] + 0.05
    assert manifest["figures"]["kept_step"] > 0
    curve = manifest["figures"]["loss"]
    assert curve[-1]["user_place"] < curve[0]["user_place"]


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A run up to stage 2 with LoRA on a model with 16-bit weights."""
    folder = tmp_path_factory.mktemp("adapted")
    make_model(folder / "model", "llama", dtype=torch.float16)
    backbone = {"model": str(folder / "model"), "lora_rank": 4}
    config = make_data(folder / "run", backbone=backbone)
    pretrain(config)
    contrast(config)
    return config


def hashes_of(config: Config) -> dict[str, str]:
    manifest = artifacts.manifest(artifacts.folder(config, "contrast"))
    return {name: file["sha256"] for name, file in manifest["files"].items()}


def test_adapters_are_merged_and_runs_are_reproducible(
    adapted: Config, copy: Callable[..., Config]
) -> None:
    again = copy(adapted)
    contrast(again)
    assert hashes_of(again) == hashes_of(adapted)
    assert not [name for name in hashes_of(adapted) if "adapter" in name or "trainer" in name]
    assert load_encoder(adapted.output / "contrast").encode('[["poi_menu", "tea"]]').shape == (128,)


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_model_can_be_tuned_and_embeds(
    tmp_path: Path, models: dict[str, Path], kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config = make_data(
        tmp_path / "run",
        backbone={"model": str(models[kind]), "lora_rank": 4 * (KINDS.index(kind) % 2)},
        pretrain={"max_steps": 1},
        contrast={"learning_rate": 1e-2, "pooling": "end" if kind == "bert" else "mean"},
    )
    pretrain(config)
    contrast(config)
    figures = artifacts.read_json(config.output / "contrast" / "manifest.json")["figures"]
    assert all(np.isfinite(list(entry.values())).all() for entry in figures["loss"])
    texts = [("poi_menu", "milk tea, " * number) for number in (1, 9, 3)]
    later = Embedder(config, "encoder", "model")
    vectors_ND = later(texts)
    alone = [later.compute([text])[0] for text in texts]
    np.testing.assert_allclose(vectors_ND, alone, atol=2e-6)
    np.testing.assert_allclose(np.linalg.norm(vectors_ND, axis=1), 1, rtol=1e-5)
    encoder = load_encoder(config.output / "contrast")
    inputs = [as_input([text]) for text in texts]
    np.testing.assert_allclose(vectors_ND, encoder.encode(inputs), atol=2e-6)


@pytest.mark.parametrize("layers", [0, 1, 2])
def test_a_large_model_is_tuned_with_little_memory(
    tmp_path: Path, models: dict[str, Path], layers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module, name in ((encoders, "SMALL_PARAMETERS"), (training, "CHECKPOINTED_PARAMETERS")):
        monkeypatch.setattr(module, name, 0)
    config = make_data(
        tmp_path / "run",
        backbone={"model": str(models["qwen3"]), "lora_rank": 4, "lora_layers": layers},
        pretrain={"max_steps": 1},
        contrast={"learning_rate": 1e-2},
    )
    pretrain(config)
    contrast(config)
    before = load_file(config.output / "pretrain" / "model.safetensors")
    after = load_file(config.output / "contrast" / "model.safetensors")
    changed = {
        name
        for name, weight in after.items()
        # bfloat16 has 8 significant bits
        if not torch.allclose(weight, before[f"model.{name}"], rtol=2**-7, atol=1e-6)
    }
    assert any("layers.1." in name for name in changed)
    assert any("layers.0." in name for name in changed) == (layers != 1)
    assert ("embed_tokens.weight" in changed) == (layers == 0)
    assert {weight.dtype for weight in after.values()} == {torch.float32}


def test_training_without_gain_is_reported_and_discarded(
    tuned: Config, copy: Callable[..., Config], capsys: pytest.CaptureFixture[str]
) -> None:
    config = copy(tuned, contrast={"triples": 160, "batch_size": 16, "learning_rate": 1.0})
    contrast(config)
    manifest = artifacts.manifest(artifacts.folder(config, "contrast"))
    assert manifest["figures"]["kept_start"]
    assert "did not improve" in capsys.readouterr().err
    tea, noodles = load_encoder(config.output / "contrast").encode(
        ['[["poi_menu", "tea"]]', '[["poi_menu", "noodles"]]']
    )
    assert tea @ noodles < 0.95, "the initial model separates different texts"
