"""Deep baselines for several tasks: DIN, Wide&Deep, DeepFM and DCN-v2.

All share the deep part and the inputs; each adds the component of its paper.

Shapes: B rows of a batch, F categories, M numbers, E embedding, D inputs, T tasks.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from larr.data.batches import Batch
from larr.rankers.embedding import EmbeddedFeatures, FeatureEmbedding
from larr.rankers.layers import Crosses, Dropout, Towers, with_product
from larr.rankers.neural import EmbeddingRanker
from larr.rankers.ranker import RankerInputs

CROSS_LAYERS = 2


class DeepRanker(EmbeddingRanker):
    """A deep network over all inputs, with a tower for each task.

    For a fair comparison its layers are as wide as all the experts that one task of PLE mixes.
    """

    def __init__(self, inputs: RankerInputs, linear: bool = False) -> None:
        """Builds the model; `linear` adds a weight for each category value and task."""
        super().__init__(inputs)
        ple, dropout = self.settings.ple, self.settings.dropout
        self.encoder = FeatureEmbedding(inputs, self.tasks if linear else 0)
        units = [units * (ple.shared_experts + ple.task_experts) for units in ple.expert_units]
        layers: list[nn.Module] = []
        for i, o in pairwise([self.encoder.width, *units]):
            layers += [nn.Linear(i, o), nn.ReLU(), Dropout(dropout)]
        self.bottom = nn.Sequential(*layers)
        self.deep_units = units[-1]
        self.towers = Towers(self.settings, self.tasks, self.deep_units)

    def forward(self, batch: Batch) -> Tensor:
        """Returns the logits, [B, T]."""
        return with_product(self.logits(self.encoder(batch)), self.settings.ctcvr)

    def logits(self, features: EmbeddedFeatures) -> Tensor:
        """Returns the logits of the towers, [B, T]."""
        deep_BD = self.bottom(features.joined())
        logits_BT: Tensor = self.towers(deep_BD.expand(self.tasks, -1, -1))
        return logits_BT


class Din(DeepRanker):
    """DIN, deep interest network (Zhou et al., 2018).

    Its target attention over recent places is part of the embedding that all networks share, so
    this class adds nothing to the deep network. Comparing PLE with it shows the effect of experts
    and gates.
    """


class WideDeep(DeepRanker):
    """Wide&Deep (Cheng et al., 2016): adds a linear model of categories and numbers."""

    def __init__(self, inputs: RankerInputs) -> None:
        super().__init__(inputs, linear=True)
        self.numbers = nn.Linear(inputs.numbers, self.tasks)

    def logits(self, features: EmbeddedFeatures) -> Tensor:
        """Returns the logits of the linear part and of the towers, [B, T]."""
        linear_BT: Tensor = features.linear.sum(dim=1) + self.numbers(features.numbers)
        return linear_BT + super().logits(features)


class DeepFm(DeepRanker):
    """DeepFM (Guo et al., 2017): adds a linear model and the products of all pairs of fields.

    Fields are the categories, the recent places, and each number times a learned vector. Each task
    has its own weights for the dimensions of the sum of products; the original has one task.
    """

    def __init__(self, inputs: RankerInputs) -> None:
        super().__init__(inputs, linear=True)
        numbers, embedding = inputs.numbers, self.settings.embedding
        self.linear = nn.Linear(numbers, self.tasks)
        self.number_fields = nn.Parameter(torch.empty(numbers, embedding))
        self.pairs = nn.Linear(embedding, self.tasks, bias=False)

    def logits(self, features: EmbeddedFeatures) -> Tensor:
        """Returns the logits of the linear part, of the pairs and of the towers, [B, T]."""
        linear_BT: Tensor = features.linear.sum(dim=1) + self.linear(features.numbers)
        deep_BT = super().logits(features)
        pairs_BT: Tensor = self.pairs(self.products(features))
        return linear_BT + pairs_BT + deep_BT

    def products(self, features: EmbeddedFeatures) -> Tensor:
        """Returns the sum of the products of all pairs, [B, E].

        Computed in linear time as (square of the sum - sum of the squares) / 2.
        """
        # float32, because the two squares nearly cancel
        categories_BFE, numbers_BM = features.categories.float(), features.numbers.float()
        total_BE = categories_BFE.sum(dim=1) + numbers_BM @ self.number_fields
        squares_BE = categories_BFE.square().sum(dim=1)
        squares_BE = squares_BE + numbers_BM.square() @ self.number_fields.square()
        if features.recent.shape[1]:
            recent_BE = features.recent.float()
            total_BE = total_BE + recent_BE
            squares_BE = squares_BE + recent_BE.square()
        return (total_BE.square() - squares_BE) / 2


class Dcn(DeepRanker):
    """DCN-v2 (Wang et al., 2021): cross layers beside the deep network."""

    def __init__(self, inputs: RankerInputs) -> None:
        super().__init__(inputs)
        width = self.encoder.width
        self.crosses = Crosses(width, CROSS_LAYERS)
        self.towers = Towers(self.settings, self.tasks, width + self.deep_units)

    def logits(self, features: EmbeddedFeatures) -> Tensor:
        """Returns the logits of the towers over both networks, [B, T]."""
        x_BD = features.joined()
        joined_BD = torch.cat([self.crosses(x_BD), self.bottom(x_BD)], dim=1)
        logits_BT: Tensor = self.towers(joined_BD.expand(self.tasks, -1, -1))
        return logits_BT
