"""The embedding table of a ranker, whole or divided among processes, and its optimizer.

Shapes: E width of a row, U distinct rows of a lookup, S processes, N rows of a lookup, of a block,
or that the processes ask of this one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from larr.group import Group

DEVIATION = 0.03
MEAN_DECAY, SQUARE_DECAY, EPSILON = 0.9, 0.999, 1e-8  # torch's defaults for Adam
BLOCK_ROWS = 2**16
"""Rows of each process that are drawn or collected together."""
FEWEST_DRAWS = 16
"""A block of fewer values would be drawn in another way than the end of a whole table."""


class CategoryTable(nn.Module):
    """One embedding table for all categories, with gradients only for the rows of the batch.

    During training a lookup stores its row numbers and its result, which collects the gradient, in
    `touched` for `LazyAdam`. The table itself has no gradient.
    """

    def __init__(self, rows: int, width: int) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.empty(rows, width), requires_grad=False)
        self.touched: list[tuple[Tensor, Tensor]] = []

    def forward(self, rows: Tensor) -> Tensor:
        """Looks up row indices of any shape; the width becomes the last dimension."""
        looked_up = functional.embedding(rows, self.rows)
        if self.training and torch.is_grad_enabled():
            self.touched = [(rows, looked_up.requires_grad_())]
        return looked_up

    def draw(self, generator: torch.Generator) -> None:
        """Draws the initial values."""
        nn.init.normal_(self.rows, 0.0, DEVIATION, generator)


class DividedTable(CategoryTable):
    """A table of which each process of a group holds every n-th row, with its Adam moments.

    In a lookup the processes ask each other for the rows of their parts of the batch; the gradients
    go back to the owners. So all processes must look up, and add gradients, equally often.
    """

    def __init__(self, count: int, width: int, group: Group) -> None:
        super().__init__(len(range(group.rank, count, group.size)), width)
        self.count, self.group = count, group
        self.asked: list[int] = []
        """The numbers of rows that this process asked of each one in the last lookup."""
        self.answered: list[int] = []
        """The numbers of rows that it sent to each."""

    def forward(self, rows: Tensor) -> Tensor:
        """Looks up row indices of the whole table, as `CategoryTable` does."""
        size, all_to_all = self.group.size, self.group.all_to_all
        most = -(-self.count // size)
        # the rows of an owner are neighbours in this order
        places_U, position = (rows.long() % size * most + rows // size).unique(return_inverse=True)
        asked_S = (places_U // most).bincount(minlength=size)
        answered_S = all_to_all(asked_S, size * [1], size * [1])
        asked, answered = asked_S.tolist(), answered_S.tolist()
        own_N = all_to_all(places_U % most, asked, answered)
        found_UE = all_to_all(self.rows.index_select(0, own_N), answered, asked)
        if self.training and torch.is_grad_enabled():
            self.asked, self.answered = asked, answered
            self.touched = [(own_N, found_UE.requires_grad_())]
        return functional.embedding(position, found_UE)

    @torch.no_grad()
    def add_gradients(self) -> None:
        """Sends the gradients of the last lookup to the owners of its rows."""
        ((own_N, found_UE),) = self.touched
        if found_UE.grad is None:
            return
        looked_up_NE = torch.empty(len(own_N), self.rows.shape[1])
        looked_up_NE.grad = self.group.all_to_all(found_UE.grad, self.asked, self.answered)
        self.touched = [(own_N, looked_up_NE)]

    @torch.no_grad()
    def draw(self, generator: torch.Generator) -> None:
        """Draws the values that the whole table would have, and keeps those of this process."""
        for first, last, own_NE in self._blocks():
            block_NE = torch.empty(last - first, self.rows.shape[1])
            own_NE.copy_(self.group.part(block_NE.normal_(0.0, DEVIATION, generator=generator)))

    @torch.no_grad()
    def whole(self) -> CategoryTable:
        """Returns the whole table in the first process, and an empty one in the others."""
        size, first_process = self.group.size, self.group.rank == 0
        table = CategoryTable(self.count if first_process else 0, self.rows.shape[1])
        for first, last, own_NE in self._blocks():
            counts = [len(range(first + rank, last, size)) for rank in range(size)]
            sent = [len(own_NE), *(size - 1) * [0]]
            received = counts if first_process else size * [0]
            received_NE = self.group.all_to_all(own_NE, sent, received)
            if first_process:
                for rank, rows_NE in enumerate(received_NE.split(counts)):
                    table.rows[first + rank : last : size] = rows_NE
        return table.eval()

    def _blocks(self) -> Iterator[tuple[int, int, Tensor]]:
        """Yields the first row of a block of the whole table, its end, and the own rows of it."""
        rank, size = self.group.rank, self.group.size
        starts = range(0, max(self.count - FEWEST_DRAWS, 1), size * BLOCK_ROWS)
        for first, last in pairwise([*starts, self.count]):
            yield first, last, self.rows[first // size :][: len(range(first + rank, last, size))]


def make_table(count: int, width: int, group: Group) -> CategoryTable:
    """Returns a table of `count` rows, which the processes of a group divide."""
    return CategoryTable(count, width) if group.size == 1 else DividedTable(count, width, group)


def summed_by_row(rows_N: Tensor, gradient_NE: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the distinct rows of a lookup in ascending order, int64 [U], and their gradients.

    Sorts row and position as one number, so that the order of each sum is fixed, then sums runs.
    """
    packed_N = (rows_N.long() << 32) | torch.arange(len(rows_N), device=rows_N.device)
    if packed_N.is_cpu:
        packed_N.numpy().sort()  # with AVX-512: 18,600 rows in 0.07 ms, torch needs 0.9
    else:
        packed_N = packed_N.sort().values
    rows_U, counts_U = (packed_N >> 32).unique_consecutive(return_counts=True)
    starts_U = counts_U.cumsum(0) - counts_U
    order_N = packed_N & 0xFFFFFFFF
    return rows_U, functional.embedding_bag(order_N, gradient_NE, starts_U, mode="sum")


class LazyAdam(torch.optim.Optimizer):
    """Adam on the table rows that a batch touches; other rows and their moments do not change.

    A dense Adam would update the complete table at each step, 250 MB for a million rows. torch's
    SparseAdam gives the same result, but has no L2.
    """

    def __init__(self, table: CategoryTable, rate: float, l2: float) -> None:
        super().__init__([table.rows], {"lr": rate})
        self.table, self.l2, self.steps = table, l2, 0
        self.mean, self.square = torch.zeros_like(table.rows), torch.zeros_like(table.rows)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # noqa: ARG002
        """Updates the rows of the table's last lookup."""
        rows, looked_up = self.table.touched.pop()
        if looked_up.grad is None:
            return
        rows_U, gradient_UE = summed_by_row(rows.flatten(), looked_up.grad.flatten(0, -2))
        values_UE = self.table.rows.index_select(0, rows_U)
        gradient_UE.add_(values_UE, alpha=self.l2)
        self.steps += 1
        mean_UE = self.mean.index_select(0, rows_U).lerp_(gradient_UE, 1 - MEAN_DECAY)
        square_UE = self.square.index_select(0, rows_U).mul_(SQUARE_DECAY)
        square_UE.addcmul_(gradient_UE, gradient_UE, value=1 - SQUARE_DECAY)
        self.mean.index_copy_(0, rows_U, mean_UE)
        self.square.index_copy_(0, rows_U, square_UE)
        # the bias correction counts all steps, not those of the row
        correction = math.sqrt(1 - SQUARE_DECAY**self.steps) / (1 - MEAN_DECAY**self.steps)
        rate = self.param_groups[0]["lr"] * correction
        values_UE.addcdiv_(mean_UE, square_UE.sqrt_().add_(EPSILON), value=-rate)
        self.table.rows.index_copy_(0, rows_U, values_UE)
