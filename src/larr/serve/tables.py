"""Tables of numpy arrays with a row for each place or text.

The published rows are memory-mapped .npy files: a version opens without reading them, processes
share their pages, and unused rows stay on disk. Rows added at run time are kept in memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from larr import artifacts

Array = npt.NDArray[Any]
Columns = dict[str, Array]
"""Arrays by name, with the same number of rows."""


class Table:
    """Columns of equal length; one thread may add rows while others read."""

    def __init__(self, published: Columns) -> None:
        self.published = published
        self.first_added = min(map(len, published.values()), default=0)
        self._added: Columns = {}

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Opens the table of a folder; a missing folder gives a table without columns."""
        return cls({path.stem: open_array(path) for path in sorted(folder.glob("*.npy"))})

    def __len__(self) -> int:
        return self.first_added + min(map(len, self._added.values()), default=0)

    def take(self, row: Array) -> Columns:
        """Returns the columns at row indices of any shape: [*shape, *row]."""
        added = self._added  # read once, because `write` may replace it
        if not added:  # the common case needs no mask
            return {name: column.take(row, axis=0) for name, column in self.published.items()}
        is_added = row >= self.first_added
        published_row, added_row = np.where(is_added, 0, row), row[is_added] - self.first_added
        published = self.published.items()
        columns = {name: column.take(published_row, axis=0) for name, column in published}
        for name, column in columns.items():
            column[is_added] = added[name][added_row]
        return columns

    def write(self, rows: Sequence[int], columns: Columns) -> None:
        """Appends rows or replaces added rows; copies the added rows, never the published ones."""
        added_rows = [row - self.first_added for row in rows]
        # all columns in one step, so that no thread reads a half-written row
        self._added = {
            name: with_rows(self._added.get(name, column[:0]), added_rows, column)
            for name, column in columns.items()
        }


def with_rows(table: Array, rows: Sequence[int], values: Array) -> Array:
    """Returns a copy of a table with these rows replaced, padded with 0 where it grows."""
    end = max(len(table), max(rows, default=-1) + 1)
    grown = np.zeros((end, *np.maximum(table.shape[1:], values.shape[1:])), table.dtype)
    grown[tuple(map(slice, table.shape))] = table
    grown[rows] = 0
    grown[:, *map(slice, values.shape[1:])][rows] = values
    return grown


def open_array(path: Path) -> Array:
    """Memory-maps a .npy file."""
    mapped: Array = np.load(path, mmap_mode="r")
    return mapped.view(np.ndarray)  # `np.memmap` adds microseconds to each lookup


def write_table(folder: Path, parts: Iterable[Columns], rows: int) -> None:
    """Writes a table part by part, keeping only one part in memory."""
    folder.mkdir()
    files: Columns = {}
    start = 0
    for part in parts:
        for name, column in part.items():
            if name not in files:
                shape = (rows, *column.shape[1:])
                files[name] = artifacts.new_array(folder / f"{name}.npy", column.dtype, shape)
            files[name][start : start + len(column)] = column
        start += min(len(column) for column in part.values())
