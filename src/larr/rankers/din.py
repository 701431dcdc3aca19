"""DIN, deep interest network (Zhou et al., 2018), for several tasks.

Its target attention over the recent places is part of the embedding that all networks share, so
this is the deep network alone: what PLE's experts and gates add is seen against it.

Shapes: B rows of a batch, D inputs, T tasks.
"""

from __future__ import annotations

from torch import Tensor

from larr.data.batches import Batch
from larr.rankers.embedding import FeatureEmbedding
from larr.rankers.layers import Towers, bottom_units, mlp, with_product
from larr.rankers.neural import EmbeddingRanker
from larr.rankers.ranker import RankerInputs


class Din(EmbeddingRanker):
    """A deep network over all inputs, a tower for each task."""

    def __init__(self, inputs: RankerInputs) -> None:
        super().__init__(inputs)
        self.encoder = FeatureEmbedding(inputs)
        units = bottom_units(inputs.settings)
        self.bottom = mlp([self.encoder.width, *units], inputs.settings.dropout)
        self.towers = Towers(inputs.settings, self.tasks, units[-1])

    def forward(self, batch: Batch) -> Tensor:
        """Returns the logits, [B, T]."""
        deep_BD = self.bottom(self.encoder(batch).joined())
        logits_BT = self.towers(deep_BD.expand(self.tasks, -1, -1))
        return with_product(logits_BT, self.settings.ctcvr)
