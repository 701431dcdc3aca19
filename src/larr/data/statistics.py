"""Statistics as of the start of a day: only what happened on earlier days counts, halving with age.

A leak is impossible by construction: every figure of a row comes out of `as_of`, which reads the
days strictly before the row's day.
"""

from __future__ import annotations

from datetime import date

import polars as pl

SMOOTHING_IMPRESSIONS = 20.0
"""A rate leans to the overall rate with the weight of so many impressions."""
SUM_DIGITS = 10
"""Sums are rounded to so many digits, so that the order of summing, which threads change, is not
seen."""
COUNTS = ("impressions", "clicks", "logged_orders", "orders")


def daily_counts(
    log: pl.LazyFrame, history: pl.LazyFrame, key: list[str], sampling_rate: float = 1.0
) -> pl.DataFrame:
    """Impressions, clicks and orders of each key on each day.

    `logged_orders` are those of the impression log, `orders` those of the history too. Where the
    training days kept a share of the impressions without a click, each of them counts for those
    that were left out, so that rates are those of the whole log. Decision 27.
    """
    sampled = (pl.col("split") == "train") & ~pl.col("click")
    logged = log.select(
        *key,
        "day",
        impressions=pl.when(sampled).then(1.0 / sampling_rate).otherwise(1.0),
        clicks=pl.col("click").cast(pl.Float64),
        logged_orders=pl.col("order").cast(pl.Float64),
        orders=pl.col("order").cast(pl.Float64),
    )
    earlier = history.select(
        *key, "day", impressions=0.0, clicks=0.0, logged_orders=0.0, orders=1.0
    )
    return (
        pl.concat([logged, earlier])
        .group_by(*key, "day")
        .agg(pl.col(COUNTS).sum())
        .sort(*key, "day")
        .collect(engine="streaming")
    )


def as_of(
    daily: pl.DataFrame, wanted: pl.DataFrame, key: list[str], half_life_days: float
) -> pl.DataFrame:
    """For each wanted key and day, the sums of earlier days' values, weighted by their age.

    `daily` has the key, `day` and values; `wanted` has `day` and some or all columns of the key.
    """
    values = [name for name in daily.columns if name not in (*key, "day")]
    shared = [name for name in wanted.columns if name != "day"]
    parts = [
        _before(daily, day, rows.select(shared), values, half_life_days)
        .group_by(key, maintain_order=True)
        .agg(pl.col(values).sum().round_sig_figs(SUM_DIGITS))
        .with_columns(pl.lit(day).alias("day"))
        for (day,), rows in wanted.unique(maintain_order=True)
        .sort("day")
        .group_by("day", maintain_order=True)
    ]
    empty = daily.clear().select(*key, *(pl.col(name).cast(pl.Float64) for name in values), "day")
    return pl.concat([empty, *parts])


def _before(
    daily: pl.DataFrame, day: date, wanted: pl.DataFrame, values: list[str], half_life_days: float
) -> pl.DataFrame:
    age_days = (pl.lit(day) - pl.col("day")).dt.total_days()
    weight = pl.lit(0.5).pow((age_days - 1) / half_life_days)
    return (
        daily.filter(pl.col("day") < day)
        .join(wanted, on=wanted.columns, how="semi", maintain_order="left")
        .with_columns(pl.col(values) * weight)
    )


def overall(daily: pl.DataFrame, wanted: pl.Series, half_life_days: float) -> pl.DataFrame:
    """For each wanted day, the log before it: `observed_days`, `overall_ctr`, `overall_cvr`.

    Impressions of all keys count; days weigh less with their age; nulls before the first day.
    """
    totals = (
        daily.filter(pl.col("impressions") > 0)
        .group_by("day")
        .agg(pl.col(COUNTS).sum(), observed_days=pl.lit(1.0))
        .with_columns(log=0)
        .sort("day")
    )
    asked = pl.DataFrame({"log": 0, "day": wanted.unique().sort()})
    return as_of(totals, asked, ["log"], half_life_days).select(
        "day",
        "observed_days",
        overall_ctr=pl.col("clicks") / pl.col("impressions"),
        overall_cvr=pl.col("logged_orders") / pl.col("impressions"),
    )


def rates(sums: pl.DataFrame, prefix: str, days: pl.DataFrame) -> pl.DataFrame:
    """Turns sums into what the features and texts use.

    Gives `<prefix>_log_impressions_per_day`, `<prefix>_log_orders` (history included; both
    log(1 + x)), `<prefix>_ctr` and `<prefix>_cvr` (clicks and orders per impression, smoothed
    towards the overall rate; null where nothing was logged yet). `days` comes from `overall`.
    """
    seen = pl.col("impressions") + SMOOTHING_IMPRESSIONS
    figures = {
        "log_impressions_per_day": (pl.col("impressions") / pl.col("observed_days")).log1p(),
        "log_orders": pl.col("orders").log1p(),
        "ctr": (pl.col("clicks") + SMOOTHING_IMPRESSIONS * pl.col("overall_ctr")) / seen,
        "cvr": (pl.col("logged_orders") + SMOOTHING_IMPRESSIONS * pl.col("overall_cvr")) / seen,
    }
    return sums.join(days, on="day", how="left", maintain_order="left").select(
        f"{prefix}_id",
        "day",
        *(figure.alias(f"{prefix}_{name}") for name, figure in figures.items()),
    )
