"""PLE, progressive layered extraction (Tang et al., RecSys'20): the base of LARR.

A level has experts for each task and shared experts, in that order. A task's gate mixes its own and
the shared experts; the shared gate mixes ALL of them. The last level has no shared gate, because no
later level would read its output.

Shapes: B rows of a batch, D inputs, N experts of a level, I inputs, H units of an expert's first
layer and O of its last, G gates of a level (the tasks', then the shared one), T tasks.
"""

from __future__ import annotations

from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from larr.config.rankers import RankerConfig
from larr.data.batches import Batch
from larr.rankers.embedding import FeatureEmbedding
from larr.rankers.layers import Crosses, Dropout, Parallel, Towers, with_product
from larr.rankers.neural import EmbeddingRanker
from larr.rankers.ranker import RankerInputs


class Mixture(nn.Module):
    """The experts of a level after their first layer, and their mixtures by its gates."""

    closed: Tensor
    owners: Tensor

    def __init__(self, settings: RankerConfig, tasks: int, last: bool) -> None:
        super().__init__()
        ple = settings.ple
        owners_N = [task for task in range(tasks) for _ in range(ple.task_experts)]
        owners_N += [tasks] * ple.shared_experts  # a shared expert has the number of tasks
        gates = tasks if last else tasks + 1
        self.shape_GN = (gates, len(owners_N))
        mixes_GN = [
            [owner in (gate, tasks) or gate == tasks for owner in owners_N] for gate in range(gates)
        ]
        self.register_buffer("closed", ~torch.tensor(mixes_GN)[:, :, None], persistent=False)
        self.register_buffer("owners", torch.tensor(owners_N), persistent=False)
        networks, units = len(owners_N), ple.expert_units
        self.layers = nn.ModuleList(Parallel(networks, i, o) for i, o in pairwise(units))
        self.dropout = Dropout(settings.dropout)

    def forward(self, hidden_NBH: Tensor, gates_GNB: Tensor) -> Tensor:
        """Takes the first layer and the gates, both before activation; returns [G, B, O].

        A softmax over few numbers is fast only if they are not the last dimension.
        """
        experts_NBO = self.dropout(functional.relu(hidden_NBH))
        for layer in self.layers:
            experts_NBO = self.dropout(functional.relu(layer(experts_NBO)))
        # one product for all gates: experts outside a gate's mixture get weight exp(-inf) = 0
        weights_GNB = gates_GNB.float().masked_fill(self.closed, -torch.inf).softmax(dim=1)
        weights_BGN = weights_GNB.to(experts_NBO.dtype).permute(2, 0, 1).contiguous()
        mixed_BGO: Tensor = weights_BGN @ experts_NBO.transpose(0, 1).contiguous()
        return mixed_BGO.transpose(0, 1).contiguous()


class FirstLevel(nn.Module):
    """The first level: all experts and gates read the same input, in one matrix product.

    This product is the largest of the model. It is split once, because the backward pass of a slice
    per expert and gate would fill a gradient with zeros for each.
    """

    def __init__(self, settings: RankerConfig, tasks: int, inputs: int) -> None:
        super().__init__()
        self.mixture = Mixture(settings, tasks, last=settings.ple.levels == 1)
        self.gates, self.experts = self.mixture.shape_GN
        self.sizes = [self.experts * settings.ple.expert_units[0], self.gates * self.experts]
        self.linear = nn.Linear(inputs, sum(self.sizes))

    def forward(self, products_BH: Tensor) -> Tensor:
        """Takes `linear` of the input; returns the inputs of the next level, [G, B, O]."""
        hidden, gates = products_BH.split(self.sizes, dim=1)
        hidden_NBH = hidden.unflatten(1, (self.experts, -1)).transpose(0, 1).contiguous()
        mixed_GBO: Tensor = self.mixture(hidden_NBH, gates.T.unflatten(0, (self.gates, -1)))
        return mixed_GBO


class NextLevel(nn.Module):
    """A level whose experts and gates read the mixtures of the previous level."""

    def __init__(self, settings: RankerConfig, tasks: int, last: bool) -> None:
        super().__init__()
        self.mixture = Mixture(settings, tasks, last)
        gates, experts = self.mixture.shape_GN
        inputs, units = settings.ple.expert_units[-1], settings.ple.expert_units[0]
        self.experts = Parallel(experts, inputs, units)
        self.gates = Parallel(gates, inputs, experts)

    def forward(self, x_GBI: Tensor) -> Tensor:
        """Maps the task inputs and the shared input to those of the next level, [G, B, O]."""
        hidden_NBH = self.experts(x_GBI.index_select(0, self.mixture.owners))
        gates_GBN = self.gates(x_GBI[: self.gates.weight.shape[0]])
        mixed_GBO: Tensor = self.mixture(hidden_NBH, gates_GBN.mT)
        return mixed_GBO


class Ple(EmbeddingRanker):
    """PLE with a tower for each task, and DCN-v2's cross layers as an option."""

    alternatives: ClassVar = {"ple.cross_layers": (2,), **EmbeddingRanker.alternatives}
    foldable = True  # its first level is linear in its inputs
    crosses: Crosses

    def __init__(self, inputs: RankerInputs, more: int = 0) -> None:
        """Builds the model with `more` inputs from a subclass beside the ordinary features."""
        super().__init__(inputs)
        levels, units = self.settings.ple.levels, self.settings.ple.expert_units
        self.encoder = FeatureEmbedding(inputs)
        width, cross_layers = self.encoder.width + more, self.settings.ple.cross_layers
        self.first = FirstLevel(self.settings, self.tasks, width)
        self.next = nn.Sequential(
            *(NextLevel(self.settings, self.tasks, last=n == levels) for n in range(2, levels + 1))
        )
        self.crosses = Crosses(width, cross_layers)
        self.towers = Towers(self.settings, self.tasks, units[-1] + width * bool(cross_layers))

    def forward(self, batch: Batch) -> Tensor:
        """Returns the logits, [B, T]."""
        return self.logits(self.encoder(batch).joined())

    def logits(self, x_BD: Tensor) -> Tensor:
        """Returns the logits from the concatenated inputs, [B, T]."""
        mixed_GBO = self.next(self.first(self.first.linear(x_BD)))
        if self.crosses:
            mixed_GBO = with_crossed(mixed_GBO, self.crosses(x_BD))
        return with_product(self.towers(mixed_GBO), self.settings.ctcvr)


def with_crossed(mixed_GBO: Tensor, crossed_BD: Tensor) -> Tensor:
    """Appends the output of cross layers to the inputs of each tower, [T, B, O + D]."""
    return torch.cat([mixed_GBO, crossed_BD.expand(len(mixed_GBO), -1, -1)], dim=2)
