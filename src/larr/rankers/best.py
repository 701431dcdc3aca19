"""`best`: the weighted mean of the logits of the rankers that `larr choose` selected.

Shapes: B rows of a batch, G text figures, T tasks.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from larr import artifacts
from larr.config import Config
from larr.config.rankers import BEST, VariantConfig
from larr.data.batches import Batch
from larr.errors import StaleError
from larr.rankers.ranker import Ranker

CHOICE = "choice.json"


def names_to_train(config: Config) -> list[str]:
    """Returns the rankers that `larr align` trains: `align.models`, with the members of `best`."""
    names = [member for name in config.align.models for member in weights(config, name)]
    return list(dict.fromkeys(names))


def weights(config: Config, name: str = BEST) -> dict[str, float]:
    """Returns the weight of each member of a ranker; other rankers than `best` have themselves.

    Raises StaleError if `larr choose` has not run.
    """
    if name != BEST:
        return {name: 1.0}
    return {member: settings["weight"] for member, settings in _members(config).items()}


def with_members(config: Config) -> Config:
    """Returns the configuration with the members of `best` added to its variants.

    Returns it unchanged if `align.models` does not contain `best`.
    """
    if BEST not in config.align.models:
        return config
    variants = {}
    for name, member in _members(config).items():
        if name not in config.align.models:
            settings = {key: member[key] for key in VariantConfig.model_fields}
            variants[name] = VariantConfig.model_validate(settings)
    return with_variants(config, variants)


def with_variants(config: Config, variants: Mapping[str, VariantConfig]) -> Config:
    """Returns the configuration with further variants."""
    update = {"variants": {**config.align.variants, **variants}}
    return config.model_copy(update={"align": config.align.model_copy(update=update)})


def _members(config: Config) -> dict[str, dict[str, Any]]:
    path = artifacts.folder(config, "choose") / CHOICE
    if not path.is_file():
        raise StaleError(f"{path} is missing; run `larr choose` with the same configuration")
    members: dict[str, dict[str, Any]] = artifacts.read_json(path)["members"]
    return members


class Blend:
    """The weighted mean of its members' logits.

    Averaging logits instead of probabilities gives confident members more influence.
    """

    def __init__(self, members: Mapping[str, tuple[Ranker, float]]) -> None:
        """Takes each member's ranker and weight by name; weights need not sum to 1."""
        self.members = members
        self.figures = dict(chain(*(ranker.figures.items() for ranker, _ in members.values())))

    def score(self, batch: Batch) -> Tensor:
        """Returns the logits, float32 [B, T]."""
        columns = batch.figures.split(list(self.figures.values()), dim=1)
        by_folder = dict(zip(self.figures, columns, strict=True))
        logits = []
        for ranker, weight in self.members.values():
            # each member reads only the figures of its sources, in the order of its training
            parts = [by_folder[folder] for folder in ranker.figures]
            figures_BG = torch.cat([batch.figures[:, :0], *parts], dim=1)
            logits.append(weight * ranker.score(batch._replace(figures=figures_BG)))
        return torch.stack(logits).sum(dim=0) / sum(weight for _, weight in self.members.values())
