"""A training log that keeps all clicks and only a share of the other impressions.

What it saves, what it costs, and why its probabilities must be corrected (decision 27).
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from larr import artifacts, metrics
from larr.config import Config
from larr.data.batches import LogRows
from larr.data.features import read_features
from larr.evaluation.findings import BASE, LARR
from larr.metrics import TASKS
from larr.rankers.predict import predict_log, undo_sampling
from larr.rankers.training import train

KEPT = (0.3, 0.1)
"""Shares of the impressions without a click."""
Json = dict[str, Any]


def down_sampling(config: Config) -> Json:
    """For each share: AUCs, and the calibration before and after `undo_sampling`, by model."""
    artifacts.require(config, "prepare", "embed")
    data = artifacts.folder(config, "prepare")
    told: Json = {}
    for kept in KEPT:
        part = sampled(LogRows(data / "train"), kept, config.seed)
        models = {name: _judged(config, name, part, kept) for name in (BASE, LARR)}
        told[f"{kept:g}"] = {"rows": len(part), "models": models}
    return {"kept": told}


def sampled(log: LogRows, kept: float, seed: int) -> LogRows:
    """Returns the rows with a click and a random share of the others, in the order of the log."""
    clicked_N = log.array("labels")[:, 0] > 0
    drawn_N = np.random.default_rng(seed).random(len(clicked_N)) < kept
    return log.select(np.flatnonzero(clicked_N | drawn_N))


def _judged(config: Config, name: str, part: LogRows, kept: float) -> Json:
    data = artifacts.folder(config, "prepare")
    settings = config.align.of(name).with_settings({"batch_size": 0})
    started = time.perf_counter()
    model, _ = train(config, name, settings, part)
    told: Json = {"seconds": time.perf_counter() - started}
    test_log = LogRows(data / "test")
    raw_NT, label_NT = predict_log(model, test_log), test_log.array("labels")
    features = read_features(data)
    corrected_NT = undo_sampling(raw_NT, kept * features.sampling_rate)
    for number, task in enumerate(features.tasks):
        label_N = label_NT[:, number]
        told[f"{TASKS[task]}_auc"] = metrics.auc(label_N, corrected_NT[:, number])
        for moment, score_NT in (("as_trained", raw_NT), ("corrected", corrected_NT)):
            score_N = score_NT[:, number]
            told[f"{TASKS[task]}_{moment}"] = {
                "observed_over_expected": float(label_N.sum() / score_N.sum(dtype=np.float64)),
                "log_loss": metrics.log_loss(label_N, score_N),
            }
    return told
