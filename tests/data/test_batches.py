"""Batches of the mapped log: every row once, whole rows, bounded memory."""

from pathlib import Path

import numpy as np
import pytest
import torch

from larr.data import batches
from larr.data.batches import Batch
from larr.data.features import read_features
from tests.ranking_log import Sizes, write_log

ROWS = 1_050


@pytest.fixture
def log(tmp_path: Path) -> Path:
    write_log(tmp_path, Sizes(rows=ROWS))
    numbered = np.repeat(np.arange(ROWS, dtype=np.int32)[:, None], 2, axis=1)
    np.save(tmp_path / "prepare" / "train" / "keys.npy", numbered)
    return tmp_path / "prepare" / "train"


def numbers(parts: list[Batch]) -> np.ndarray:
    return np.concatenate([part.keys[:, 0].numpy() for part in parts])


def test_in_order_yields_the_log_as_it_lies(log: Path) -> None:
    parts = list(batches.in_order(log, 200))
    assert [part.rows for part in parts] == [200] * 5 + [50]
    for position, name in enumerate(Batch._fields):
        whole = np.concatenate([part[position].numpy() for part in parts])
        np.testing.assert_array_equal(whole, np.load(log / f"{name}.npy"))


@pytest.mark.parametrize("block", [2**18, 300, 10])
def test_shuffled_yields_each_row_once_and_whole(
    log: Path, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "BLOCK_ROWS", block)
    parts = [batch for batch, _ in batches.shuffled(log, 100, np.random.default_rng(1))]
    order = numbers(parts)
    assert [part.rows for part in parts] == [100] * 10 + [50]
    np.testing.assert_array_equal(np.sort(order), np.arange(ROWS))
    for position, name in enumerate(Batch._fields):
        whole = np.concatenate([part[position].numpy() for part in parts])
        np.testing.assert_array_equal(whole, np.load(log / f"{name}.npy")[order])


def test_shuffled_mixes_the_whole_log_and_follows_its_seed(log: Path) -> None:
    def order(seed: int) -> np.ndarray:
        random = np.random.default_rng(seed)
        return numbers([batch for batch, _ in batches.shuffled(log, 100, random)])

    np.testing.assert_array_equal(order(1), order(1))
    assert (order(1) != order(2)).mean() > 0.9
    assert np.ptp(order(1)[:100]) > 0.9 * ROWS


def test_shuffled_never_holds_more_than_a_block(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "BLOCK_ROWS", 300)
    held, read = [], batches._read

    def spy(folder: Path, starts: list[int], size: int) -> Batch:
        block = read(folder, starts, size)
        held.append(block.rows)
        return block

    monkeypatch.setattr(batches, "_read", spy)
    for _ in batches.shuffled(log, 100, np.random.default_rng(1)):
        pass
    assert held == [300, 300, 300, 150]


def test_sampled_negatives_are_rows_of_the_log(log: Path) -> None:
    random = np.random.default_rng(1)
    for batch, sampled in batches.shuffled(log, 100, random, negatives=3):
        assert sampled.rows == 3 * batch.rows
        expected = np.load(log / "categories.npy")[sampled.keys[:, 0].numpy()]
        np.testing.assert_array_equal(sampled.categories.numpy(), expected)


def test_a_log_without_recent_places_and_texts_can_be_read(tmp_path: Path) -> None:
    write_log(tmp_path, Sizes(rows=50, recent=0, keywords=0, numbers=0))
    (batch,) = batches.in_order(tmp_path / "prepare" / "train", 100)
    assert batch.recent.shape == (50, 0)
    assert batch.texts.shape == (50, 0)
    assert batch.select(torch.tensor([3, 1])).numbers.shape == (2, 0)


def test_features_are_read_as_they_were_written(tmp_path: Path) -> None:
    config = write_log(tmp_path, Sizes(rows=50))
    features = read_features(config.output / "prepare")
    assert features.tasks == ("click", "order")
    assert [category.side for category in features.categories] == ["user", "poi", "scene"]
    labels = np.load(config.output / "prepare" / "train" / "labels.npy")
    rates = [labels[:, 0].sum() / 50, labels[:, 1].sum() / 50]
    np.testing.assert_allclose(
        batches.label_rates(config.output / "prepare" / "train"), rates, 1e-6
    )
    assert batches.count_rows(config.output / "prepare" / "train") == features.train_rows == 50
