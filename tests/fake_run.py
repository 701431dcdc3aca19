"""A simulated run up to `align`: rankers of known quality on a random test day."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from larr import artifacts
from larr.config import Config

STRENGTHS = {
    "wide_deep": 0.55,
    "deepfm": 0.57,
    "ple": 0.60,
    "larr": 0.66,
    "larr_random": 0.60,
    "larr_tfidf": 0.62,
    "larr_untuned": 0.61,
    "larr_shuffled": 0.595,
}
"""Ranker -> weight of the true logit in its score."""
TASKS = ("click", "order")
SLOTS = ["breakfast", "lunch", "afternoon", "dinner", "late night"]
CITIES = [f"City {number}" for number in range(1, 21)]
FIGURES = {
    "prepare": {"distinct_texts": 5210, "rejected": {"impressions": 12}},
    "pretrain": {
        "perplexity_y_before": 812.4,
        "loss": [6.7, 3.4, 2.2, 1.8, 1.6, 1.5, 1.46],
        "perplexity_y_after": 4.31,
        "train_tokens": 612_000,
    },
    "contrast": {
        "recall_at_10": {
            "untuned": {"user_to_place": 0.121, "single_keywords": {"taste to menu": None}},
            "cpt_only": {"user_to_place": 0.19, "single_keywords": {"taste to menu": 0.11}},
            "whole": {"user_to_place": 0.412, "single_keywords": {"taste to menu": 0.301}},
        },
        "loss": [{"loss": 9.0 / n, "user_place": 4.0 / n} for n in range(1, 12)],
        "kept_start": False,
    },
    "embed": {},
    "align": {},
}


def make_run(
    output: Path,
    patch: pytest.MonkeyPatch,
    seed: int = 1,
    *,
    rows: int = 6_000,
    tasks: int = 2,
    models: list[str] | None = None,
    simulated: bool = True,
    order_given_click: bool = False,
    clicks: bool = True,
) -> Config:
    """Writes the inputs of `evaluate`, and patches `predict` to return the scores."""
    config = Config.model_validate(
        {
            "seed": seed,
            "output": output,
            "align": {"models": models or list(STRENGTHS)},
            "features": {"categories": ["meal_slot", "city"]},
            "evaluate": {"slices": ["meal_slot", "city"], "bootstrap": 60},
        }
    )
    rng = np.random.default_rng(seed)
    logit_N2 = rng.normal((-2.2, -1.2), 1.0, (rows, 2))
    alone_N2 = 1 / (1 + np.exp(-logit_N2))
    truth_N2 = np.stack([alone_N2[:, 0], alone_N2.prod(axis=1)], axis=1)
    label_N2 = (rng.random((rows, 1)) < truth_N2) & clicks
    known_N2 = alone_N2 if order_given_click else truth_N2
    known = {f"probability_{TASKS[t]}": known_N2[:, t] for t in range(tasks) if simulated}
    # collecting garbage before each of the six stages would take most of the time
    patch.setattr("larr.machine.keep_freed_memory", lambda: None)
    _write_stages(config, _rows(rng, rows).with_columns(**known), label_N2[:, :tasks])
    for ranker, strength in STRENGTHS.items():
        np.save(output / f"{ranker}.npy", _scores(rng, logit_N2, strength)[:, :tasks])
    patch.setattr(
        "larr.rankers.predict.predict",
        lambda config, ranker: np.load(config.output / f"{ranker}.npy"),
    )
    return config


def read_report(output: Path) -> dict[str, Any]:
    """The content of report.json, in which NaN and infinities are errors."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    written = (output / "evaluate" / "report.json").read_text()
    content: dict[str, Any] = json.loads(written, parse_constant=refuse)
    return content


def _scores(rng: np.random.Generator, logit_N2: np.ndarray, seen: float) -> np.ndarray:
    centre_2 = logit_N2.mean(axis=0)
    noise_N2 = rng.normal(size=logit_N2.shape)
    seen_N2 = centre_2 + seen**2 * (logit_N2 - centre_2) + seen * np.sqrt(1 - seen**2) * noise_N2
    score_N2 = 1 / (1 + np.exp(-seen_N2))
    score_N2[:, 1] *= score_N2[:, 0]
    return score_N2.astype(np.float32)


def _rows(rng: np.random.Generator, rows: int) -> pl.DataFrame:
    cities = rng.choice(CITIES, rows, p=np.geomspace(1, 0.01, 20) / np.geomspace(1, 0.01, 20).sum())
    return pl.DataFrame(
        {
            "user_id": [f"u{number}" for number in rng.integers(0, max(rows // 9, 3), rows)],
            "poi_id": [f"p{number}" for number in rng.integers(0, 300, rows)],
            "meal_slot": rng.choice(SLOTS, rows, p=[0.1, 0.36, 0.11, 0.31, 0.12]),
            "city": cities,
            "poi_impressions": rng.integers(0, 600, rows),
            "user_impressions": rng.integers(0, 60, rows),
        }
    )


def _write_stages(config: Config, rows: pl.DataFrame, label_NT: np.ndarray) -> None:
    for verb, figures in FIGURES.items():
        with artifacts.building(config, verb) as work:
            work.measured(rows.height, "rows")
            work.figures |= figures
            if verb == "prepare":
                _write_data(work.folder, rows, label_NT)


def _write_data(folder: Path, rows: pl.DataFrame, label_NT: np.ndarray) -> None:
    (folder / "test").mkdir(exist_ok=True)
    tasks = TASKS[: label_NT.shape[1]]
    rows.write_parquet(folder / "test" / "rows.parquet")
    np.save(folder / "test" / "labels.npy", label_NT.astype(np.uint8))
    features = {"dataset": "fake", "tasks": tasks, "train_rows": 7 * rows.height}
    artifacts.write_json(folder / "features.json", features | {"sampling_rate": 1.0})
