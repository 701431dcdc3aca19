"""DIN, deep interest network (Zhou et al., 2018), for several tasks.

Its target attention over the recent places is part of the encoder that all rankers share, so this
is the deep network alone: what PLE's experts and gates bring is seen against it.

Shapes: see `larr.rankers.layers`.
"""

from __future__ import annotations

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


class Din(Network):
    """A deep network over all inputs, a tower for each task."""

    def __init__(self, inputs: Inputs) -> None:
        super().__init__()
        self.settings, self.tasks = inputs.settings, len(inputs.features.tasks)
        self.encoder = FeatureEmbedding(inputs)
        units = bottom_units(inputs)
        self.bottom = network([self.encoder.width, *units], inputs.settings.dropout)
        self.towers = Towers(inputs.settings, self.tasks, units[-1])

    def forward(self, batch: Batch) -> Scores:
        """Scores each row by itself."""
        deep_BD = self.bottom(self.encoder(batch).joined())
        logits_BT = self.towers(deep_BD.expand(self.tasks, -1, -1))
        return Scores(with_product(logits_BT, self.settings.ctcvr))
