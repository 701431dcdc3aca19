"""Tables of numpy arrays with a row for each place or text.

The published rows are memory-mapped .npy files: a version opens without reading them, processes
share their pages, and unused rows stay on disk. Rows added at run time are kept in memory.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from larr import artifacts

Array = npt.NDArray[Any]
Columns = dict[str, Array]
"""Arrays by name, with the same number of rows."""
GROWTH, LEAST_GROWTH = 8, 64
"""A full buffer of added rows grows by an eighth, and by at least 64 rows."""


class Table:
    """Columns of equal length; one thread may add rows while others read."""

    def __init__(self, published: Columns) -> None:
        self.published = published
        self.first_added = min((len(column) for column in published.values()), default=0)
        self._added = {name: column[:0] for name, column in published.items()}
        self._count = 0
        self._lock = threading.Lock()

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Opens the table of a folder; a missing folder gives a table without columns."""
        return cls({path.stem: open_array(path) for path in sorted(folder.glob("*.npy"))})

    def __len__(self) -> int:
        return self.first_added + self._count

    def take(self, row: Array) -> Columns:
        """Returns the columns at row indices of any shape: [*shape, *row]."""
        if not self._count:  # the common case needs no mask and no lock
            return {name: column.take(row, axis=0) for name, column in self.published.items()}
        is_added = row >= self.first_added
        published_row, added_row = np.where(is_added, 0, row), row[is_added] - self.first_added
        published = self.published.items()
        columns = {name: column.take(published_row, axis=0) for name, column in published}
        with self._lock:  # prevents reading a row while it is replaced
            for name, column in columns.items():
                column[is_added] = self._added[name][added_row]
        return columns

    def write(self, rows: Sequence[int], columns: Columns) -> None:
        """Appends rows or replaces added rows; published rows never change."""
        added_row = np.asarray(rows) - self.first_added
        end = max(self._count, int(added_row.max()) + 1)
        with self._lock:
            for name, column in columns.items():
                buffer = self._added[name]
                if end > len(buffer):
                    room = end + max(end // GROWTH, LEAST_GROWTH)
                    buffer = np.empty((room, *buffer.shape[1:]), buffer.dtype)
                    buffer[: self._count] = self._added[name][: self._count]
                    self._added[name] = buffer
                buffer[added_row] = column
            self._count = end


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
