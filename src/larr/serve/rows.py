"""Tensors with a row for each place or text: those stored, perhaps on the disk, and those added."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import torch
from torch import Tensor

SPARE_PART, SPARE_ROWS = 8, 64
"""When it is full, the room for added rows grows by this part of it, and by so many at least."""


class Rows:
    """Rows of several tensors, which belong together by their number.

    One thread writes rows while others read: a row is taken as it was written, of all tensors.
    """

    def __init__(self, stored: Sequence[Tensor]) -> None:
        self._writing = threading.Lock()
        self.stored, self.first_added = tuple(stored), len(stored[0])
        self._room = tuple(tensor[:0] for tensor in stored)
        self._added = 0

    def __len__(self) -> int:
        return self.first_added + self._added

    def take(self, number: Tensor) -> list[Tensor]:
        """The rows of some numbers, which may have any shape: [..., *row]."""
        flat_N = number.flatten()
        if not self._added:
            taken = [tensor.index_select(0, flat_N) for tensor in self.stored]
        else:
            new_N = flat_N >= self.first_added
            at_N = (flat_N[new_N] - self.first_added).long()
            old_N = torch.where(new_N, 0, flat_N)
            taken = [tensor.index_select(0, old_N) for tensor in self.stored]
            with self._writing:
                for tensor, more in zip(taken, self._room, strict=True):
                    tensor[new_N] = more[at_N]
        return [tensor.unflatten(0, number.shape) for tensor in taken]

    def write(self, numbers: Sequence[int], rows: Sequence[Tensor]) -> None:
        """Writes rows behind the others, or in place of such that were added before."""
        at_N = torch.tensor(numbers) - self.first_added
        held, end = self._added, max(self._added, int(at_N.max()) + 1)
        if end > len(self._room[0]):
            room = end + max(end // SPARE_PART, SPARE_ROWS)
            self._room = tuple(
                torch.cat([old[:held], old.new_empty((room - held, *old.shape[1:]))])
                for old in self._room
            )
        with self._writing:
            for room_tensor, more in zip(self._room, rows, strict=True):
                room_tensor[at_N] = more
        self._added = end
