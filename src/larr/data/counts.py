"""Daily counts of events, file by file of the log.

Rows of the same key and day in several files are added up by `larr.data.statistics.Sums`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import polars as pl

from larr.data.chunks import ParallelMap
from larr.data.log import Log
from larr.progress import Advance

COUNTS = ("impressions", "clicks", "logged_orders", "orders")
"""Daily counts of `Statistics`; `orders` include the history, `logged_orders` do not."""
TAKEN = "taken"
"""The count of clicks, and of orders of the history."""
Counting = Callable[[pl.LazyFrame, Mapping[str, pl.Expr]], pl.DataFrame]
"""Returns the `daily_counts` of some rows, given the counts of a row: a module-level function or a
`functools.partial` of one, as other processes call it."""


def log_counts(sampling_rate: float = 1.0) -> dict[str, pl.Expr]:
    """Returns the counts of a row of the impressions. Decision 27."""
    # If training impressions without a click were down-sampled, each of them represents
    # 1 / sampling_rate impressions, so rates are those of the complete log.
    is_sampled = (pl.col("split") == "train") & ~pl.col("click")
    clicks, orders = (pl.col(label).cast(pl.Float64) for label in ("click", "order"))
    return {
        "impressions": pl.when(is_sampled).then(1.0 / sampling_rate).otherwise(1.0),
        "clicks": clicks,
        "logged_orders": orders,
        "orders": orders,
        TAKEN: clicks,
    }


def daily_counts(
    rows: pl.LazyFrame, counts: Mapping[str, pl.Expr], key: Sequence[pl.Expr]
) -> pl.DataFrame:
    """Returns the sums of the counts of each key on each day."""
    counted = rows.select(*key, "day", **counts)
    return counted.group_by(pl.exclude(*counts)).agg(pl.all().sum()).collect()


def count_log(
    log: Log,
    rate: float,
    pmap: ParallelMap,
    advance: Advance,
    names: Sequence[str],
    of_rows: Counting,
) -> pl.DataFrame:
    """Returns the daily counts of each file of the log and of the history, which are not added up.

    `rate` is the sampling rate, `names` are the counts to return, see `log_counts`. Calls `advance`
    after each file.
    """
    counts = log_counts(rate)
    counts = {name: counts[name] for name in names}
    # An order of the history is no impression.
    of_order = {name: pl.lit(float(name in ("orders", TAKEN))) for name in names}
    parts = [of_rows(log.history.lazy(), of_order)]
    for part in pmap(partial(_count_file, log, counts, of_rows), log.impressions):
        parts.append(part)
        advance(1)
    return pl.concat(parts, how="diagonal")


def _count_file(
    log: Log, counts: Mapping[str, pl.Expr], of_rows: Counting, path: Path
) -> pl.DataFrame:
    # If only clicks are counted, most rows have no event.
    has_event = pl.any_horizontal(count > 0 for count in counts.values())
    return of_rows(log.counted(path).filter(has_event), counts)
