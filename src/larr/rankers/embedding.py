"""Embeddings of the ordinary features, shared by all networks.

Shapes: B rows of a batch, F categories, M numbers (text figures among them), L recent places, E
embedding, X linear weights, D width of the concatenated inputs, U distinct table rows of a batch, V
values of a category.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
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
MEAN_DECAY, SQUARE_DECAY, EPSILON = 0.9, 0.999, 1e-8  # torch's defaults for Adam


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

    @torch.no_grad()
    def add_gradients(self, group: Group) -> None:
        """Replaces the rows of the last lookup, and their gradients, by those of all processes."""
        ((rows, looked_up),) = self.touched
        if group.size == 1 or looked_up.grad is None:
            return
        own_U, own_UE = summed_by_row(rows.flatten(), looked_up.grad.flatten(0, -2))
        gradient_NE = group.rows(own_UE)
        together_NE = torch.empty_like(gradient_NE)
        together_NE.grad = gradient_NE
        self.touched = [(group.rows(own_U), together_NE)]


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
        seen = [name not in inputs.settings.hidden for name in names]
        self.register_buffer("seen", torch.tensor(seen, dtype=torch.int32), persistent=False)
        ids = [column for column, name in enumerate(names) if name in IDS]
        self.register_buffer("ids", torch.tensor(ids, dtype=torch.int64), persistent=False)
        self.id_dropout = inputs.settings.id_dropout
        self.place = names.index("poi_id") if features.recent else 0
        recent_offsets = offsets[self.place].expand(features.recent)
        shifts = torch.cat([offsets, recent_offsets]).int()
        self.register_buffer("shifts", shifts, persistent=False)
        self.table = CategoryTable(int(sizes.sum()), self.embedding + linear)
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
            new_E = rows[first].clone() if learned else rows[first:last][occurs_V].mean(dim=0)
            rows[first:last][~occurs_V] = new_E
