"""Statistics as of the start of a day: sums over earlier days, whose weight halves with their age.

All statistics of a row come from `as_of`, which reads only days before the row's day, so that no
label of the same day or later can leak into them.
"""

from __future__ import annotations

import polars as pl

SMOOTHING_IMPRESSIONS = 20.0
"""A rate is smoothed as if it had this many more impressions with the overall rate."""
SUM_DIGITS = 10
"""Significant digits of sums; the last digits depend on the order of summing, which differs between
runs with several threads."""
COUNTS = ("impressions", "clicks", "logged_orders", "orders")


def daily_counts(
    log: pl.LazyFrame, history: pl.LazyFrame, key: list[str], sampling_rate: float = 1.0
) -> pl.DataFrame:
    """Returns impressions, clicks and orders of each key on each day.

    `logged_orders` are those of the impression log, `orders` include the history. Decision 27.
    """
    # Of the training impressions without a click only a share may be in the log. Each of them
    # stands for 1 / share impressions, so that rates are those of the complete log.
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
    """Returns for each wanted key and day the sums of the values of earlier days.

    The day before has weight 1; the weight halves every `half_life_days`. `daily` has the key,
    `day` and values; `wanted` has `day` and some or all columns of the key.
    """
    values = [name for name in daily.columns if name not in (*key, "day")]
    shared = [name for name in wanted.columns if name != "day"]
    sums = [daily.clear().select(*key, pl.col(values).cast(pl.Float64), "day")]
    # Day by day, since a join of all days with their earlier days would need their product.
    by_day = wanted.unique(maintain_order=True).sort("day").group_by("day", maintain_order=True)
    for (day,), rows in by_day:
        age_days = (pl.lit(day) - pl.col("day")).dt.total_days()
        weight = pl.lit(0.5).pow((age_days - 1) / half_life_days)
        sums.append(
            daily.filter(pl.col("day") < day)
            .join(rows.select(shared), on=shared, how="semi", maintain_order="left")
            .with_columns(pl.col(values) * weight)
            .group_by(key, maintain_order=True)
            .agg(pl.col(values).sum().round_sig_figs(SUM_DIGITS))
            .with_columns(day=pl.lit(day))
        )
    return pl.concat(sums)


def overall(daily: pl.DataFrame, wanted: pl.Series, half_life_days: float) -> pl.DataFrame:
    """Returns for each wanted day the `observed_days`, `overall_ctr` and `overall_cvr` before it.

    All keys count, weighted by age; days without an earlier day are missing.
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
    """Returns the sums as columns for features and texts.

    `<prefix>_log_impressions_per_day` and `<prefix>_log_orders` (history included) are log(1 + x).
    `<prefix>_ctr` and `<prefix>_cvr` are clicks and orders per impression, smoothed towards the
    overall rate; null where nothing was logged before. `days` comes from `overall`.
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
