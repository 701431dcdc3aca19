"""Several rankers as one: the weighted mean of their logits.

Shapes: B rows of a batch, G text figures, T tasks.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
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
        read = (ranker.figures.items() for ranker, _ in self.members.values())
        self.figures = dict(chain(*read))

    def fit(self, log: LogRows, seed: int) -> LossCurve:
        """Trains each member; returns the losses of the first."""
        members = [ranker for ranker, _ in self.members.values()]
        curves = [ranker.fit(log.with_figures(ranker.figures), seed) for ranker in members]
        return curves[0]

    def score(self, batch: Batch) -> Tensor:
        """Returns the logits, float32 [B, T]."""
        columns = batch.figures.split(list(self.figures.values()), dim=1)
        by_folder = dict(zip(self.figures, columns, strict=True))
        logits = []
        for ranker, weight in self.members.values():
            parts = [by_folder[folder] for folder in ranker.figures]
            figures_BG = torch.cat([batch.figures[:, :0], *parts], dim=1)
            logits.append(weight * ranker.score(batch._replace(figures=figures_BG)))
        return torch.stack(logits).sum(dim=0) / sum(weight for _, weight in self.members.values())

    def save(self, path: Path) -> None:
        """Writes each member into a file of its own, beside `path` and named NAME.FILE."""
        for name, (ranker, _) in self.members.items():
            ranker.save(path.with_name(f"{name}.{path.name}"))

    def load(self, path: Path) -> None:
        """Reads the members."""
        for name, (ranker, _) in self.members.items():
            ranker.load(path.with_name(f"{name}.{path.name}"))


def members_of(name: str, ranker: Ranker) -> dict[str, tuple[Ranker, float]]:
    """Returns the members of a blend, and of another ranker of this name itself."""
    return ranker.members if isinstance(ranker, Blend) else {name: (ranker, 1.0)}
