"""Derives gains, the share of the distance to the ceiling, and report.json from the metrics.

K: rows of a table, B: resamples, S: seeds.
"""

from __future__ import annotations

import json
from itertools import chain
from typing import Any

import numpy as np
import polars as pl

from larr.config import Config
from larr.config.rankers import BEST, CONTROLS
from larr.data.datasets import dataset
from larr.evaluation.bootstrap import KEYS, LEVEL, interval
from larr.metrics import TASKS, Array, gain_percent, ratio, rela_impr_percent, task_metrics

RIVALS = ("ple", "dcn", "wide_deep", "lightgbm")
"""The rankers that `best` is compared with."""
BASE, LARR, SHUFFLED, CEILING = "ple", "larr", "larr_shuffled", "ceiling"
COUNT_LABELS = ("0", "1 to 9", "10 to 49", "50 to 199", "200 to 999", "1,000 or more")
"""Slices of a column that counts events in the training days."""
COLD_BELOW = {"places": 50, "users": 10}
"""A place or user is cold below this number of impressions in the training days."""
PARTS_WITH_DISTANCE = ("all", "cold places")
"""The parts of the test days for which report.json has the distance to the ceiling."""
DIGITS = 8

Json = dict[str, Any]
Cells = dict[tuple[str, ...], Any]
"""The values of `KEYS` -> the figures of the row."""


def slice_metrics() -> list[str]:
    """Returns the metrics for slices: the headline metrics of clicks, which are frequent enough."""
    return [name for name, metric in task_metrics([TASKS["click"]]).items() if metric.headline]


def with_slice_means(table: pl.DataFrame, sizes: Json) -> pl.DataFrame:
    """Adds the means over the values of each sliced column, weighted by impressions."""
    rows = []
    by = ["column", "ranker", "metric", "seed"]
    slices = table.filter(pl.col("part") == "slice")
    for (column, ranker, metric, seed), group in slices.group_by(by, maintain_order=True):
        weight_K = np.array([sizes[column][value]["impressions"] for value in group["value"]])
        value_KB = _values(group)
        # in a draw without both classes a slice has no value and gets no weight
        weight_KB = np.where(np.isfinite(value_KB), weight_K[:, None], 0)
        mean_B = ratio((np.nan_to_num(value_KB) * weight_KB).sum(axis=0), weight_KB.sum(axis=0))
        rows.append(("within", column, "", ranker, metric, seed, mean_B[0], mean_B[1:]))
    return pl.concat([table, pl.DataFrame(rows, schema=table.schema, orient="row")])


def gain_table(table: pl.DataFrame, pairs: list[tuple[str, str]]) -> pl.DataFrame:
    """Returns the gain of the first over the second of each pair, for metrics that both have.

    The gain compares the estimates; its interval comes from paired draws. `relaimpr_*` is NaN for a
    metric without a chance level.
    """
    gains, metrics = [], task_metrics()
    # pair by pair, because one join with the draws of 45 rankers would take gigabytes
    for ranker, over in [("", ""), *pairs]:  # the empty pair provides the schema without any pair
        joined = _join_other(table.filter(pl.col("ranker") == ranker), table, over)
        chance_K = np.array([metrics[name].chance for name in joined["metric"]], np.float64)
        value_KB, base_KB = _values(joined), _values(joined, f"_{over}")
        keys = ["part", "column", "value", "ranker", pl.lit(over).alias("over"), "metric", "seed"]
        rows = _with_percent(joined.select(keys), gain_percent(value_KB, base_KB))
        relaimpr_KB = rela_impr_percent(value_KB, base_KB, chance_K[:, None])
        gains.append(_with_percent(rows, relaimpr_KB, "relaimpr_"))
    return pl.concat(gains)


def distance_table(table: pl.DataFrame) -> pl.DataFrame:
    """Returns the share of the distance from the base to the ceiling that each ranker closes, in %.

    Leaves out rows in which the base is not significantly below the ceiling.
    """
    table = table.filter(pl.col("seed").is_null(), pl.col("part").is_in(PARTS_WITH_DISTANCE))
    rows = table.filter(~pl.col("ranker").is_in([BASE, CEILING]))
    joined = _join_other(_join_other(rows, table, BASE), table, CEILING)
    metrics = task_metrics()
    sign_K = np.array([1 if metrics[name].higher_is_better else -1 for name in joined["metric"]])
    value_KB, base_KB, ceiling_KB = (
        _values(joined, of) * sign_K[:, None] for of in ("", f"_{BASE}", f"_{CEILING}")
    )
    distance_KB = ceiling_KB - base_KB
    closed_KB = 100 * ratio(value_KB - base_KB, np.where(distance_KB > 0, distance_KB, np.nan))
    is_below_K = interval(distance_KB[:, 1:])[0] > 0
    closed = _with_percent(joined.select(*KEYS, "seed"), closed_KB)
    return closed.filter(pl.Series(is_below_K, dtype=pl.Boolean))


def _join_other(rows: pl.DataFrame, table: pl.DataFrame, other: str) -> pl.DataFrame:
    """Joins the rows with those of another ranker, whose columns get its name as suffix."""
    on = ["part", "column", "value", "metric", "seed"]
    others = table.filter(pl.col("ranker") == other)
    return rows.join(others, on=on, nulls_equal=True, maintain_order="left", suffix=f"_{other}")


def _values(table: pl.DataFrame, suffix: str = "") -> Array:
    """Returns the estimates, followed by their draws, [K, 1 + B]."""
    return np.column_stack([table[f"estimate{suffix}"], table[f"draws{suffix}"].to_numpy()])


def _with_percent(table: pl.DataFrame, percent_KB: Array, prefix: str = "") -> pl.DataFrame:
    low_K, high_K = interval(percent_KB[:, 1:])
    columns = {"percent": percent_KB[:, 0], "low": low_K, "high": high_K}
    return table.with_columns(**{f"{prefix}{name}": value_K for name, value_K in columns.items()})


def compared_pairs(config: Config, rankers: list[str]) -> list[tuple[str, str]]:
    """Returns the configured pairs, `best` over each of RIVALS, and the pairs of the controls.

    LARR is compared with each control, and each control with the base.
    """
    pairs = list(config.evaluate.gains) + [(BEST, rival) for rival in RIVALS]
    pairs += [(LARR, control) for control in CONTROLS] + [(control, BASE) for control in CONTROLS]
    return [pair for pair in dict.fromkeys(pairs) if set(pair) <= set(rankers)]


def report_content(
    config: Config, table: pl.DataFrame, gains: pl.DataFrame, closed: pl.DataFrame, facts: Json
) -> Json:
    """Returns the content of report.json, with null instead of NaN for missing figures.

    Scripts rely on its keys. `metrics.parquet` and `gains.parquet` contain the same figures with
    more columns.
    """
    rankers = table["ranker"].unique(maintain_order=True).to_list()
    pairs = [f"{first}_over_{second}" for first, second in compared_pairs(config, rankers)]
    has_ceiling = {BASE, CEILING} <= set(rankers)
    below_ceiling = [name for name in rankers if has_ceiling and name not in (BASE, CEILING)]
    estimates = _cells(_with_seeds(table, "estimate").rename({"estimate": "mean"}))
    means = {key: cell["mean"] for key, cell in estimates.items()}
    gains = gains.with_columns(ranker=pl.format("{}_over_{}", "ranker", "over")).drop("over")
    gain_cells, closed_cells = _cells(_with_seeds(gains, "percent")), _cells(closed)
    registered, sliced = task_metrics(), slice_metrics()
    for (*_, metric), cell in gain_cells.items():
        if registered[metric].chance is None:
            del cell["relaimpr_percent"], cell["relaimpr_low"], cell["relaimpr_high"]
    slices = facts["sizes"]["slices"]
    headline = [name for name, metric in registered.items() if metric.headline]

    def nest(cells: Cells, names: list[str], metrics: list[str], *where: str) -> Json:
        """Returns the cells of one part, column and value by name and metric, None if missing."""
        return {
            name: {metric: cells.get((*where, name, metric)) for metric in metrics}
            for name in names
        }

    def both(metrics: list[str], *where: str) -> Json:
        return {
            "models": nest(estimates, rankers, metrics, *where),
            "gains": nest(gain_cells, pairs, metrics, *where),
        }

    def by_value(cells: Cells, names: list[str]) -> Json:
        return {
            column: {value: nest(cells, names, sliced, "slice", column, value) for value in values}
            for column, values in slices.items()
        }

    figures = {
        "seeds": table["seed"].drop_nulls().unique(maintain_order=True).to_list(),
        **both(list(registered), "all", "", ""),
        "distance_closed": {
            part.replace(" ", "_"): nest(closed_cells, below_ceiling, headline, part, "", "")
            for part in PARTS_WITH_DISTANCE
        },
        "cold": {name: both(headline, f"cold {name}", "", "") for name in COLD_BELOW},
        "within": {column: both(sliced, "within", column, "") for column in slices},
        "slices": by_value(means, rankers),
        "slice_gains": by_value(gain_cells, pairs),
        "bootstrap": {
            "resamples": config.evaluate.bootstrap,
            "level": LEVEL,
            "same_users": not dataset(config).users_per_seed,
        },
        "settings": config.model_dump(mode="json", exclude={"seed", "output"}),
    }
    return _as_json(facts | figures)


def _as_json(content: Json) -> Json:
    """Returns JSON values: lists instead of arrays, rounded numbers, null instead of NaN."""
    text = json.dumps(content, default=lambda array: array.tolist())
    # Python writes NaN and infinities, which JSON lacks, as constants
    values: Json = json.loads(
        text, parse_constant=lambda _: None, parse_float=lambda number: round(float(number), DIGITS)
    )
    return values


def _cells(table: pl.DataFrame) -> Cells:
    rows = table.filter(pl.col("seed").is_null()).drop("seed").to_dicts()
    return {tuple(row.pop(key) for key in KEYS): row for row in rows}


def _with_seeds(table: pl.DataFrame, value: str) -> pl.DataFrame:
    """Adds the column `by_seed`, a list of the values of each seed."""
    seeds = table.filter(pl.col("seed").is_not_null())
    by_seed = seeds.group_by(KEYS, maintain_order=True).agg(by_seed=pl.col(value))
    return table.join(by_seed, on=KEYS, how="left")


def mean_tree(trees: list[Any]) -> Any:
    """Averages the numbers of trees of equal shape; joins texts that differ."""
    present = [tree for tree in trees if tree is not None]
    if not present or all(tree == present[0] for tree in present):
        return present[0] if present else None
    if all(isinstance(tree, dict) for tree in present):
        names = dict.fromkeys(chain.from_iterable(present))
        return {name: mean_tree([tree.get(name) for tree in present]) for name in names}
    if all(isinstance(tree, list) for tree in present):
        return [mean_tree(list(items)) for items in zip(*present, strict=False)]
    if all(isinstance(tree, int | float) for tree in present):
        return sum(present) / len(present)
    return ", ".join(str(tree) for tree in present)
