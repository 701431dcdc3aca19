"""How one ranker is trained for a run: what it depends on, built and fitted on a log."""

from __future__ import annotations

from typing import Any

import torch

from larr import artifacts, rankers
from larr.artifacts import Artifact
from larr.config import Config
from larr.config.rankers import RankerConfig
from larr.data.batches import LogRows
from larr.rankers.ranker import LossCurve, Ranker


def ranker_artifact(config: Config, name: str) -> Artifact:
    """Returns the artifact of a trained ranker, `align/NAME`."""
    settings, inputs = built_from(config, name, config.align.of(name))
    return Artifact(artifacts.folder(config, "align") / name, settings, inputs)


def built_from(
    config: Config, name: str, settings: RankerConfig
) -> tuple[dict[str, Any], dict[str, str | None]]:
    """Returns all settings and inputs that a training of one ranker depends on."""
    all_settings = {
        "seed": config.seed,
        "architecture": rankers.find(config, name).__name__,
        "align": settings.model_dump(mode="json"),
    }
    inputs: dict[str, str | None] = {"prepare/": artifacts.key(artifacts.folder(config, "prepare"))}
    if source := rankers.text_vectors(config, name):
        inputs[f"embed/{source}/"] = artifacts.key(artifacts.folder(config, "embed") / source)
    return all_settings, inputs


def train(
    config: Config, name: str, settings: RankerConfig, log: LogRows
) -> tuple[Ranker, LossCurve]:
    """Returns a ranker with these settings, trained on a log, and its losses."""
    torch.set_float32_matmul_precision("medium")  # 44,400 samples/s of PLE on a core, not 27,200
    torch.manual_seed(config.seed)  # for dropout, and for P5's start
    ranker = rankers.build(config, name, settings)
    return ranker, ranker.fit(log.latest(settings.rows) if settings.rows else log, config.seed)
