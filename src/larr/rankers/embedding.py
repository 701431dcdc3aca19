"""Embeddings of the ordinary features, shared by all networks.

Shapes: B rows of a batch, F categories, M numbers (text figures among them), L recent places, E
embedding, X linear weights, D width of the concatenated inputs, V values of a category.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from larr.data.batches import Batch
from larr.rankers.layers import product_dtype
from larr.rankers.ranker import IDS, RankerInputs
from larr.rankers.tables import make_table

ATTENTION_UNITS = 32
BLOCK_VALUES = 2**16
"""Values averaged together, so that the seen ones of a category are never copied all at once."""


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
