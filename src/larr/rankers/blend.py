"""Several rankers as one: the weighted mean of their logits.

Shapes: B rows of a batch, T tasks.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from larr.data.batches import Batch, LogRows
from larr.errors import ConfigError
from larr.rankers.ranker import LossCurve, Ranker


class Blend(Ranker):
    """The weighted mean of its members' logits; the weights are given and not trained.

    Logits and not probabilities, so that a member which is sure counts for more.
    """

    def __init__(self, members: Mapping[str, tuple[Ranker, float]]) -> None:
        """Takes each member's ranker and weight by its name; weights need not add up to 1."""
        self.members = dict(members)
        weights = {name: weight for name, (_, weight) in self.members.items()}
        if not weights or min(weights.values()) <= 0:
            raise ConfigError(f"a blend needs members with weights above 0, got {weights}")

    def fit(self, log: LogRows, seed: int) -> LossCurve:
        """Trains each member; returns the losses of the first."""
        curves = [ranker.fit(log, seed) for ranker, _ in self.members.values()]
        return curves[0]

    def score(self, batch: Batch) -> Tensor:
        """Returns the logits, float32 [B, T]."""
        logits = [weight * ranker.score(batch) for ranker, weight in self.members.values()]
        return torch.stack(logits).sum(dim=0) / sum(weight for _, weight in self.members.values())

    def save(self, path: Path) -> None:
        """Writes each member into a file of its own, beside `path` and named NAME.FILE."""
        for name, (ranker, _) in self.members.items():
            ranker.save(path.with_name(f"{name}.{path.name}"))

    def load(self, path: Path) -> None:
        """Reads the members."""
        for name, (ranker, _) in self.members.items():
            ranker.load(path.with_name(f"{name}.{path.name}"))
