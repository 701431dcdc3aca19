"""PLE, progressive layered extraction (Tang et al., RecSys'20): the base of LARR.

A level has experts of each task and shared experts, in that order. A task's gate mixes its own and
the shared experts; the shared gate mixes ALL of them, and the last level has none.

Shapes: see `larr.rankers.layers`; N experts of a level, H units of an expert's first layer, O of
its last, G gates of a level (the tasks', then the shared one).
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from larr.config.rankers import AlignConfig
from larr.data.batches import Batch
from larr.rankers.layers import (
    FeatureEmbedding,
    Inputs,
    Network,
    Parallel,
    Scores,
    Towers,
    with_product,
)


class Mixture(nn.Module):
    """The experts of a level behind their first layer, and what its gates make of them."""

    closed: Tensor

    def __init__(self, settings: AlignConfig, tasks: int, last: bool) -> None:
        super().__init__()
        owners_N = expert_owners(settings, tasks)
        gates = tasks if last else tasks + 1
        self.shape_GN = (gates, len(owners_N))
        mixes_GN = [
            [owner in (gate, tasks) or gate == tasks for owner in owners_N] for gate in range(gates)
        ]
        self.register_buffer("closed", ~torch.tensor(mixes_GN), persistent=False)
        units = settings.ple.expert_units
        self.layers = nn.ModuleList(Parallel(len(owners_N), i, o) for i, o in pairwise(units))
        self.dropout = nn.Dropout(settings.dropout)

    def forward(self, hidden_NBH: Tensor, gates_BGN: Tensor) -> Tensor:
        """Takes the first layer and the gates, both before activation; returns [G, B, O]."""
        experts_NBO = self.dropout(functional.relu(hidden_NBH))
        for layer in self.layers:
            experts_NBO = self.dropout(functional.relu(layer(experts_NBO)))
        weights_BGN = gates_BGN.masked_fill(self.closed, -torch.inf).softmax(dim=2)
        mixed_BGO: Tensor = weights_BGN.to(experts_NBO.dtype) @ experts_NBO.transpose(0, 1)
        return mixed_BGO.transpose(0, 1)


class FirstLevel(nn.Module):
    """The level where all experts and gates read the same input: one product for all of them."""

    def __init__(self, settings: AlignConfig, tasks: int, inputs: int) -> None:
        super().__init__()
        self.mixture = Mixture(settings, tasks, last=settings.ple.levels == 1)
        self.gates, self.experts = self.mixture.shape_GN
        self.sizes = [self.experts * settings.ple.expert_units[0], self.gates * self.experts]
        self.linear = nn.Linear(inputs, sum(self.sizes))

    def forward(self, x_BD: Tensor) -> Tensor:
        """Returns the input of each task and the shared one of the next level, [G, B, O]."""
        return self.mixed(self.linear(x_BD))

    def mixed(self, products_BH: Tensor) -> Tensor:
        """The same from the products of the input with all first layers and gates."""
        hidden, gates = products_BH.split(self.sizes, dim=1)
        hidden_NBH = hidden.unflatten(1, (self.experts, -1)).transpose(0, 1)
        mixed_GBO: Tensor = self.mixture(hidden_NBH, gates.unflatten(1, (self.gates, -1)))
        return mixed_GBO


class NextLevel(nn.Module):
    """A level whose experts and gates read what the gates of the level before have mixed."""

    owners: Tensor

    def __init__(self, settings: AlignConfig, tasks: int, last: bool) -> None:
        super().__init__()
        self.mixture = Mixture(settings, tasks, last)
        gates, experts = self.mixture.shape_GN
        inputs, units = settings.ple.expert_units[-1], settings.ple.expert_units[0]
        owners_N = torch.tensor(expert_owners(settings, tasks))
        self.register_buffer("owners", owners_N, persistent=False)
        self.experts = Parallel(experts, inputs, units)
        self.gates = Parallel(gates, inputs, experts)

    def forward(self, x_GBI: Tensor) -> Tensor:
        """Maps the inputs of the tasks and the shared one to those of the next level, [G, B, O]."""
        hidden_NBH = self.experts(x_GBI.index_select(0, self.owners))
        gates_GBN = self.gates(x_GBI[: self.gates.weight.shape[0]])
        mixed_GBO: Tensor = self.mixture(hidden_NBH, gates_GBN.transpose(0, 1))
        return mixed_GBO


class Ple(Network):
    """Features, extraction levels, a tower for each task."""

    def __init__(self, inputs: Inputs, more: int = 0) -> None:
        super().__init__()
        self.settings, tasks = inputs.settings, len(inputs.features.tasks)
        levels = self.settings.ple.levels
        self.encoder = FeatureEmbedding(inputs)
        self.first = FirstLevel(self.settings, tasks, self.encoder.width + more)
        self.next = nn.Sequential(
            *(NextLevel(self.settings, tasks, last=n == levels) for n in range(2, levels + 1))
        )
        self.towers = Towers(self.settings, tasks, self.settings.ple.expert_units[-1])

    def forward(self, batch: Batch) -> Scores:
        """Scores each row by itself."""
        return Scores(self.logits(self.encoder(batch).joined()))

    def logits(self, x_BD: Tensor) -> Tensor:
        """From the joined inputs to the logits, [B, T]."""
        return self.logits_after(self.first(x_BD))

    def logits_after(self, mixed_GBO: Tensor) -> Tensor:
        """From what the first level gives to the logits, [B, T]."""
        return with_product(self.towers(self.next(mixed_GBO)), self.settings.ctcvr)


def expert_owners(settings: AlignConfig, tasks: int) -> list[int]:
    """For each expert of a level its task's number, or the number of tasks if it is shared."""
    own = [task for task in range(tasks) for _ in range(settings.ple.task_experts)]
    return own + [tasks] * settings.ple.shared_experts
