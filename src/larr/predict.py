"""The probabilities that a trained ranker gives to the rows of the test days.

Shapes: N rows, T tasks.
"""

from __future__ import annotations

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from larr import artifacts, batches, models, progress
from larr.config import Config

ROWS = 4096


def predict(config: Config, model: str) -> np.ndarray:
    """Scores `data/test` in time order with `ranker/NAME`: float32 [N, T].

    Column 0 is the probability of a click, column 1 that of a click and an order (CTCVR).
    """
    data = artifacts.folder(config, "prepare")
    ranker = models.build(config, model).eval()
    weights = load_file(artifacts.folder(config, "align") / model / "model.safetensors")
    ranker.load_state_dict(weights)
    rate, parts = batches.read_features(data).sampling_rate, []
    rows = batches.count_rows(data / "test")
    with torch.inference_mode(), progress.track(f"scores of {model}", rows, "samples") as advance:
        for batch in batches.in_order(data / "test", ROWS):
            parts.append(undo_sampling(ranker(batch).logits.sigmoid(), rate).numpy())
            advance(batch.rows)
    return np.concatenate(parts)


def undo_sampling(probabilities_BT: Tensor, rate: float) -> Tensor:
    """Corrects for a training log that kept only a share `rate` of the impressions without a click.

    Decision 27: each class is weighed by how many impressions a kept one stands for.
    """
    click_B1 = probabilities_BT[:, :1]
    return probabilities_BT / (click_B1 + (1 - click_B1) / rate)
