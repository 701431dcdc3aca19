"""The parts that the ranking models share.

Shapes: B rows of a batch, F categories, M numbers, L recent places, E embedding, X wide weights,
D input width, N networks side by side, I inputs and O outputs of a layer, T tasks, U table rows.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from larr.config.rankers import AlignConfig
from larr.data.batches import Batch
from larr.data.features import Features

TABLE_DEVIATION = 0.03
TOKEN_DEVIATION = 0.05
WEIGHT_GAIN = 3.0  # a layer's outputs start with the variance of its inputs
ATTENTION_UNITS = 32


@dataclass(frozen=True)
class Inputs:
    """What a ranking model is built from."""

    features: Features
    settings: AlignConfig
    vectors: Tensor = field(default_factory=lambda: torch.empty(0, 0))
    """The stored vector of each text, [V, D]; only LARR reads them. Paper: Eq. (22)."""
    centres: Tensor = field(default_factory=lambda: torch.zeros(1, 1))
    """The mean vector of each scene keyword's texts, [R, D], taken out before anything reads them.

    Texts of one keyword share most of their vector, and what they share tells nothing.
    """
    scales: Tensor = field(default_factory=lambda: torch.ones(1, 1))
    """What gives the centred vectors of each scene keyword the mean squared length 1, [R, 1]."""
    poi_slots: tuple[int, ...] = ()
    """Which of the scene keywords describe the place."""
    recent_texts: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int32))
    """The text of each place of the `poi_id` vocabulary, [V of poi_id]; -1 = none."""
    recent_slot: int | None = None
    """The scene keyword of these texts; None if recent places have no text."""


class Scores(NamedTuple):
    """What a ranking model says of a batch."""

    logits: Tensor
    """[B, T]: of a click, and of a click and an order if orders are a task."""
    aligned: tuple[Tensor, Tensor] | None = None
    """e_s and e_t of Eq. (24), both [B, A], if the model has a scene encoder."""


class Ranker(nn.Module):
    """What every entry of `larr.rankers.MODELS` is: built from `Inputs`, a batch in, scores out."""

    def forward(self, batch: Batch) -> Scores:
        """Scores each row by itself."""
        raise NotImplementedError


class Network(Ranker):
    """A ranker that learns by steps."""

    encoder: FeatureEmbedding
    towers: Towers

    def start(self, seed: int) -> None:
        """Sets every parameter from the seed."""
        initialise(self, seed)

    def start_at(self, rates_T: Tensor) -> None:
        """Sets the last biases, so that training starts at these rates."""
        self.towers.start_at(rates_T)

    def table(self) -> CategoryTable | None:
        """The embeddings that `larr.rankers.training.RowAdam` looks after."""
        return self.encoder.table

    def fill_unseen(self, log: Iterable[Batch]) -> None:
        """Gives values that the training log does not have a place among those that it has."""
        self.encoder.fill_unseen(log)


class CategoryTable(nn.Module):
    """One embedding table for all categories, whose gradient is kept for the touched rows alone.

    In training a lookup reads the distinct rows of a batch as a small leaf tensor; it leaves their
    numbers and that tensor in `touched` for `larr.rankers.training.RowAdam`. The table itself has
    no gradient.
    """

    def __init__(self, rows: int, width: int) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.empty(rows, width), requires_grad=False)
        self.touched: list[tuple[Tensor, Tensor]] = []

    def forward(self, rows: Tensor) -> Tensor:
        """Looks up row numbers of any shape; the table's width becomes the last dimension."""
        if not (self.training and torch.is_grad_enabled()):
            return functional.embedding(rows, self.rows)
        rows_U, position = rows.unique(return_inverse=True)
        rows_U = rows_U.long()
        leaf_UE = self.rows.index_select(0, rows_U).requires_grad_()
        self.touched = [(rows_U, leaf_UE)]
        return functional.embedding(position, leaf_UE)


class Parallel(nn.Module):
    """N linear layers side by side, as one batched product."""

    def __init__(self, networks: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(networks, outputs, inputs))
        self.bias = nn.Parameter(torch.empty(networks, 1, outputs))

    def forward(self, x_NBI: Tensor) -> Tensor:
        """Maps [N, B, I] to [N, B, O]."""
        return torch.baddbmm(self.bias, x_NBI, self.weight.mT)


class Towers(nn.Module):
    """A small network for each task, from its own input to its logit."""

    def __init__(self, settings: AlignConfig, tasks: int, inputs: int) -> None:
        super().__init__()
        sizes = [inputs, *settings.ple.tower_units, 1]
        self.layers = nn.ModuleList(Parallel(tasks, i, o) for i, o in pairwise(sizes))
        self.dropout = nn.Dropout(settings.dropout)

    def forward(self, x_TBI: Tensor) -> Tensor:
        """Returns logits, [B, T]."""
        for layer in self.layers[:-1]:
            x_TBI = self.dropout(functional.relu(layer(x_TBI)))
        logits_TB: Tensor = self.layers[-1](x_TBI).squeeze(2).float()
        return logits_TB.T

    def start_at(self, rates_T: Tensor) -> None:
        """Sets the last biases, so that training starts at the base rates."""
        with torch.no_grad():
            self.layers[-1].bias.copy_(rates_T.logit(eps=1e-6)[:, None, None])  # type: ignore[operator]


class TargetAttention(nn.Module):
    """The recent places, each weighted by how it goes with the candidate (DIN).

    The weights are no softmax, as in DIN: padding has the weight zero, and a user without recent
    places the zero vector.
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


class Encoded(NamedTuple):
    """The ordinary features of a batch as numbers."""

    categories: Tensor
    """[B, F, E]"""
    recent: Tensor
    """[B, E]; [B, 0] if the features have no recent places."""
    numbers: Tensor
    """[B, M]"""
    wide: Tensor
    """[B, F, X]: what the linear part of a model adds for each category."""

    def joined(self) -> Tensor:
        """All but the wide weights side by side, [B, D]."""
        return torch.cat([self.categories.flatten(1), self.recent, self.numbers], dim=1)


class FeatureEmbedding(nn.Module):
    """Looks up the categories and the recent places; the same inputs for every model."""

    shifts: Tensor
    seen: Tensor

    def __init__(self, inputs: Inputs, wide: int = 0) -> None:
        super().__init__()
        features, self.embedding = inputs.features, inputs.settings.embedding
        self.counts = [len(features.categories), features.recent]
        sizes = torch.tensor([category.size for category in features.categories])
        offsets = sizes.cumsum(0) - sizes
        names = [category.name for category in features.categories]
        seen = [name not in inputs.settings.hidden for name in names]
        self.register_buffer("seen", torch.tensor(seen, dtype=torch.int32), persistent=False)
        self.place = names.index("poi_id") if features.recent else 0
        recent_offsets = offsets[self.place].expand(features.recent)
        shifts = torch.cat([offsets, recent_offsets]).int()
        self.register_buffer("shifts", shifts, persistent=False)
        self.table = CategoryTable(int(sizes.sum()), self.embedding + wide)
        if features.recent:
            self.attention = TargetAttention(self.embedding)
        attended = self.embedding if features.recent else 0
        self.width = len(names) * self.embedding + attended + len(features.numbers)

    def forward(self, batch: Batch) -> Encoded:
        """Looks up everything at once, so that each distinct row is read once.

        A hidden category has the unknown value in every row.
        """
        numbers = torch.cat([batch.categories * self.seen, batch.recent], dim=1) + self.shifts
        rows = self.table(numbers)
        wide = rows.shape[2] - self.embedding
        embeddings, weights = rows.split([self.embedding, wide], dim=2)
        categories_BFE, recent_BLE = embeddings.split(self.counts, dim=1)
        recent_BE = categories_BFE.new_empty(batch.rows, 0)
        if self.counts[1]:
            candidate_BE = categories_BFE[:, self.place]
            recent_BE = self.attention(candidate_BE, recent_BLE, batch.recent > 0)
        return Encoded(categories_BFE, recent_BE, batch.numbers, weights[:, : self.counts[0]])

    @torch.no_grad()
    def fill_unseen(self, log: Iterable[Batch]) -> None:
        """Gives values that no row of a log has the mean vector of their category's other values.

        A new user or place, or any unknown value that training never met, would keep the random
        vector that it started with.
        """
        rows, shifts_F = self.table.rows, self.shifts[: self.counts[0]]
        met = torch.zeros(len(rows), dtype=torch.bool, device=rows.device)
        for batch in log:
            numbers_BF = batch.categories.to(rows.device) * self.seen + shifts_F
            met[numbers_BF.flatten().long()] = True
        for first, last in pairwise([*shifts_F.tolist(), len(rows)]):
            met_V = met[first:last]
            rows[first:last][~met_V] = rows[first:last][met_V].mean(dim=0)


def network(sizes: list[int], dropout: float) -> nn.Sequential:
    """Linear layers with ReLU and dropout after each."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), nn.ReLU(), nn.Dropout(dropout)]
    return nn.Sequential(*layers)


def tower_rates(rates_T: Tensor, ctcvr: Literal["tower", "product"]) -> Tensor:
    """The rate that each tower predicts: with `product` the second is of an order given a click."""
    if ctcvr == "tower" or len(rates_T) < 2:
        return rates_T
    return torch.stack([rates_T[0], rates_T[1] / rates_T[0].clamp(min=1e-6)])


def with_product(logits_BT: Tensor, ctcvr: Literal["tower", "product"]) -> Tensor:
    """Turns the second logit into that of sigmoid(first) * sigmoid(second), if `product` is set.

    Decision 26 (ESMM). 1 / (sigmoid(a) sigmoid(b)) - 1 = exp(-a) + exp(-b) + exp(-a-b).
    """
    if ctcvr == "tower" or logits_BT.shape[1] < 2:
        return logits_BT
    click_B, order_B = logits_BT.unbind(dim=1)
    terms = torch.stack([-click_B, -order_B, -click_B - order_B])
    return torch.stack([click_B, -terms.logsumexp(dim=0)], dim=1)


def initialise(model: nn.Module, seed: int) -> None:
    """Sets every parameter from the seed and the parameter's own name.

    So two models start alike wherever they have the same parts, and a layer with more inputs
    starts, for the inputs it shares, like the narrower one up to its scale.
    """
    for name, parameter in model.named_parameters():
        kind = name.rpartition(".")[2]
        generator = torch.Generator().manual_seed(zlib.crc32(f"{seed} {name}".encode()))
        with torch.no_grad():
            if kind.endswith("bias"):
                parameter.zero_()
            elif not kind.endswith("weight"):
                deviation = TABLE_DEVIATION if kind == "rows" else TOKEN_DEVIATION
                parameter.normal_(0.0, deviation, generator=generator)
            elif parameter.ndim > 1 and parameter.numel():
                inputs, shape = parameter.shape[-1], parameter.shape[:-1]
                drawn = torch.rand(inputs, *shape, generator=generator) * 2 - 1
                parameter.copy_(drawn.movedim(0, -1) * math.sqrt(WEIGHT_GAIN / inputs))


def bottom_units(inputs: Inputs) -> list[int]:
    """Layers as wide as all the experts that one task of PLE mixes, to be a fair rival of PLE."""
    ple = inputs.settings.ple
    return [units * (ple.shared_experts + ple.task_experts) for units in ple.expert_units]
