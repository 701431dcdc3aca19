"""DCN-v2, deep and cross network (Wang et al., 2021), for several tasks.

Shapes: see `larr.rankers.layers`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

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

CROSS_LAYERS = 2


class Dcn(Network):
    """Cross layers with full matrices beside a deep network, a tower for each task."""

    def __init__(self, inputs: Inputs) -> None:
        super().__init__()
        self.settings, self.tasks = inputs.settings, len(inputs.features.tasks)
        self.encoder = FeatureEmbedding(inputs)
        width, units = self.encoder.width, bottom_units(inputs)
        self.crosses = nn.ModuleList(nn.Linear(width, width) for _ in range(CROSS_LAYERS))
        self.bottom = network([width, *units], inputs.settings.dropout)
        self.towers = Towers(inputs.settings, self.tasks, width + units[-1])

    def forward(self, batch: Batch) -> Scores:
        """Scores each row by itself."""
        x_BD = self.encoder(batch).joined()
        joined_BD = torch.cat([self.crossed(x_BD), self.bottom(x_BD)], dim=1)
        logits_BT = self.towers(joined_BD.expand(self.tasks, -1, -1))
        return Scores(with_product(logits_BT, self.settings.ctcvr))

    def crossed(self, first_BD: Tensor) -> Tensor:
        """x_(l+1) = x_0 * (W x_l + b) + x_l, products of all inputs of degree l + 1, [B, D]."""
        x_BD = first_BD
        for layer in self.crosses:
            x_BD = first_BD * layer(x_BD) + x_BD
        return x_BD
