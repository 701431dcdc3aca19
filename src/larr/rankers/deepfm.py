"""DeepFM (Guo et al., 2017) for several tasks: factorisation machine and deep network.

Shapes: B rows of a batch, E embedding, D inputs, M numbers, F categories, T tasks.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from larr.data.batches import Batch
from larr.rankers.embedding import EmbeddedFeatures, FeatureEmbedding
from larr.rankers.layers import Towers, bottom_units, mlp, with_product
from larr.rankers.neural import EmbeddingRanker
from larr.rankers.ranker import RankerInputs


class DeepFm(EmbeddingRanker):
    """A linear model, the products of all pairs of fields, a deep network on the same embeddings.

    Fields are the categories, the recent places, and each number times a learned vector. Each
    task weighs the dimensions of the products' sum by itself; the original has one task.
    """

    def __init__(self, inputs: RankerInputs) -> None:
        super().__init__(inputs)
        settings, numbers = inputs.settings, len(inputs.features.numbers)
        self.encoder = FeatureEmbedding(inputs, linear=self.tasks)
        self.linear = nn.Linear(numbers, self.tasks)
        self.number_fields = nn.Parameter(torch.empty(numbers, settings.embedding))
        self.pairs = nn.Linear(settings.embedding, self.tasks, bias=False)
        units = bottom_units(settings)
        self.bottom = mlp([self.encoder.width, *units], settings.dropout)
        self.towers = Towers(settings, self.tasks, units[-1])

    def forward(self, batch: Batch) -> Tensor:
        """Returns the logits, [B, T]."""
        features = self.encoder(batch)
        linear_BT = features.linear.sum(dim=1) + self.linear(features.numbers)
        deep_BD = self.bottom(features.joined())
        deep_BT = self.towers(deep_BD.expand(self.tasks, -1, -1))
        logits_BT = linear_BT + self.pairs(self.products(features)) + deep_BT
        return with_product(logits_BT, self.settings.ctcvr)

    def products(self, features: EmbeddedFeatures) -> Tensor:
        """Returns the sum of all pairs' products, [B, E].

        As (square of the sum - sum of the squares) / 2, in linear instead of quadratic time.
        """
        categories_BFE, numbers_BM = features.categories, features.numbers
        total_BE = categories_BFE.sum(dim=1) + numbers_BM @ self.number_fields
        squares_BE = categories_BFE.square().sum(dim=1)
        squares_BE = squares_BE + numbers_BM.square() @ self.number_fields.square()
        if features.recent.shape[1]:
            total_BE = total_BE + features.recent
            squares_BE = squares_BE + features.recent.square()
        return (total_BE.square() - squares_BE) / 2
