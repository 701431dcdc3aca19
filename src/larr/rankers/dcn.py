"""DCN-v2, deep and cross network (Wang et al., 2021), for several tasks.

Shapes: B rows of a batch, D inputs, T tasks.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from larr.data.batches import Batch
from larr.rankers.embedding import FeatureEmbedding
from larr.rankers.layers import Towers, bottom_units, mlp, with_product
from larr.rankers.neural import EmbeddingRanker
from larr.rankers.ranker import RankerInputs

CROSS_LAYERS = 2


class Dcn(EmbeddingRanker):
    """Cross layers with full matrices beside a deep network, a tower for each task."""

    def __init__(self, inputs: RankerInputs) -> None:
        super().__init__(inputs)
        self.encoder = FeatureEmbedding(inputs)
        width, units = self.encoder.width, bottom_units(inputs.settings)
        self.crosses = nn.ModuleList(nn.Linear(width, width) for _ in range(CROSS_LAYERS))
        self.bottom = mlp([width, *units], inputs.settings.dropout)
        self.towers = Towers(inputs.settings, self.tasks, width + units[-1])

    def forward(self, batch: Batch) -> Tensor:
        """Returns the logits, [B, T]."""
        x_BD = self.encoder(batch).joined()
        joined_BD = torch.cat([self.crossed(x_BD), self.bottom(x_BD)], dim=1)
        logits_BT = self.towers(joined_BD.expand(self.tasks, -1, -1))
        return with_product(logits_BT, self.settings.ctcvr)

    def crossed(self, first_BD: Tensor) -> Tensor:
        """Returns the last x_(l+1) = x_0 * (W x_l + b) + x_l: products of l + 2 inputs, [B, D]."""
        x_BD = first_BD
        for layer in self.crosses:
            x_BD = first_BD * layer(x_BD) + x_BD
        return x_BD
