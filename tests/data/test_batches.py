"""Batches of the log: every row once, in bounded memory; subsets without copies."""

from pathlib import Path

import numpy as np
import pytest
import torch

from larr.data import batches
from larr.data.batches import FILES, Batch, LogRows

ROWS = 1_050
WIDTHS = {"categories": 3, "numbers": 2, "recent": 3, "texts": 4, "labels": 2, "keys": 2}
KINDS = {"numbers": np.float32, "labels": np.uint8}


def write_arrays(folder: Path, widths: dict[str, int] = WIDTHS) -> Path:
    """Writes a log whose `keys` are the row numbers; its days go from 3 down to 0."""
    random = np.random.default_rng(0)
    for name, width in widths.items():
        values = random.integers(0, 2, (ROWS, width)).astype(KINDS.get(name, np.int32))
        np.save(folder / f"{name}.npy", values)
    np.save(folder / "keys.npy", np.repeat(np.arange(ROWS, dtype=np.int32)[:, None], 2, axis=1))
    np.save(folder / "days.npy", (3 - np.arange(ROWS, dtype=np.int32) * 4 // ROWS)[:, None])
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_arrays(tmp_path_factory.mktemp("log"))


@pytest.fixture(scope="module")
def log(folder: Path) -> LogRows:
    return LogRows(folder)


@pytest.fixture(scope="module")
def part(log: LogRows) -> LogRows:
    """Two thirds of the rows."""
    return log.select(np.flatnonzero(np.arange(ROWS) % 3))


@pytest.fixture(scope="module")
def copied(part: LogRows, tmp_path_factory: pytest.TempPathFactory) -> LogRows:
    """Returns the same rows, copied to another folder."""
    target = tmp_path_factory.mktemp("copied")
    for name in (*FILES, "days"):
        np.save(target / f"{name}.npy", part.array(name))
    return LogRows(target)


def numbers(parts: list[Batch]) -> np.ndarray:
    return np.concatenate([part.keys[:, 0].numpy() for part in parts])


def assert_same(first: Batch, second: Batch) -> None:
    for name, left, right in zip(Batch._fields, first, second, strict=True):
        assert torch.equal(left, right), name


def test_in_order_keeps_the_order_of_the_log(log: LogRows) -> None:
    parts = list(log.in_order(200))
    assert [part.rows for part in parts] == [200] * 5 + [50]
    for position, name in enumerate(FILES):
        joined = np.concatenate([part[position].numpy() for part in parts])
        np.testing.assert_array_equal(joined, np.load(log.folder / f"{name}.npy"))


@pytest.mark.parametrize("block", [2**18, 300, 10])
def test_shuffled_yields_each_row_once_and_complete(
    log: LogRows, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "BLOCK_ROWS", block)
    parts = [batch for batch, _ in log.shuffled(100, np.random.default_rng(1))]
    order = numbers(parts)
    assert [part.rows for part in parts] == [100] * 10 + [50]
    np.testing.assert_array_equal(np.sort(order), np.arange(ROWS))
    for position, name in enumerate(FILES):
        joined = np.concatenate([part[position].numpy() for part in parts])
        np.testing.assert_array_equal(joined, np.load(log.folder / f"{name}.npy")[order])


def test_shuffled_mixes_all_rows_and_follows_its_seed(log: LogRows) -> None:
    def order(seed: int) -> np.ndarray:
        return numbers([batch for batch, _ in log.shuffled(100, np.random.default_rng(seed))])

    np.testing.assert_array_equal(order(1), order(1))
    assert (order(1) != order(2)).mean() > 0.9
    assert np.ptp(order(1)[:100]) > 0.9 * ROWS


def test_shuffled_never_holds_more_than_a_block(
    log: LogRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "BLOCK_ROWS", 300)
    held, read = [], LogRows._read

    def spy(rows: LogRows, starts: list[int], size: int) -> Batch:
        block = read(rows, starts, size)
        held.append(block.rows)
        return block

    monkeypatch.setattr(LogRows, "_read", spy)
    for _ in log.shuffled(100, np.random.default_rng(1)):
        pass
    assert held == [300, 300, 300, 150]


def test_sampled_negatives_are_rows_of_the_log(log: LogRows) -> None:
    for batch, sampled in log.shuffled(100, np.random.default_rng(1), negatives=3):
        assert sampled.rows == 3 * batch.rows
        expected = np.load(log.folder / "categories.npy")[sampled.keys[:, 0].numpy()]
        np.testing.assert_array_equal(sampled.categories.numpy(), expected)


def test_a_subset_gives_the_same_batches_as_a_copy(
    part: LogRows, copied: LogRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(part) == len(copied) == ROWS * 2 // 3
    np.testing.assert_array_equal(part.label_rates(), copied.label_rates())
    for first, second in zip(part.in_order(64), copied.in_order(64), strict=True):
        assert_same(first, second)
    monkeypatch.setattr(batches, "BLOCK_ROWS", 300)
    drawn = (rows.shuffled(64, np.random.default_rng(1), negatives=2) for rows in (part, copied))
    for first_pair, second_pair in zip(*drawn, strict=True):
        for first, second in zip(first_pair, second_pair, strict=True):
            assert_same(first, second)


def test_a_subset_of_a_subset_is_a_subset_of_the_log(part: LogRows) -> None:
    rows_N = np.array([0, 5, 600])
    np.testing.assert_array_equal(part.select(rows_N).array("keys"), part.array("keys")[rows_N])


def test_the_latest_rows_are_in_the_order_of_the_log(log: LogRows, part: LogRows) -> None:
    """The days of this log decrease, so its first rows are the latest."""
    first_day = int((log.array("days") == 3).sum())
    np.testing.assert_array_equal(log.latest(first_day).array("keys")[:, 0], np.arange(first_day))
    assert (part.latest(20).array("days") == 3).all()
    assert (np.diff(part.latest(500).array("keys")[:, 0]) > 0).all()


def test_a_log_without_recent_places_and_texts_can_be_read(tmp_path: Path) -> None:
    write_arrays(tmp_path, WIDTHS | {"numbers": 0, "recent": 0, "texts": 0})
    (batch,) = LogRows(tmp_path).in_order(ROWS)
    assert batch.recent.shape == (ROWS, 0)
    assert batch.texts.shape == (ROWS, 0)
    assert batch.select(torch.tensor([3, 1])).numbers.shape == (2, 0)


def test_figures_of_two_sources_are_concatenated(part: LogRows, tmp_path: Path) -> None:
    stored = {name: np.arange(ROWS * 2, dtype=np.float32).reshape(ROWS, 2) for name in "ab"}
    stored["b"] += 1
    for name, figures in stored.items():
        (tmp_path / name).mkdir()
        np.save(tmp_path / name / f"{part.folder.name}.npy", figures)
    read = part.with_figures([tmp_path / "b", tmp_path / "a"])
    (batch,) = read.select(np.arange(100)).in_order(ROWS)
    rows = batch.keys[:, 0].numpy()
    np.testing.assert_array_equal(batch.figures, np.hstack([stored["b"], stored["a"]])[rows])
    assert [len(array) for array in read.figure_arrays()] == [len(part)] * 2
    (without,) = part.in_order(ROWS)
    assert without.figures.shape == (len(part), 0)


def test_label_rates(log: LogRows) -> None:
    labels_NT = np.load(log.folder / "labels.npy")
    np.testing.assert_allclose(log.label_rates(), labels_NT.sum(axis=0) / ROWS, 1e-6)
