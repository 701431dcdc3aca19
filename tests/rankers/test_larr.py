"""LARR: its inputs, the alignment of Eq. (24)-(26), the training of its text layers."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from larr import artifacts, rankers
from larr.config import Config
from larr.config.rankers import CONTROLS
from larr.data.batches import Batch
from larr.rankers.align import train
from larr.rankers.larr import Larr, false_negatives
from larr.rankers.neural import Weights, rate_at
from tests.ranking_log import SOURCES, Sizes, log_of, rows_of, small_align, write_log
from tests.test_losses import naive_info_nce


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    return write_log(tmp_path_factory.mktemp("larr"), Sizes(rows=100, test_rows=50))


@pytest.fixture(scope="module")
def batch(config: Config) -> Batch:
    return rows_of(config, "train", 64)


def build(config: Config, **settings: object) -> Larr:
    return rankers.build(config, "larr", config.align.of("larr").with_settings(settings))


def none(batch: Batch) -> Batch:
    """No sampled negatives."""
    return batch.select(torch.empty(0).int())


def test_scores_depend_on_vectors_and_not_on_text_indices(config: Config, batch: Batch) -> None:
    model = build(config)
    expected = model.score(batch)
    new = torch.randperm(len(model.vectors))
    vectors = torch.empty_like(model.vectors)
    vectors[new] = model.vectors
    model.vectors = vectors
    texts = torch.where(batch.texts >= 0, new[batch.texts.clamp(min=0)].int(), batch.texts)
    torch.testing.assert_close(model.score(batch._replace(texts=texts)), expected)
    assert not torch.allclose(model.score(batch), expected)


def test_the_table_for_training_holds_the_vectors_that_are_read(
    config: Config, batch: Batch
) -> None:
    model = build(config)
    texts_BR = batch.texts.clone()
    texts_BR[0] = -1
    expected = model.read(texts_BR, slice(None))
    assert not expected[0].any()
    model.centred = model.centred_table()
    found = model.read(texts_BR, slice(None)).float()
    torch.testing.assert_close(found, expected, atol=1e-2, rtol=1e-2)  # bf16


def test_dropped_texts_are_missing_and_only_in_training(config: Config, batch: Batch) -> None:
    nearly_all = {"scene.text_dropout": 0.9999999, "scene.dropout": 0.0, "id_dropout": 0.0}
    model = build(config, **nearly_all)
    without = batch._replace(texts=torch.full_like(batch.texts, -1))
    with torch.no_grad():
        torch.testing.assert_close(model.train().outputs(batch)[1], model.outputs(without)[1])
    assert not torch.allclose(model.score(batch), model.score(without))


def test_ple_and_larr_share_initial_parameters(config: Config) -> None:
    ple, larr = rankers.build(config, "ple"), rankers.build(config, "larr")
    shared = ple.state_dict().keys() & larr.state_dict().keys()
    assert shared == ple.state_dict().keys()
    for name in shared - {"first.linear.weight"}:
        assert torch.equal(ple.state_dict()[name], larr.state_dict()[name]), name
    narrow, wide = ple.state_dict()["first.linear.weight"], larr.state_dict()["first.linear.weight"]
    ratio = math.sqrt(narrow.shape[1] / wide.shape[1])
    torch.testing.assert_close(wide[:, : narrow.shape[1]], narrow * ratio)
    other = rankers.build(config.model_copy(update={"seed": 2}), "ple")
    assert not torch.equal(other.encoder.table.rows, ple.encoder.table.rows)


def test_each_model_reads_its_own_vectors(config: Config) -> None:
    sources = [rankers.text_vectors(config, name) for name in ("larr", *CONTROLS)]
    assert sorted(own for own, *_ in sources) == sorted(SOURCES)
    assert all(others == ([] if own == "tfidf" else ["tfidf"]) for own, *others in sources)


def test_only_the_products_read_the_vectors_of_further_sources(
    config: Config, batch: Batch
) -> None:
    model = build(config).eval()
    dimension, folder = Sizes().dimension, artifacts.folder(config, "embed")
    stored = [np.load(folder / name / "vectors.npy") for name in ("encoder", "tfidf")]
    np.testing.assert_array_equal(model.vectors.numpy(), np.hstack(stored))
    logits, e_s, _ = model.outputs(batch)
    model.vectors = model.vectors.clone()
    model.vectors[:, dimension:] *= -2
    other_logits, same_e_s, _ = model.outputs(batch)
    torch.testing.assert_close(same_e_s, e_s)
    assert not torch.allclose(other_logits, logits)


def test_centring_removes_the_common_part_of_a_keywords_texts() -> None:
    random = np.random.default_rng(1)
    slots = torch.tensor([1, 0, 1, 0, 1, 0])
    vectors = random.normal(size=(6, 3)).astype(np.float32)
    centres_RD, scales_RD = rankers.centres(torch.from_numpy(vectors), slots, 3)
    for row, texts in enumerate((vectors[1::2], vectors[::2])):
        centred = (texts - centres_RD[row].numpy()) * scales_RD[row].numpy()
        np.testing.assert_allclose(centred.mean(axis=0), 0, atol=1e-6)
        assert (centred**2).sum(axis=1).mean() == pytest.approx(1, rel=1e-5)
    assert torch.isfinite(centres_RD).all()
    assert torch.isfinite(scales_RD).all()


def test_whitened_vectors_have_equal_variance_on_all_axes() -> None:
    """Keywords with many and few texts have equal influence, although their variances differ."""
    random = np.random.default_rng(1)
    slots = torch.tensor([1] * 40 + [0] * 400)
    deviations = np.where(slots[:, None] == 1, [3.0, 1.0, 0.1], [0.2, 5.0, 0.4])
    vectors = torch.from_numpy(5 + deviations * random.normal(size=(440, 3))).float()
    axes = rankers.whitening(vectors, slots, 2)
    torch.testing.assert_close(axes, axes.T)
    centred = [rows - rows.mean(dim=0) for rows in vectors.split([40, 400])]
    variance = sum(rows.T @ rows / rows.square().sum() for rows in centred)
    white = axes @ variance @ axes
    torch.testing.assert_close(white, torch.eye(3), atol=0.1, rtol=0)


def test_alignment_reads_user_and_place_without_the_scene(config: Config, batch: Batch) -> None:
    model = build(config).eval()
    with torch.no_grad():
        categories = model.encoder(batch).categories
        expected = model.alignment(torch.cat([categories[:, 0], categories[:, 1]], dim=1))
        torch.testing.assert_close(model.target(categories), expected)


def changes(gradient: Tensor | None) -> bool:
    return gradient is not None and bool(gradient.any())


@pytest.mark.parametrize(
    ("stopped", "scene", "rows"),
    [("none", True, True), ("semantic", False, True), ("collaborative", True, False)],
)
def test_stop_gradient_excludes_one_side_from_the_alignment(
    stopped: str, scene: bool, rows: bool, config: Config, batch: Batch
) -> None:
    model = build(config, stop_gradient=stopped).train()
    model.losses(batch, none(batch), Weights(0.0, 1.0))[0].backward()
    ((_, leaf),) = model.encoder.table.touched
    assert changes(model.scene.agg.grad) == scene
    assert changes(leaf.grad) == rows
    assert changes(model.alignment.weight.grad)


def keyed(keys: list[list[int]], texts: list[list[int]]) -> Batch:
    rows = len(keys)
    empty = torch.empty(rows, 0)
    numbers = torch.tensor(texts, dtype=torch.int32)
    keys_B2 = torch.tensor(keys, dtype=torch.int32)
    return Batch(empty, empty, empty, numbers, empty, keys_B2, empty, empty)


def test_the_same_user_and_the_same_scene_are_not_negatives() -> None:
    batch = keyed(
        [[1, 7], [2, 7], [1, 8], [3, 7], [4, 9]], [[5, 6], [5, 6], [5, 6], [6, 5], [5, 6]]
    )
    pairs = {(0, 2), (0, 1)}
    for i in range(5):
        for j in range(5):
            same = i == j or (min(i, j), max(i, j)) in pairs
            assert false_negatives(batch, none(batch))[i, j] == same, (i, j)
    sampled = keyed([[1, 1], [9, 7]] * 5, [[0, 0], [5, 6]] * 5)
    expected = [[True, True], [False, True], [True, False], [False, False], [False, False]]
    assert false_negatives(batch, sampled)[:, batch.rows :].tolist() == expected


def test_the_alignment_is_that_of_equations_24_and_25(config: Config, batch: Batch) -> None:
    model = build(config, negatives=2).eval()
    batch, sampled = batch.select(torch.arange(12)), batch.select(torch.arange(12, 36))
    with torch.no_grad():
        _, e_s, categories = model.outputs(batch)
        e_t = model.target(categories)
        scene, target = (functional.normalize(side, dim=1) for side in (e_s, e_t))
        more = functional.normalize(model.target(model.outputs(sampled)[2]), dim=1)
        extra = torch.stack([more[2 * i : 2 * i + 2] @ scene[i] for i in range(12)])
        similarities = torch.cat([scene @ target.T, extra], dim=1)
        excluded = false_negatives(batch, sampled)
        expected = naive_info_nce(similarities, excluded, config.align.temperature)
        alignment = model.alignment_loss(e_s, e_t, batch, sampled)
    torch.testing.assert_close(alignment, expected, atol=1e-5, rtol=1e-5)


def test_the_alignment_is_in_full_precision(config: Config, batch: Batch) -> None:
    model = build(config, temperature=0.02)
    sides = tuple(torch.randn(2, 64, 8, generator=torch.Generator().manual_seed(1)))
    expected = model.alignment_loss(*sides, batch, none(batch))
    with torch.autocast("cpu", torch.bfloat16):
        alignment = model.alignment_loss(*sides, batch, none(batch))
    torch.testing.assert_close(alignment, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize(("name", "has_alignment"), [("larr", True), ("ple", False)])
def test_the_loss_of_equation_26_weights_both_parts(
    name: str, has_alignment: bool, config: Config, batch: Batch
) -> None:
    model = rankers.build(config, name)
    loss, click, alignment = model.losses(batch, none(batch), Weights(3.0, 0.5)).tolist()
    assert (alignment > 0) == has_alignment
    assert loss == pytest.approx(3 * click + 0.5 * alignment, rel=1e-5)
    assert model.eval().losses(batch, none(batch), Weights(1.0, 0.0))[2] == 0


def test_alignment_epochs_come_first_and_align_both_sides(tmp_path: Path) -> None:
    settings = small_align(alignment_epochs=8, epochs=1, beta_alignment=1.0)
    config = write_log(tmp_path, Sizes(rows=1_000, keywords=2, texts=40), settings)
    log = log_of(config)  # a text for each user and place:
    np.save(log.folder / "texts.npy", log.array("categories")[:, :2].astype(np.int32))
    _, curve = train(config, "larr", settings.of("larr"), log)
    assert curve[0]["alignment"] > math.log(100) - 0.7
    assert curve[-1]["alignment"] < 0.6 * curve[0]["alignment"]
    assert curve[-1]["samples"] == 9 * 1_000


def test_each_phase_warms_up(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    shares = list[float]()

    def recorded(done: float) -> float:
        shares.append(rate_at(done))
        return shares[-1]

    monkeypatch.setattr("larr.rankers.neural.rate_at", recorded)
    settings = config.align.of("larr").with_settings(
        {"alignment_epochs": 2, "epochs": 1, "batch_size": 5}
    )
    train(config, "larr", settings, log_of(config))
    joint = shares[len(shares) * 2 // 3 :]
    assert max(joint) > 0.7
    assert joint[0] < 0.1


def test_text_layers_have_a_separate_learning_rate_and_decay(config: Config) -> None:
    model = build(config, **{"scene.weight_decay": 0.3, "scene.learning_rate": 0.5})
    groups = {
        id(parameter): (group["lr"], group["weight_decay"])
        for group in model.parameter_groups()
        for parameter in group["params"]
    }
    for part in (model.scene, model.matching, model.alignment):
        assert {groups[id(parameter)] for parameter in part.parameters()} == {(0.5, 0.3)}
    for part in (model.encoder.attention, model.first, model.next, model.towers):
        expected = {(config.align.learning_rate, 0.0)}
        assert {groups[id(parameter)] for parameter in part.parameters()} == expected
    assert len(groups) == sum(parameter.requires_grad for parameter in model.parameters())
    assert model.more_optimizers()[0].param_groups[0]["lr"] == config.align.learning_rate
