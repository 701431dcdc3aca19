"""Wide&Deep (Cheng et al., 2016) for several tasks: a linear part for each, one deep part.

Shapes: see `larr.rankers.layers`.
"""

from __future__ import annotations

from torch import nn

from larr.data.batches import Batch
from larr.rankers.layers import (
    FeatureEmbedding,
    Inputs,
    Network,
    Scores,
    Towers,
    bottom_units,
    network,
    with_product,
)


class WideDeep(Network):
    """A linear model of categories and numbers plus a deep network over all inputs."""

    def __init__(self, inputs: Inputs) -> None:
        super().__init__()
        self.settings, self.tasks = inputs.settings, len(inputs.features.tasks)
        self.encoder = FeatureEmbedding(inputs, wide=self.tasks)
        self.numbers = nn.Linear(len(inputs.features.numbers), self.tasks)
        units = bottom_units(inputs)
        self.bottom = network([self.encoder.width, *units], inputs.settings.dropout)
        self.towers = Towers(inputs.settings, self.tasks, units[-1])

    def forward(self, batch: Batch) -> Scores:
        """Scores each row by itself."""
        encoded = self.encoder(batch)
        wide_BT = encoded.wide.sum(dim=1) + self.numbers(encoded.numbers)
        deep_BD = self.bottom(encoded.joined())
        logits_BT = wide_BT + self.towers(deep_BD.expand(self.tasks, -1, -1))
        return Scores(with_product(logits_BT, self.settings.ctcvr))
