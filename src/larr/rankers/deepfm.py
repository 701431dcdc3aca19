"""DeepFM (Guo et al., 2017) for several tasks: factorisation machine and deep network.

Shapes: see `larr.rankers.layers`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from larr.data.batches import Batch
from larr.rankers.layers import (
    Encoded,
    FeatureEmbedding,
    Inputs,
    Network,
    Scores,
    Towers,
    bottom_units,
    network,
    with_product,
)


class DeepFm(Network):
    """A linear model, the products of all pairs of fields, a deep network on the same embeddings.

    Fields are the categories, the recent places, and each number times a learned vector. Each
    task weighs the dimensions of the products' sum by itself; the original has one task.
    """

    def __init__(self, inputs: Inputs) -> None:
        super().__init__()
        self.settings, self.tasks = inputs.settings, len(inputs.features.tasks)
        numbers = len(inputs.features.numbers)
        self.encoder = FeatureEmbedding(inputs, wide=self.tasks)
        self.linear = nn.Linear(numbers, self.tasks)
        self.number_fields = nn.Parameter(torch.empty(numbers, inputs.settings.embedding))
        self.pairs = nn.Linear(inputs.settings.embedding, self.tasks, bias=False)
        units = bottom_units(inputs)
        self.bottom = network([self.encoder.width, *units], inputs.settings.dropout)
        self.towers = Towers(inputs.settings, self.tasks, units[-1])

    def forward(self, batch: Batch) -> Scores:
        """Scores each row by itself."""
        encoded = self.encoder(batch)
        wide_BT = encoded.wide.sum(dim=1) + self.linear(encoded.numbers)
        deep_BD = self.bottom(encoded.joined())
        deep_BT = self.towers(deep_BD.expand(self.tasks, -1, -1))
        logits_BT = wide_BT + self.pairs(self.products(encoded)) + deep_BT
        return Scores(with_product(logits_BT, self.settings.ctcvr))

    def products(self, encoded: Encoded) -> Tensor:
        """The sum of all pairs' products, as (square of the sum - sum of the squares) / 2."""
        categories_BFE, numbers_BM = encoded.categories, encoded.numbers
        total_BE = categories_BFE.sum(dim=1) + numbers_BM @ self.number_fields
        squares_BE = categories_BFE.square().sum(dim=1)
        squares_BE = squares_BE + numbers_BM.square() @ self.number_fields.square()
        if encoded.recent.shape[1]:
            total_BE = total_BE + encoded.recent
            squares_BE = squares_BE + encoded.recent.square()
        return (total_BE.square() - squares_BE) / 2
