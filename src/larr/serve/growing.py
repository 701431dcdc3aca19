"""Rows to which others are added while the first ones are read."""

from __future__ import annotations

import torch
from torch import Tensor

SPARE = 8
"""When it is full, the buffer grows by this part of its rows."""


class Growing:
    """A tensor whose first axis grows; all its rows are copied only now and then.

    What `rows` gave stays as it was: more rows come behind it.
    """

    def __init__(self, rows: Tensor) -> None:
        self._buffer, self.count = rows, len(rows)

    @property
    def rows(self) -> Tensor:
        """All rows."""
        return self._buffer[: self.count]

    def add(self, more: Tensor) -> None:
        """Puts rows behind those that are there."""
        needed = self.count + len(more)
        if needed > len(self._buffer):
            room = needed + max(needed // SPARE, 64)
            larger = torch.empty((room, *more.shape[1:]), dtype=self._buffer.dtype)
            larger[: self.count] = self.rows
            self._buffer = larger
        self._buffer[self.count : needed] = more
        self.count = needed
