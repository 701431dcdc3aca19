"""Embeddings of the ordinary features, shared by all networks, and their table.

The table is whole or divided among processes.

Shapes: B rows of a batch, F categories, M numbers (text figures among them), L recent places, E
embedding, X linear weights, D width of the concatenated inputs, V values of a category; in a table,
E width of a row, U distinct rows of a lookup, S processes, N rows of a block, or that the processes
ask of this one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from larr.data.batches import Batch
from larr.group import Group
from larr.rankers.layers import product_dtype
from larr.rankers.ranker import IDS, RankerInputs

ATTENTION_UNITS = 32
DEVIATION = 0.03
"""Standard deviation of initial embeddings."""
BLOCK_ROWS = 2**16
"""Rows of each process that are drawn or collected together."""
FEWEST_DRAWS = 16
"""A block of fewer values would be drawn in another way than the end of a whole table."""
BLOCK_VALUES = 2**16
"""Values averaged together, so that the seen ones of a category are never copied all at once."""


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


class TargetAttention(nn.Module):
    """The sum of the recent places, weighted by their match with the candidate (DIN).

    As in DIN the weights are not normalised, so that the amount of activity matters. Padding has
    weight 0, so a user without recent places gets the zero vector.
    """

    def __init__(self, embedding: int) -> None:
        super().__init__()
        self.candidate = nn.Linear(embedding, ATTENTION_UNITS)
        self.pair = nn.Linear(2 * embedding, ATTENTION_UNITS, bias=False)
        self.score = nn.Linear(ATTENTION_UNITS, 1)

    def forward(self, candidate_BE: Tensor, recent_BLE: Tensor, known_BL: Tensor) -> Tensor:
        """Returns the weighted sum of the recent places, [B, E]."""
        candidate_B1E = candidate_BE[:, None]
        pair = torch.cat([recent_BLE, recent_BLE * candidate_B1E], dim=2)
        hidden = functional.relu(self.pair(pair) + self.candidate(candidate_B1E))
        weight_BL1: Tensor = self.score(hidden) * known_BL[:, :, None]
        return (weight_BL1 * recent_BLE).sum(dim=1)


class EmbeddedFeatures(NamedTuple):
    """The embedded features of a batch."""

    categories: Tensor
    """[B, F, E]"""
    recent: Tensor
    """[B, E]; [B, 0] if the features have no recent places."""
    numbers: Tensor
    """[B, M], the text figures last."""
    linear: Tensor
    """[B, F, X]: the weight of each category's value in a linear model."""

    def joined(self, *more: Tensor) -> Tensor:
        """Concatenates all features except the linear weights, and further ones, [B, D]."""
        return torch.cat([self.categories.flatten(1), self.recent, self.numbers, *more], dim=1)


class FeatureEmbedding(nn.Module):
    """Embeds categories and recent places; every network has the same inputs."""

    shifts: Tensor
    seen: Tensor
    ids: Tensor

    def __init__(self, inputs: RankerInputs, linear: int = 0) -> None:
        super().__init__()
        features, self.embedding = inputs.features, inputs.settings.embedding
        self.counts = [len(features.categories), features.recent]
        sizes = torch.tensor([category.size for category in features.categories])
        offsets = sizes.cumsum(0) - sizes
        names = [category.name for category in features.categories]
        self.register_buffer("seen", inputs.seen, persistent=False)
        ids = [column for column, name in enumerate(names) if name in IDS]
        self.register_buffer("ids", torch.tensor(ids, dtype=torch.int64), persistent=False)
        self.id_dropout = inputs.settings.id_dropout
        self.place = names.index("poi_id") if features.recent else 0
        recent_offsets = offsets[self.place].expand(features.recent)
        shifts = torch.cat([offsets, recent_offsets]).int()
        self.register_buffer("shifts", shifts, persistent=False)
        self.table = make_table(int(sizes.sum()), self.embedding + linear, inputs.group)
        if features.recent:
            self.attention = TargetAttention(self.embedding)
        attended = self.embedding if features.recent else 0
        self.width = len(names) * self.embedding + attended + inputs.numbers

    def forward(self, batch: Batch) -> EmbeddedFeatures:
        """Returns the features of each row; a hidden category always has the unknown value.

        One lookup serves categories and recent places, so that each distinct row is read once.
        """
        categories_BF = batch.categories * self.seen
        if self.training and self.id_dropout:
            drawn_BI = torch.rand(batch.rows, len(self.ids), device=self.ids.device)
            categories_BF[:, self.ids] *= drawn_BI >= self.id_dropout
        numbers = torch.cat([categories_BF, batch.recent], dim=1) + self.shifts
        rows = self.table(numbers)
        linear = rows.shape[2] - self.embedding
        embeddings, weights = rows.split([self.embedding, linear], dim=2)
        embeddings = embeddings.to(product_dtype(embeddings))
        categories_BFE, recent_BLE = embeddings.split(self.counts, dim=1)
        recent_BE = categories_BFE.new_empty(batch.rows, 0)
        if self.counts[1]:
            candidate_BE = categories_BFE[:, self.place]
            recent_BE = self.attention(candidate_BE, recent_BLE, batch.recent > 0)
        numbers_BM = torch.cat([batch.numbers, batch.figures], dim=1).to(embeddings.dtype)
        return EmbeddedFeatures(categories_BFE, recent_BE, numbers_BM, weights[:, : self.counts[0]])

    @torch.no_grad()
    def average_unseen(self, log: Iterable[Batch]) -> None:
        """Sets the vectors of values that a log lacks to the mean of their category's other values.

        Unseen users, places and unknown values would otherwise keep their random initial vectors.
        With `id_dropout`, unseen users and places get the vector learned for the unknown value.
        """
        rows, shifts_F = self.table.rows, self.shifts[: self.counts[0]]
        occurs = torch.zeros(len(rows), dtype=torch.bool, device=rows.device)
        for batch in log:
            index_BF = batch.categories.to(rows.device) * self.seen + shifts_F
            occurs[index_BF.flatten().long()] = True
        ends = pairwise([*shifts_F.tolist(), len(rows)])
        ids = self.ids.tolist()
        for column, (first, last) in enumerate(ends):
            occurs_V = occurs[first:last]
            learned = column in ids and self.id_dropout
            new_E = rows[first].clone() if learned else mean_row(rows[first:last], occurs_V)
            rows[first:last][~occurs_V] = new_E


def mean_row(rows_VE: Tensor, chosen_V: Tensor) -> Tensor:
    """Returns the mean of the chosen rows, [E]."""
    total_E = torch.zeros_like(rows_VE[0], dtype=torch.float64)
    parts = zip(rows_VE.split(BLOCK_VALUES), chosen_V.split(BLOCK_VALUES), strict=True)
    for part_VE, chosen in parts:
        total_E += part_VE[chosen].sum(dim=0, dtype=torch.float64)
    return (total_E / chosen_V.sum()).float()
