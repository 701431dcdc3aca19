"""A run up to `align` made of random numbers: models of known strength on a made-up test day."""

from __future__ import annotations

from pathlib import Path

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
"""How much of the true logit a model sees."""
SLOTS = ["breakfast", "lunch", "afternoon", "dinner", "late night"]
CITIES = [f"City {number}" for number in range(1, 21)]
FIGURES = {
    "prepare": {"distinct_texts": 5210, "rejected": {"impressions": 12}},
    "pretrain": {
        "perplexity": {"before": 812.4, "after": 4.31},
        "loss": [6.7, 3.4, 2.2, 1.8, 1.6, 1.5, 1.46],
    },
    "contrast": {
        "recall_at_10": {"before": 0.121, "after": 0.412},
        "single_keyword_recall_at_10": {"before": 0.087, "after": 0.301},
    },
    "embed": {},
    "align": {},
}


def make_run(
    output: Path, patch: pytest.MonkeyPatch, seed: int = 1, rows: int = 6_000, tasks: int = 2
) -> Config:
    """Everything that evaluate reads, and a `predict` that gives back the models' scores."""
    config = Config.model_validate(
        {
            "seed": seed,
            "output": output,
            "align": {"models": list(STRENGTHS)},
            "evaluate": {"slices": ["meal_slot", "city"], "bootstrap": 60},
        }
    )
    rng = np.random.default_rng(seed)
    logit_N2 = rng.normal((-2.2, -1.2), 1.0, (rows, 2))
    truth_N2 = 1 / (1 + np.exp(-logit_N2))
    truth_N2[:, 1] *= truth_N2[:, 0]
    label_N2 = rng.random((rows, 1)) < truth_N2
    _write_stages(config, _rows(rng, truth_N2), label_N2[:, :tasks])
    for model, strength in STRENGTHS.items():
        np.save(output / f"{model}.npy", _scores(rng, logit_N2, strength)[:, :tasks])
    patch.setattr("larr.predict.predict", lambda one, model: np.load(one.output / f"{model}.npy"))
    return config


def _scores(rng: np.random.Generator, logit_N2: np.ndarray, see: float) -> np.ndarray:
    centre_2 = logit_N2.mean(axis=0)
    noise_N2 = rng.normal(size=logit_N2.shape)
    seen_N2 = centre_2 + see**2 * (logit_N2 - centre_2) + see * np.sqrt(1 - see**2) * noise_N2
    score_N2 = 1 / (1 + np.exp(-seen_N2))
    score_N2[:, 1] *= score_N2[:, 0]
    return score_N2.astype(np.float32)


def _rows(rng: np.random.Generator, truth_N2: np.ndarray) -> pl.DataFrame:
    rows = len(truth_N2)
    cities = rng.choice(CITIES, rows, p=np.geomspace(1, 0.01, 20) / np.geomspace(1, 0.01, 20).sum())
    return pl.DataFrame(
        {
            "user_id": [f"u{number}" for number in rng.integers(0, max(rows // 9, 3), rows)],
            "poi_id": [f"p{number}" for number in rng.integers(0, 300, rows)],
            "meal_slot": rng.choice(SLOTS, rows, p=[0.1, 0.36, 0.11, 0.31, 0.12]),
            "city": cities,
            "poi_impressions": rng.integers(0, 600, rows),
            "user_impressions": rng.integers(0, 60, rows),
            "probability_click": truth_N2[:, 0],
            "probability_order": truth_N2[:, 1],
        }
    )


def _write_stages(config: Config, rows: pl.DataFrame, label_NT: np.ndarray) -> None:
    for verb, figures in FIGURES.items():
        with artifacts.making(config, verb) as work:
            work.measured(rows.height, "rows")
            work.figures |= figures
            if verb == "prepare":
                _write_data(work.folder, rows, label_NT)


def _write_data(folder: Path, rows: pl.DataFrame, label_NT: np.ndarray) -> None:
    (folder / "test").mkdir(exist_ok=True)
    tasks = ["click", "order"][: label_NT.shape[1]]
    unknown = {"probability_click", "probability_order"} - {f"probability_{task}" for task in tasks}
    rows.drop(unknown).write_parquet(folder / "test" / "rows.parquet")
    np.save(folder / "test" / "labels.npy", label_NT.astype(np.uint8))
    features = {"dataset": "fake", "tasks": tasks, "train_rows": 7 * rows.height}
    artifacts.write_json(folder / "features.json", features | {"sampling_rate": 1.0})
