"""`larr evaluate`: metrics of every ranker and the ceiling on the test days, with paired intervals.

Paper: tables 2 and 3; decisions 24 to 27. `pool` combines the reports of several seeds.
N: impressions of the test days, T: tasks, U: users.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import product
from pathlib import Path

import numpy as np
import polars as pl

from larr import artifacts, metrics, progress
from larr.config import Config
from larr.data.datasets import dataset
from larr.errors import DataError, InputError, LarrError
from larr.evaluation import bootstrap, findings, report
from larr.evaluation.findings import Json
from larr.metrics import TASKS, Array, Statistic
from larr.rankers import predict
from larr.stages import RUN

FEWEST_IMPRESSIONS = 200
FEWEST_OF_A_CLASS = 10
COUNTS = ("poi_impressions", "user_impressions")
"""Columns that count impressions of the training days; COUNT_EDGES divides them into slices."""
COUNT_EDGES = (1, 10, 50, 200, 1_000)
REPORT, PAGE = "report.json", "report.html"
METRICS, GAINS = "metrics.parquet", "gains.parquet"
DRAWS = "draws.parquet"
"""The estimates of a seed with all their draws, for `pool`."""

Part = tuple[str, str, str, Array]
"""Part, column and value as in the table of metrics, and the indices of its rows, [n]."""


class TestDays:
    """The impressions of the test days in the order of the log, and their parts."""

    def __init__(self, config: Config) -> None:
        data = artifacts.folder(config, "prepare")
        self.rows = pl.read_parquet(data / "test" / "rows.parquet")
        if not self.rows.height:
            raise DataError(f"{data / 'test'}: no impressions; set dataset.test_days to 1 or more")
        self.features: Json = artifacts.read_json(data / "features.json")
        label_NT = np.load(data / "test" / "labels.npy").astype(bool)
        tasks = (TASKS[name] for name in self.features["tasks"])
        self.labels: dict[str, Array] = dict(zip(tasks, label_NT.T, strict=True))
        """A task, ctr or ctcvr -> its labels, bool [N]."""
        self.user_N = self.rows["user_id"].rank("dense").to_numpy().astype(np.int64) - 1
        """The index of each row's user, from 0."""
        self.parts = list(self._parts(config.evaluate.slices))
        """The parts to compute metrics on, the complete days first."""

    def _parts(self, slices: Iterable[str]) -> Iterator[Part]:
        yield "all", "", "", np.arange(self.rows.height)
        for (name, below), column in zip(findings.COLD_BELOW.items(), COUNTS, strict=True):
            yield f"cold {name}", "", "", np.flatnonzero((self.rows[column] < below).to_numpy())
        for column in slices:
            value_N = self.rows[column]
            if column in COUNTS:
                value_N = value_N.cut(COUNT_EDGES, labels=findings.COUNT_LABELS, left_closed=True)
            value_N = value_N.cast(pl.String).fill_null("unknown")
            for value in value_N.alias("value").value_counts(sort=True)["value"]:
                yield "slice", column, value, np.flatnonzero((value_N == value).to_numpy())


def evaluate(config: Config) -> None:
    """Scores the test days with every trained ranker and writes `evaluate/`."""
    with artifacts.building(config, "evaluate") as work:
        days = TestDays(config)
        scores = _scores(config, days)
        keys, statistics = zip(*_statistics(days, scores), strict=True)
        resamples = config.evaluate.bootstrap
        with progress.track("intervals", resamples, "resamples") as advance:
            # seeds with the same test users share one stream of draws
            seed = config.seed if dataset(config).users_per_seed else 0
            users = int(days.user_N.max()) + 1
            estimate_K, draws_KB = bootstrap.bootstrap(statistics, users, resamples, seed, advance)
        table = pl.DataFrame(keys, schema=bootstrap.KEYS, orient="row").with_columns(
            seed=pl.lit(config.seed, pl.Int64), estimate=estimate_K, draws=pl.Series(draws_KB)
        )
        table.write_parquet(work.folder / DRAWS)
        work.measured(len(scores) * days.rows.height, "impressions")
        facts = _facts(config, days, scores)
        facts["stages"]["evaluate"] = work.cost()
        content = _write(config, bootstrap.pool([table]), facts, work.folder)
        work.figures |= {name: content[name] for name in ("gains", "distance_closed")}
    report.print_tables(content)


def pool(configs: list[Config], output: Path) -> Json:
    """Combines the reports of several seeds into one; returns its content."""
    for config in configs:
        artifacts.require(config, "evaluate")
    folders = [artifacts.folder(config, "evaluate") for config in configs]
    reports = [artifacts.read_json(folder / REPORT) for folder in folders]
    datasets = sorted({content["dataset"] for content in reports})
    if len(datasets) != 1:
        raise InputError(
            f"pooling needs reports of one data set, got {', '.join(datasets) or 'no report'}; "
            "run one configuration with several seeds"
        )
    tables = [pl.read_parquet(folder / DRAWS) for folder in folders]
    table = bootstrap.pool(tables, same_users=not dataset(configs[0]).users_per_seed)
    target = output / "evaluate"
    target.mkdir(parents=True, exist_ok=True)
    # figures with intervals come from the pooled table, the others are means of the reports
    content = _write(configs[0], table, findings.mean_tree(reports), target)
    report.print_tables(content)
    return content


def _write(config: Config, table: pl.DataFrame, facts: Json, target: Path) -> Json:
    """Writes the tables of metrics and gains and both reports; returns report.json's content."""
    table = findings.with_slice_means(table, facts["sizes"]["slices"])
    pairs = findings.compared_pairs(config, table["ranker"].unique().to_list())
    gains = findings.gain_table(table, pairs)
    low_K, high_K = bootstrap.interval(table["draws"].to_numpy())
    estimates = table.drop("draws").with_columns(low=low_K, high=high_K)
    distances = findings.distance_table(table)
    content = findings.report_content(config, estimates, gains, distances, facts)
    estimates.write_parquet(target / METRICS)
    gains.write_parquet(target / GAINS)
    artifacts.write_json(target / REPORT, content)
    artifacts.write_text(target / PAGE, report.page(content))
    return content


def _scores(config: Config, days: TestDays) -> dict[str, dict[str, Array]]:
    """Returns the probabilities [N] of every ranker by task, with the ceiling last if available.

    The ceiling reads `probability_click` and `probability_order` (of click and order). Raises
    DataError if their sums do not fit the labels, for example if `probability_order` is that of an
    order after a click.
    """
    scores = {}
    for ranker in config.align.models:
        score_NT = np.asarray(predict.predict(config, ranker), np.float32)
        expected = (days.rows.height, len(days.labels))
        if score_NT.shape != expected:
            raise LarrError(
                f"model {ranker} returned scores of shape {score_NT.shape}, expected {expected}; "
                "run `larr align` again"
            )
        scores[ranker] = dict(zip(days.labels, score_NT.T, strict=True))
    columns = [f"probability_{label}" for label in days.features["tasks"]]
    if not set(columns) <= set(days.rows.columns):
        return scores
    truth_NT = days.rows.select(columns).cast(pl.Float32).to_numpy()
    scores[findings.CEILING] = dict(zip(days.labels, truth_NT.T, strict=True))
    for column, truth_N, label_N in zip(columns, truth_NT.T, days.labels.values(), strict=True):
        expected_sum, observed = truth_N.sum(), label_N.sum()
        if expected_sum > 50 and not 0.5 < observed / expected_sum < 2:
            raise DataError(
                f"{column}: its sum over the test days is {expected_sum:.0f}, but the log has "
                f"{observed} such labels; expected the probability of the label in each impression "
                "(for an order: of click and order)"
            )
    return scores


def _statistics(
    days: TestDays, scores: dict[str, dict[str, Array]]
) -> Iterator[tuple[tuple[str, ...], Statistic]]:
    """Yields the keys and the statistic of each row of the table."""
    sliced = findings.slice_metrics()
    for (task, label_N), (part, column, value, rows_n) in product(days.labels.items(), days.parts):
        label_n, user_n = label_N[rows_n], days.user_N[rows_n]
        rarer = min(label_n.sum(), len(label_n) - label_n.sum())
        is_enough = len(label_n) >= FEWEST_IMPRESSIONS and rarer >= FEWEST_OF_A_CLASS
        for name, metric in metrics.task_metrics([task]).items():
            is_compared = metric.headline if part != "slice" else name in sliced
            if part == "all" or (is_compared and is_enough):
                for ranker, score in scores.items():
                    statistic = metric.statistic(label_n, score[task][rows_n], user_n)
                    yield (part, column, value, ranker, name), statistic


def _facts(config: Config, days: TestDays, scores: dict[str, dict[str, Array]]) -> Json:
    """Returns the report's figures without intervals; several seeds report the mean."""
    manifests = ((verb, artifacts.manifest(artifacts.folder(config, verb))) for verb in RUN)
    done = {verb: manifest for verb, manifest in manifests if manifest is not None}
    coverage = {}
    for task, label_N in days.labels.items():
        # users with both classes, which GAUC counts, and their impressions
        impressions_U = metrics.gauc(label_N, label_N, days.user_N).denominator_U
        coverage[task] = {
            "users": len(impressions_U),
            "users_left": int((impressions_U > 0).sum()),
            "impressions": len(label_N),
            "impressions_left": int(impressions_U.sum()),
        }
    return {
        "dataset": days.features["dataset"],
        "tasks": list(days.labels),
        "sampling_rate": days.features["sampling_rate"],
        "sampled_share": days.features.get("sampled_share"),
        "train_rows": days.features["train_rows"],
        "sizes": _sizes(days),
        "gauc_coverage": coverage,
        "calibration": {
            ranker: {
                task: metrics.calibration(days.labels[task], score_N)
                for task, score_N in score.items()
            }
            for ranker, score in scores.items()
        },
        "data": done["prepare"]["figures"],
        "language_model": {
            verb: done[verb]["figures"] for verb in ("pretrain", "contrast") if verb in done
        },
        # by seed, so that the report of several seeds keeps each decision
        "choice": {str(config.seed): done["choose"]["figures"]} if "choose" in done else None,
        "stages": {verb: manifest["measured"] for verb, manifest in done.items()},
    }


def _sizes(days: TestDays) -> Json:
    """Returns the impressions, users and positives of every part of the test days."""
    sizes: Json = {"all": {}, "cold": {}, "slices": {}}
    for part, column, value, rows_n in days.parts:
        size = {"impressions": len(rows_n), "users": len(np.unique(days.user_N[rows_n]))}
        for label, label_N in zip(days.features["tasks"], days.labels.values(), strict=True):
            size[f"{label}s"] = int(label_N[rows_n].sum())
        if part == "slice":
            sizes["slices"].setdefault(column, {})[value] = size
        elif part == "all":
            sizes["all"] = size
        else:
            sizes["cold"][part.removeprefix("cold ")] = size
    return sizes
