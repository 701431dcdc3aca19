"""Training of networks: steps, learning rate, values missing in the log, divergence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from larr import rankers
from larr.config import Config
from larr.rankers.align import train
from larr.rankers.neural import DivergedError, rate_at, step_rows
from tests.ranking_log import Sizes, log_of, rows_of, small_align, write_log


def test_unknown_users_and_new_places_have_the_mean_embedding(tmp_path: Path) -> None:
    config = write_log(tmp_path, Sizes(rows=1_000), small_align(id_dropout=0.0))
    categories = log_of(config).array("categories").copy()
    categories[:, 0] = np.maximum(categories[:, 0], 1)  # no row has the unknown user
    categories[categories[:, 1] == 7, 1] = 8  # or the place 7
    categories[0, 2] = 0  # but one has the unknown scene
    np.save(log_of(config).folder / "categories.npy", categories)
    model, _ = train(config, "ple", config.align.of("ple"), log_of(config))
    users, places, scenes = model.encoder.table.rows.split([40, 30, 6])
    known = torch.from_numpy(np.unique(categories[:, 0])).long()
    torch.testing.assert_close(users[0], users[known].mean(dim=0))
    others = torch.tensor([number for number in range(30) if number != 7])
    torch.testing.assert_close(places[7], places[others].mean(dim=0))
    assert not torch.allclose(scenes[0], scenes[1:].mean(dim=0))


def test_a_non_finite_loss_stops_training(tmp_path: Path) -> None:
    config = write_log(tmp_path, Sizes(rows=100))
    numbers = log_of(config).array("numbers")
    np.save(log_of(config).folder / "numbers.npy", np.full_like(numbers, np.nan))
    with pytest.raises(DivergedError, match=r"ple: the loss is nan after .* expected a finite"):
        train(config, "ple", config.align.of("ple"), log_of(config))


def test_the_default_batch_size_suits_the_log(tmp_path: Path) -> None:
    logs = (10_000, 300_000, 3_000_000, 1_000_000_000)
    assert [step_rows(rows) for rows in logs] == [60, 200, 2_000, 2_400]
    config = write_log(tmp_path, Sizes(rows=600), small_align(batch_size=0, epochs=1))
    _, curve = train(config, "ple", config.align.of("ple"), log_of(config))
    assert [point["samples"] for point in curve] == list(range(60, 601, 60))


def test_the_learning_rate_rises_for_a_twentieth_and_falls_to_zero() -> None:
    shares = [rate_at(done) for done in (0.0, 0.025, 0.05, 0.5, 1.0)]
    assert shares == pytest.approx([0.01, 0.51 * 0.975, 0.95, 0.5, 0.0])


@pytest.mark.parametrize("ctcvr", ["tower", "product"])
def test_click_and_order_is_learned_with_both_settings(ctcvr: str, tmp_path: Path) -> None:
    config = write_log(tmp_path, Sizes(rows=1_500), small_align(ctcvr=ctcvr, batch_size=50))
    model, _ = train(config, "ple", config.align.of("ple"), log_of(config))
    batch = rows_of(config, "train")
    logits = model.score(batch)
    assert roc_auc_score(batch.labels[:, 1], logits[:, 1]) > 0.78
    expected = batch.labels[:, 1].float().mean().item()
    assert logits.sigmoid()[:, 1].mean().item() == pytest.approx(expected, rel=0.25)


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Config:
    sizes = Sizes(rows=50, test_rows=50)
    return write_log(tmp_path_factory.mktemp("product"), sizes, small_align(ctcvr="product"))


@pytest.mark.parametrize("name", ["wide_deep", "deepfm", "dcn", "din", "p5", "ple", "larr"])
def test_with_the_product_orders_are_never_more_likely_than_clicks(
    name: str, product: Config
) -> None:
    logits = rankers.build(product, name).score(rows_of(product, "train"))
    assert (logits[:, 1] < logits[:, 0]).all()
