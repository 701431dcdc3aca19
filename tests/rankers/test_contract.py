"""One contract for all rankers, including those of other packages, on logs with known truth."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss, roc_auc_score
from torch import Tensor

from larr import rankers
from larr.config import Config
from larr.config.rankers import RankerConfig
from larr.data.batches import Batch
from larr.plugins import with_plugins
from larr.rankers.align import train
from larr.rankers.graph import graph_inputs
from larr.rankers.ranker import LossCurve, Ranker
from larr.serve.forms import Graph
from tests.ranking_log import Sizes, log_of, rows_of, small_align, write_log

SETTINGS = small_align(batch_size=50, epochs=2, learning_rate=2e-2)
PLANTED, SMALL = Sizes(rows=1_500), Sizes(rows=200, test_rows=50)
OTHER_LOGS = {
    "without numbers, recent places and orders": Sizes(100, numbers=0, recent=0, tasks=("click",)),
    "with users and places alone": Sizes(100, categories=(40, 30)),
}


def fit(config: Config, name: str, **settings: object) -> tuple[Ranker, LossCurve]:
    changed = config.align.of(name).with_settings(settings)
    return train(config, name, changed, log_of(config))


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Config:
    return write_log(tmp_path_factory.mktemp("planted"), PLANTED, SETTINGS)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Config:
    return write_log(tmp_path_factory.mktemp("small"), SMALL, SETTINGS)


@pytest.fixture(scope="module", params=OTHER_LOGS)
def other(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Config:
    return write_log(tmp_path_factory.mktemp("other"), OTHER_LOGS[request.param], SETTINGS)


@pytest.fixture(scope="module", params=with_plugins(rankers.RANKERS, "rankers"))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def trained(planted: Config, name: str) -> tuple[Ranker, LossCurve]:
    return fit(planted, name)


@pytest.fixture(scope="module")
def fitted(trained: tuple[Ranker, LossCurve]) -> Ranker:
    return trained[0]


@pytest.fixture(scope="module")
def batch(planted: Config) -> Batch:
    return rows_of(planted, "test")


@pytest.fixture(scope="module")
def logits(fitted: Ranker, batch: Batch) -> Tensor:
    return fitted.score(batch)


def test_it_learns_the_planted_effects(logits: Tensor, batch: Batch) -> None:
    assert logits.shape == batch.labels.shape
    assert logits.dtype == torch.float32
    for task, (least, labels) in enumerate(zip((0.75, 0.68), batch.labels.T.numpy(), strict=True)):
        assert roc_auc_score(labels, logits[:, task]) > least
        constant = np.full(len(labels), labels.mean())
        assert log_loss(labels, logits[:, task].sigmoid()) < log_loss(labels, constant)


def test_rows_without_weight_are_not_learned(name: str, batch: Batch, tmp_path: Path) -> None:
    """Half of the rows have wrong labels and no weight."""
    config = write_log(tmp_path, PLANTED, SETTINGS)
    folder = config.output / "prepare" / "train"
    labels, weights = np.load(folder / "labels.npy"), np.full((PLANTED.rows, 1), 2, np.float32)
    labels[::2], weights[::2] = 1 - labels[::2], 0
    np.save(folder / "labels.npy", labels)
    np.save(folder / "weights.npy", weights)
    logits_BT = fit(config, name, epochs=6)[0].score(batch)
    assert roc_auc_score(batch.labels[:, 0], logits_BT[:, 0]) > 0.65


def test_rows_are_scored_independently(fitted: Ranker, logits: Tensor, batch: Batch) -> None:
    order = torch.randperm(batch.rows)[: batch.rows // 2]
    half = fitted.score(batch.select(order))
    torch.testing.assert_close(half, logits[order], atol=1e-5, rtol=1e-5)
    one = fitted.score(batch.select(torch.tensor([5])))
    torch.testing.assert_close(one, logits[5:6], atol=1e-5, rtol=1e-5)


def test_unknown_values_have_a_score(fitted: Ranker, batch: Batch) -> None:
    unknown = batch._replace(
        categories=torch.zeros_like(batch.categories),
        recent=torch.zeros_like(batch.recent),
        texts=torch.full_like(batch.texts, -1),
    )
    assert fitted.score(unknown).isfinite().all()


def test_saved_and_loaded_it_gives_the_same_scores(
    planted: Config, name: str, fitted: Ranker, logits: Tensor, batch: Batch, tmp_path: Path
) -> None:
    fitted.save(tmp_path / "model.safetensors")
    loaded = rankers.build(planted, name)
    loaded.load(tmp_path / "model.safetensors")
    assert torch.equal(loaded.score(batch), logits)


@pytest.mark.slow
def test_its_graph_gives_the_same_logits(
    name: str, fitted: Ranker, logits: Tensor, batch: Batch, tmp_path: Path
) -> None:
    if name == "p5":
        pytest.skip("torch cannot export the T5 of transformers for any number of rows")
    fitted.write_graph(tmp_path / "ranker.onnx", batch.select(torch.arange(2)))
    inputs = graph_inputs(batch) | {"vectors": getattr(fitted, "vectors", torch.zeros(0)).numpy()}
    actual = Graph(tmp_path / "ranker.onnx")(inputs)["logits"]
    np.testing.assert_allclose(actual, logits.numpy(), rtol=0, atol=1e-5)


def test_the_same_seed_gives_the_same_bytes(small: Config, name: str, tmp_path: Path) -> None:
    for path in (tmp_path / "first", tmp_path / "second"):
        fit(small, name)[0].save(path)
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()


def test_a_hidden_category_has_no_effect(small: Config, name: str) -> None:
    (ranker, _), batch = fit(small, name, hidden=["user_id"]), rows_of(small, "test")
    users = batch.categories.clone()
    users[:, 0] = 1 + users[:, 0] % 2
    assert torch.equal(ranker.score(batch._replace(categories=users)), ranker.score(batch))


def test_text_figures_are_read(planted: Config, name: str) -> None:
    ranker, _ = fit(planted, name, figures=["tfidf", "random"])
    log = log_of(planted, "test").with_figures(ranker.figures)
    (batch,) = log.in_order(len(log))
    assert batch.figures.shape == (len(log), 4)
    without = batch._replace(figures=torch.zeros(len(log), 4))
    score_with, score_without = (ranker.score(rows)[:, 0] for rows in (batch, without))
    clicks = batch.labels[:, 0]
    assert roc_auc_score(clicks, score_with) > roc_auc_score(clicks, score_without)


def test_other_logs_work(other: Config, name: str) -> None:
    batch = rows_of(other, "test")
    logits = fit(other, name)[0].score(batch)
    assert logits.shape == batch.labels.shape
    assert logits.isfinite().all()


def test_its_losses_fall(trained: tuple[Ranker, LossCurve]) -> None:
    curve = trained[1]
    half = len(curve) // 2
    losses = [point["loss"] for point in curve]
    assert np.mean(losses[half:]) < np.mean(losses[:half])
    samples = [point["samples"] for point in curve]
    assert samples == sorted(samples)
    assert samples[-1] % PLANTED.rows == 0


def test_its_search_space_contains_valid_settings(small: Config, name: str) -> None:
    space = rankers.find(small, name).search_space
    assert space
    for path, values in space.items():
        assert values.low < values.high
        assert values.low > 0 or not values.log
        for value in (values.low, values.high):
            RankerConfig().with_settings({path: value})
