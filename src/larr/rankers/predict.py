"""The probabilities that a trained ranker gives to the rows of the test days.

Shapes: N rows, T tasks.
"""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from larr import artifacts, progress, rankers
from larr.config import Config
from larr.data import batches
from larr.data.batches import Batch
from larr.data.features import read_features
from larr.errors import StaleError
from larr.rankers.layers import Ranker
from larr.rankers.training import ranker_artifact

ROWS = 4096
Probabilities = TypeVar("Probabilities", np.ndarray, Tensor)


def predict(config: Config, model: str) -> np.ndarray:
    """Scores `prepare/test` in the order of the log with `align/NAME`: float32 [N, T].

    Column 0 is the probability of a click, column 1 that of a click and an order (CTCVR).
    """
    data = artifacts.folder(config, "prepare")
    ranker = load_ranker(config, model)
    rate, rows = read_features(data).sampling_rate, batches.count_rows(data / "test")
    with progress.track(f"scores of {model}", rows, "samples") as advance:
        return undo_sampling(predict_log(ranker, data / "test", advance), rate)


def load_ranker(config: Config, model: str) -> Ranker:
    """A trained ranker of `align/NAME`, ready to score."""
    ranker = rankers.build(config, model)
    weights = load_file(artifacts.folder(config, "align") / model / "model.safetensors")
    ranker.load_state_dict(weights)
    return ranker.eval()


def predict_log(
    ranker: Ranker, log: Path, advance: progress.Advance = lambda _: None
) -> np.ndarray:
    """The probabilities of a log's rows in its order, float32 [N, T], before `undo_sampling`."""
    ranker, parts = ranker.eval(), []
    for batch in batches.in_order(log, ROWS):
        parts.append(probabilities(ranker, batch))
        advance(batch.rows)
    return np.concatenate(parts)


def probabilities(ranker: Ranker, batch: Batch) -> np.ndarray:
    """The probabilities of some rows, float32 [B, T], before `undo_sampling`."""
    device = next((parameter.device for parameter in ranker.parameters()), torch.device("cpu"))
    with torch.inference_mode():
        told: np.ndarray = ranker(batch.to(device)).logits.float().sigmoid().cpu().numpy()
    return told


def undo_sampling(probability_NT: Probabilities, rate: float) -> Probabilities:
    """Corrects for a training log that kept only a share `rate` of the impressions without a click.

    Decision 27: each class is weighed by how many impressions a kept one stands for.
    """
    click_N1 = probability_NT[:, :1]
    return probability_NT / (click_N1 + (1 - click_N1) / rate)


def require_ranker(config: Config, name: str) -> None:
    """Refuses to go on with a ranker that is missing, or made from anything else than it would be.

    Of the other rankers nothing is asked.
    """
    artifacts.require(config, "prepare")
    artifact = ranker_artifact(config, name)
    if reason := artifact.why_stale():
        raise StaleError(
            f"{artifact.folder}: {reason}; put {name} into align.models and run `larr run` with "
            "the same configuration"
        )
