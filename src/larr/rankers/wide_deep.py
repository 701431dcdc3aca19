"""Wide&Deep (Cheng et al., 2016) for several tasks: a linear part for each, one deep part.

Shapes: B rows of a batch, D inputs, T tasks.
"""

from __future__ import annotations

from torch import Tensor, nn

from larr.data.batches import Batch
from larr.rankers.embedding import FeatureEmbedding
from larr.rankers.layers import Towers, bottom_units, mlp, with_product
from larr.rankers.neural import EmbeddingRanker
from larr.rankers.ranker import RankerInputs


class WideDeep(EmbeddingRanker):
    """A linear model of categories and numbers plus a deep network over all inputs."""

    def __init__(self, inputs: RankerInputs) -> None:
        super().__init__(inputs)
        self.encoder = FeatureEmbedding(inputs, linear=self.tasks)
        self.numbers = nn.Linear(len(inputs.features.numbers), self.tasks)
        units = bottom_units(inputs.settings)
        self.bottom = mlp([self.encoder.width, *units], inputs.settings.dropout)
        self.towers = Towers(inputs.settings, self.tasks, units[-1])

    def forward(self, batch: Batch) -> Tensor:
        """Returns the logits, [B, T]."""
        features = self.encoder(batch)
        linear_BT = features.linear.sum(dim=1) + self.numbers(features.numbers)
        deep_BD = self.bottom(features.joined())
        logits_BT = linear_BT + self.towers(deep_BD.expand(self.tasks, -1, -1))
        return with_product(logits_BT, self.settings.ctcvr)
