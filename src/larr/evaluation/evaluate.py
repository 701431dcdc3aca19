"""`larr evaluate`: every model on the test day, with the ceiling and paired intervals.

Paper: tables 2 and 3; decisions 24 to 27. `pool` puts finished reports of several seeds together.
N: impressions of the test day, T: tasks, U: users.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from larr import artifacts, metrics, progress
from larr.config import Config
from larr.data.datasets import dataset
from larr.data.prepare import KEPT_FOR_EVALUATION
from larr.errors import ConfigError, DataError, InputError, LarrError
from larr.evaluation import report
from larr.evaluation.bootstrap import Estimates, Key, Ranking, Ratio, Statistic, bootstrap
from larr.evaluation.bootstrap import pool as pool_estimates
from larr.evaluation.findings import CEILING, COUNT_LABELS, FACTS, findings, mean_tree
from larr.metrics import TASKS
from larr.rankers import predict
from larr.stages import RUN

Array = npt.NDArray[Any]
TRUTH = {"click": "probability_click", "order": "probability_order"}
"""A label -> the column of its true probability (of click and order, for an order)."""
FEWEST_IMPRESSIONS = 200
FEWEST_OF_A_CLASS = 10
CALIBRATION_BINS = 10
COUNTS = ("poi_impressions", "user_impressions")
"""Columns to slice by that count something in the training days; they are cut at COUNT_EDGES."""
COUNT_EDGES = (1, 10, 50, 200, 1_000)
DRAWS, REPORT, PAGE = "draws.npz", "report.json", "report.html"


@dataclass(frozen=True)
class TestDay:
    """The impressions to be judged, in the order of the log; users are numbered from 0."""

    rows: pl.DataFrame
    label_NT: npt.NDArray[np.bool_]
    user_N: npt.NDArray[np.int64]
    features: dict[str, Any]

    @property
    def tasks(self) -> list[str]:
        """The tasks by the names of their metrics: ctr, and ctcvr where there are orders."""
        return [TASKS[label] for label in self.features["tasks"]]

    @property
    def users(self) -> int:
        """Number of users with an impression."""
        return int(self.user_N.max()) + 1


def evaluate(config: Config) -> None:
    """Scores the test day with every trained model and writes `evaluate/`."""
    with artifacts.making(config, "evaluate") as work:
        day = _read(config)
        scores = _scores(config, day)
        statistics = dict(_statistics(config, day, scores))
        resamples = config.evaluate.bootstrap
        with progress.track("intervals", resamples, "resamples") as advance:
            estimates = bootstrap(statistics, day.users, resamples, _draw(config), advance)
        estimates.save(work.folder / DRAWS)
        work.measured(len(scores) * day.rows.height, "impressions")
        facts = _facts(config, day, scores)
        facts["stages"]["evaluate"] = work.cost()
        found = findings(config, [config.seed], estimates, facts)
        _write(found, work.folder)
        work.figures |= {name: found[name] for name in ("gains", "distance_closed")}
    report.print_tables(found)


def pool(configs: list[Config], output: Path) -> dict[str, Any]:
    """Writes `output/report/` from the finished reports of several seeds; returns what it says."""
    for config in configs:
        artifacts.require(config, "evaluate")
    folders = [artifacts.folder(config, "evaluate") for config in configs]
    reports = [artifacts.read_json(folder / REPORT) for folder in folders]
    facts = [{name: one[name] for name in FACTS} for one in reports]
    datasets = sorted({one["dataset"] for one in facts})
    if len(datasets) != 1:
        raise InputError(
            f"pooling needs reports of one data set, got {', '.join(datasets) or 'no report'}; "
            "run one configuration with several seeds"
        )
    seeds_draws = [Estimates.load(folder / DRAWS) for folder in folders]
    estimates = pool_estimates(seeds_draws, same_users=not dataset(configs[0]).users_per_seed)
    seeds = [config.seed for config in configs]
    found = findings(configs[0], seeds, estimates, mean_tree(facts))
    target = output / "evaluate"
    target.mkdir(parents=True, exist_ok=True)
    _write(found, target)
    report.print_tables(found)
    return found


def _draw(config: Config) -> int:
    """The seed of the draws of users; the same for all seeds that share their users."""
    return config.seed if dataset(config).users_per_seed else 0


def _write(found: dict[str, Any], target: Path) -> None:
    artifacts.write_json(target / REPORT, found)
    artifacts.write_text(target / PAGE, report.page(found))


def check_slices(config: Config) -> None:
    """ConfigError for a column that is not kept for the test rows."""
    kept = [*KEPT_FOR_EVALUATION, *config.features.categories]
    if missing := [name for name in config.evaluate.slices if name not in kept]:
        raise ConfigError(
            f"evaluate.slices: the test rows will have no column {', '.join(missing)}; they have "
            f"{', '.join(kept)}, for those in features.categories are kept"
        )


def _read(config: Config) -> TestDay:
    data = artifacts.folder(config, "prepare")
    rows = pl.read_parquet(data / "test" / "rows.parquet")
    check_slices(config)
    if not rows.height:
        raise DataError(f"{data / 'test'}: no impressions to evaluate; is the test period empty?")
    label_NT = np.load(data / "test" / "labels.npy").astype(bool)
    user_N = rows["user_id"].rank("dense").to_numpy().astype(np.int64) - 1
    return TestDay(rows, label_NT, user_N, artifacts.read_json(data / "features.json"))


def _scores(config: Config, day: TestDay) -> dict[str, Array]:
    """Probabilities [N, T] of every model, the ceiling last."""
    scores = {}
    for model in config.align.models:
        scores[model] = np.asarray(predict.predict(config, model), np.float32)
        if scores[model].shape != day.label_NT.shape:
            raise LarrError(
                f"model {model} gave scores of shape {scores[model].shape}, expected "
                f"{day.label_NT.shape}; run `larr align` again"
            )
    truth = [TRUTH[label] for label in day.features["tasks"]]
    if all(name in day.rows.columns for name in truth):
        scores[CEILING] = _truth(day, truth)
    return scores


def _truth(day: TestDay, columns: list[str]) -> Array:
    truth_NT = day.rows.select(columns).to_numpy().astype(np.float32)
    expected_T, observed_T = truth_NT.sum(axis=0), day.label_NT.sum(axis=0)
    for name, expected, observed in zip(columns, expected_T, observed_T, strict=True):
        if expected > 50 and not 0.5 < observed / expected < 2:
            raise DataError(
                f"{name}: its sum over the test day is {expected:.0f}, but {observed} happened; "
                "expected the probability of the label in each impression (for an order, of "
                "click and order)"
            )
    return truth_NT


def _statistics(
    config: Config, day: TestDay, scores: dict[str, Array]
) -> Iterator[tuple[Key, Statistic]]:
    populations = list(_populations(config, day))
    for model, score_NT in scores.items():
        for task, label_N, score_N in zip(day.tasks, day.label_NT.T, score_NT.T, strict=True):
            yield Key("all", "", "", model, f"{task}_gauc"), _gauc(label_N, score_N, day)
            yield Key("all", "", "", model, f"{task}_logloss"), _log_loss(label_N, score_N, day)
            for kind, column, value, rows_n in populations:
                is_told = kind != "slices" or task == "ctr"
                if is_told and (kind == "all" or _is_enough(label_N[rows_n])):
                    ranking = Ranking.of(label_N[rows_n], score_N[rows_n], day.user_N[rows_n])
                    yield Key(kind, column, value, model, f"{task}_auc"), ranking


def _populations(config: Config, day: TestDay) -> Iterator[tuple[str, str, str, Array]]:
    """Parts of the test day: kind, column, value, and the numbers of their rows."""
    yield "all", "", "", np.arange(day.rows.height)
    known = {
        "places": ("poi_impressions", config.evaluate.cold_place_impressions),
        "users": ("user_impressions", config.evaluate.cold_user_impressions),
    }
    for name, (column, fewest) in known.items():
        yield "cold", name, "", np.flatnonzero((day.rows[column] < fewest).to_numpy())
    for column in config.evaluate.slices:
        value_N = _values(day, column)
        for value in value_N.value_counts(sort=True)[column]:
            yield "slices", column, value, np.flatnonzero((value_N == value).to_numpy())


def _values(day: TestDay, column: str) -> pl.Series:
    value_N = day.rows[column]
    if column in COUNTS:
        value_N = value_N.cut(COUNT_EDGES, labels=COUNT_LABELS, left_closed=True)
    return value_N.cast(pl.String).fill_null("unknown")


def _is_enough(label_n: Array) -> bool:
    positives = int(label_n.sum())
    rarer = min(positives, len(label_n) - positives)
    return len(label_n) >= FEWEST_IMPRESSIONS and rarer >= FEWEST_OF_A_CLASS


def _gauc(label_N: Array, score_N: Array, day: TestDay) -> Ratio:
    auc_U, impressions_U = metrics.auc_by_user(label_N, score_N, day.user_N)
    weight_U = np.where(np.isfinite(auc_U), impressions_U, 0).astype(np.float64)
    return Ratio(np.nan_to_num(auc_U) * weight_U, weight_U)


def _log_loss(label_N: Array, score_N: Array, day: TestDay) -> Ratio:
    losses_N = metrics.log_losses(label_N, score_N)
    loss_U = np.bincount(day.user_N, weights=losses_N).astype(np.float64)
    return Ratio(loss_U, np.bincount(day.user_N).astype(np.float64))


def _facts(config: Config, day: TestDay, scores: dict[str, Array]) -> dict[str, Any]:
    """What is said without an interval; several seeds report the mean."""
    made = {verb: artifacts.manifest(config, verb) for verb in RUN}
    done = {verb: manifest for verb, manifest in made.items() if manifest is not None}
    return {
        "dataset": day.features["dataset"],
        "tasks": day.tasks,
        "sampling_rate": day.features["sampling_rate"],
        "train_rows": day.features["train_rows"],
        "sizes": _sizes(config, day),
        "gauc_coverage": {
            task: _coverage(day.label_NT[:, column], day) for column, task in enumerate(day.tasks)
        },
        "calibration": {model: _calibration(day, score) for model, score in scores.items()},
        "data": done["prepare"]["figures"],
        "language_model": {
            verb: done[verb]["figures"] for verb in ("pretrain", "contrast") if verb in done
        },
        "stages": {verb: manifest["measured"] for verb, manifest in done.items()},
    }


def _sizes(config: Config, day: TestDay) -> dict[str, Any]:
    """Impressions, users and positives of every part of the test day."""
    sizes: dict[str, Any] = {"all": {}, "cold": {}, "slices": {}}
    for kind, column, value, rows_n in _populations(config, day):
        size = {"impressions": len(rows_n), "users": len(np.unique(day.user_N[rows_n]))}
        positives_T = day.label_NT[rows_n].sum(axis=0).tolist()
        size |= {
            f"{label}s": n for label, n in zip(day.features["tasks"], positives_T, strict=True)
        }
        if kind == "slices":
            sizes[kind].setdefault(column, {})[value] = size
        else:
            sizes[kind] |= {column: size} if column else size
    return sizes


def _coverage(label_N: Array, day: TestDay) -> dict[str, int]:
    """How many users, and impressions of theirs, have both classes and so count in GAUC."""
    impressions_U = np.bincount(day.user_N)
    positives_U = np.bincount(day.user_N, weights=label_N)
    left_U = (positives_U > 0) & (positives_U < impressions_U)
    return {
        "users": day.users,
        "users_left": int(left_U.sum()),
        "impressions": int(impressions_U.sum()),
        "impressions_left": int(impressions_U[left_U].sum()),
    }


def _calibration(day: TestDay, score_NT: Array) -> dict[str, Any]:
    told = {}
    for task, label_N, score_N in zip(day.tasks, day.label_NT.T, score_NT.T, strict=True):
        table = metrics.calibration(label_N, score_N, CALIBRATION_BINS)
        expected = float(score_N.sum(dtype=np.float64))
        told[task] = {
            "observed_over_expected": float(label_N.sum()) / expected if expected else None,
            "error": metrics.calibration_error(table),
            "bins": [row and row._asdict() for row in table],
        }
    return told
