"""Training on all clicks and a share of the other impressions: time, AUC and calibration.

Shows why probabilities must be corrected (decision 27).
"""

from __future__ import annotations

import time

import numpy as np

from larr import artifacts, metrics
from larr.config import Config
from larr.data.batches import LogRows
from larr.data.features import read_features, undo_sampling
from larr.evaluation.findings import BASE, LARR, Json
from larr.metrics import TASKS
from larr.rankers.align import train
from larr.rankers.predict import predict_log

SHARES = (0.3, 0.1)
"""Shares of the impressions without a click to keep."""


def down_sampling(config: Config) -> Json:
    """Returns AUCs and the calibration before and after `undo_sampling`, by share and ranker."""
    artifacts.require(config, "prepare", "embed")
    log = LogRows(artifacts.folder(config, "prepare") / "train")
    results: Json = {}
    for share in SHARES:
        part = sampled(log, share, config.seed)
        rankers = {name: _trained_on(part, config, name, share) for name in (BASE, LARR)}
        results[f"{share:g}"] = {"rows": len(part), "models": rankers}
    return {"kept": results}


def sampled(log: LogRows, share: float, seed: int) -> LogRows:
    """Returns the rows with a click and a random share of the others, in log order."""
    clicked_N = log.array("labels")[:, 0] > 0
    drawn_N = np.random.default_rng(seed).random(len(clicked_N)) < share
    return log.select(np.flatnonzero(clicked_N | drawn_N))


def _trained_on(part: LogRows, config: Config, name: str, share: float) -> Json:
    """Returns the figures, on the complete test days, of a ranker trained on a part of the log."""
    data = artifacts.folder(config, "prepare")
    # 0 derives the batch size from the number of rows, as for a complete log
    settings = config.align.of(name).with_settings({"batch_size": 0})
    started = time.perf_counter()
    ranker, _ = train(config, name, settings, part)
    figures: Json = {"seconds": time.perf_counter() - started}
    test_log, features = LogRows(data / "test"), read_features(data)
    raw_NT, label_NT = predict_log(ranker, test_log), test_log.array("labels")
    corrected_NT = undo_sampling(raw_NT, share * features.sampling_rate)
    for number, label in enumerate(features.tasks):
        task, label_N = TASKS[label], label_NT[:, number]
        figures[f"{task}_auc"] = metrics.auc(label_N, corrected_NT[:, number])
        for moment, score_NT in (("as_trained", raw_NT), ("corrected", corrected_NT)):
            score_N = score_NT[:, number]
            figures[f"{task}_{moment}"] = {
                "observed_over_expected": float(label_N.sum() / score_N.sum(dtype=np.float64)),
                "log_loss": metrics.log_loss(label_N, score_N),
            }
    return figures
