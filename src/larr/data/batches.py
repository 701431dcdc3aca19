"""The log as memory-mapped arrays, and batches of it in time order or shuffled.

Shapes: B rows of a batch, F categories, M numbers, L recent places, R scene texts, T tasks.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from larr import artifacts

BLOCK_ROWS = 2**18  # rows shuffled together: memory is bounded by them, not by the log


class Batch(NamedTuple):
    """Rows of the log, an array for each kind of input; the fields are named as their files."""

    categories: Tensor
    """int32 [B, F], 0 = unknown."""
    numbers: Tensor
    """float32 [B, M], standardised."""
    recent: Tensor
    """int32 [B, L], indices of `poi_id`, 0 = padding."""
    texts: Tensor
    """int32 [B, R], -1 = missing."""
    labels: Tensor
    """uint8 [B, T]."""
    keys: Tensor
    """int32 [B, 2], the numbers of the user and of the place."""

    @property
    def rows(self) -> int:
        """B."""
        return self.categories.shape[0]

    def to(self, device: torch.device) -> Batch:
        """The same rows on another device."""
        return Batch(*(array.to(device, non_blocking=True) for array in self))

    def select(self, index_B: Tensor) -> Batch:
        """The rows of an index, in its order."""
        return Batch(*(array.index_select(0, index_B) for array in self))


def count_rows(log: Path) -> int:
    """Rows of a log, a folder with one `.npy` file for each field of `Batch`."""
    return int(np.load(log / "labels.npy", mmap_mode="r").shape[0])


def label_rates(log: Path) -> np.ndarray:
    """The share of rows with each label, float32 [T]."""
    rates_T: np.ndarray = np.load(log / "labels.npy", mmap_mode="r").mean(axis=0, dtype=np.float64)
    return rates_T.astype(np.float32)


def write_part(log: Path, rows_N: np.ndarray, part: Path) -> None:
    """Writes a log that holds some rows of another one."""
    part.mkdir(exist_ok=True)
    for name in (*Batch._fields, "days"):
        source = np.load(log / f"{name}.npy", mmap_mode="r")
        shape = (len(rows_N), source.shape[1])
        target = artifacts.new_array(part / f"{name}.npy", source.dtype, shape)
        for start in range(0, len(rows_N), BLOCK_ROWS):
            rows_n = rows_N[start : start + BLOCK_ROWS]
            target[start : start + len(rows_n)] = source[rows_n]


def latest(log: Path, rows: int) -> np.ndarray:
    """The numbers of the rows of the latest days, as they stand in the log, [N]."""
    days_N = np.load(log / "days.npy", mmap_mode="r")[:, 0]
    numbers_N: np.ndarray = np.argsort(days_N, kind="stable")[-rows:]
    return np.sort(numbers_N)


def in_order(log: Path, size: int) -> Iterator[Batch]:
    """Yields the whole log in the order of its rows."""
    for start in range(0, count_rows(log), size):
        yield _read(log, [start], size)


def shuffled(
    log: Path, size: int, random: np.random.Generator, negatives: int = 0
) -> Iterator[tuple[Batch, Batch]]:
    """Yields the whole log once in random order, each batch with rows to be used as negatives.

    Runs of `size` rows are drawn at random from anywhere in the log into a block of about
    `BLOCK_ROWS` rows, and the block's rows are shuffled; a log of one block gets a full
    permutation. The second batch has `negatives * B` rows, drawn from the block.
    """
    starts = random.permutation(np.arange(0, count_rows(log), size))
    runs = max(1, BLOCK_ROWS // size)
    last = int(starts.argmax())
    starts[[last, -1]] = starts[[-1, last]]  # the only short run ends the last block
    for first in range(0, len(starts), runs):
        block = _read(log, starts[first : first + runs].tolist(), size)
        order_N = torch.from_numpy(random.permutation(block.rows))
        for index_B in order_N.split(size):
            drawn = random.integers(block.rows, size=negatives * len(index_B))
            yield block.select(index_B), block.select(torch.from_numpy(drawn))


def _read(log: Path, starts: list[int], size: int) -> Batch:
    """Copies runs of rows out of the mapped files, which are closed again at once."""
    arrays = []
    for name in Batch._fields:
        mapped = np.load(log / f"{name}.npy", mmap_mode="r")
        runs = [mapped[start : start + size] for start in starts]
        arrays.append(torch.from_numpy(np.concatenate(runs)))
    return Batch(*arrays)
