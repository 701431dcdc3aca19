"""Statistics as of the start of a day: sums over earlier days, whose weight halves with their age.

All statistics of a row come from `as_of`, which reads only days before the row's day, so that no
label of the same day or later can leak into them.
"""

from __future__ import annotations

from datetime import date

import polars as pl

from larr.config.data import ProfileConfig
from larr.data.transforms import text_column

SMOOTHING_IMPRESSIONS = 20.0
"""A rate is smoothed as if it had this many more impressions with the overall rate."""
SUM_DIGITS = 10
"""Significant digits of sums; the last digits depend on the order of summing, which differs between
runs with several threads."""
NEVER_SEEN = ("log_impressions_per_day", "log_orders")
"""Figures that are 0 for a place or user without a past; rates are missing."""
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
    daily: pl.DataFrame,
    day: date,
    key: list[str],
    half_life_days: float,
    wanted: pl.DataFrame | None = None,
) -> pl.DataFrame:
    """Returns the sums of the values of the days before `day`, for each key.

    The day before has weight 1; the weight halves every `half_life_days`. `daily` has the key,
    `day` and values; `wanted` has the columns of the key by which rows are chosen, None for all.
    """
    values = [name for name in daily.columns if name not in (*key, "day")]
    age_days = (pl.lit(day) - pl.col("day")).dt.total_days()
    weight = pl.lit(0.5).pow((age_days - 1) / half_life_days)
    earlier = daily.filter(pl.col("day") < day)
    if wanted is not None:
        earlier = earlier.join(wanted, on=wanted.columns, how="semi", maintain_order="left")
    return (
        earlier.with_columns(pl.col(values) * weight)
        .group_by(key, maintain_order=True)
        .agg(pl.col(values).sum().round_sig_figs(SUM_DIGITS))
    )


def with_statistics(
    entities: pl.DataFrame, prefix: str, daily: pl.DataFrame, day: date, half_life_days: float
) -> pl.DataFrame:
    """Returns places or users with statistics as of a day, as columns for features and texts.

    `<prefix>_log_impressions_per_day` and `<prefix>_log_orders` (history included) are log(1 + x).
    `<prefix>_ctr` and `<prefix>_cvr` are clicks and orders per impression, smoothed towards the
    overall rate; null where nothing was logged before. `daily` comes from `daily_counts`.
    """
    key = f"{prefix}_id"
    totals = (
        daily.filter(pl.col("impressions") > 0)
        .group_by("day")
        .agg(pl.col(COUNTS).sum(), observed_days=pl.lit(1.0))
        .with_columns(log=0)
        .sort("day")
    )
    overall = as_of(totals, day, ["log"], half_life_days).select(
        "log",
        "observed_days",
        overall_ctr=pl.col("clicks") / pl.col("impressions"),
        overall_cvr=pl.col("logged_orders") / pl.col("impressions"),
    )
    seen = pl.col("impressions") + SMOOTHING_IMPRESSIONS
    figures = {
        "log_impressions_per_day": (pl.col("impressions") / pl.col("observed_days")).log1p(),
        "log_orders": pl.col("orders").log1p(),
        "ctr": (pl.col("clicks") + SMOOTHING_IMPRESSIONS * pl.col("overall_ctr")) / seen,
        "cvr": (pl.col("logged_orders") + SMOOTHING_IMPRESSIONS * pl.col("overall_cvr")) / seen,
    }
    sums = as_of(daily, day, [key], half_life_days, entities.select(key)).with_columns(log=0)
    # Joined, since `overall` is empty on the first day, when orders may be known already.
    statistics = sums.join(overall, on="log", how="left", maintain_order="left").select(
        key, *(figure.alias(f"{prefix}_{name}") for name, figure in figures.items())
    )
    entities = entities.join(statistics, on=key, how="left", maintain_order="left")
    return entities.with_columns(pl.col(f"{prefix}_{name}").fill_null(0.0) for name in NEVER_SEEN)


def daily_values(
    orders: pl.DataFrame, places: pl.DataFrame, profile: ProfileConfig
) -> pl.DataFrame:
    """Returns how often a user ordered each value of the profile's column on each day.

    Columns: `user_id`, the profile's scene column `within` if it has one, `value`, `day`, `count`.
    """
    key = ["user_id", profile.within] if profile.within else ["user_id"]
    texts = text_column(profile.poi_column, places.schema[profile.poi_column])
    values = places.select("poi_id", value=texts.str.split(",")).explode("value")
    values = values.with_columns(pl.col("value").str.strip_chars())
    values = values.filter(pl.col("value") != "")
    return (
        orders.select(*key, "poi_id", "day")
        .join(values, on="poi_id", maintain_order="left_right")
        .group_by(*key, "value", "day", maintain_order=True)
        .agg(count=pl.len().cast(pl.Float64))
        .sort(*key, "value", "day")
    )


def favourites(
    daily: pl.DataFrame,
    day: date,
    users: pl.DataFrame,
    profile: ProfileConfig,
    half_life_days: float,
) -> pl.DataFrame:
    """Returns the most frequent values of each of some users before a day, joined by commas.

    `daily` comes from `daily_values`. The result has the columns of the key, and the values as a
    column named after the profile.
    """
    key = [name for name in daily.columns if name not in ("value", "day", "count")]
    sums = as_of(daily, day, [*key, "value"], half_life_days, users)
    return (
        sums.sort("count", "value", descending=[True, False])
        .group_by(key, maintain_order=True)
        .agg(pl.col("value").head(profile.top).str.join(", ").alias(profile.name))
    )


def daily_spending(orders: pl.DataFrame, places: pl.DataFrame) -> pl.DataFrame:
    """Returns per user and day the sum of the prices of the orders and their number."""
    prices = places.select("poi_id", spent_yuan="poi_price_yuan").drop_nulls()
    return (
        orders.select("user_id", "poi_id", "day")
        .join(prices, on="poi_id", maintain_order="left")
        .group_by("user_id", "day", maintain_order=True)
        .agg(pl.col("spent_yuan").sum(), priced_orders=pl.len().cast(pl.Float64))
        .sort("user_id", "day")
    )


def recent_places(
    events: pl.DataFrame, day: date, users: pl.DataFrame, length: int
) -> pl.DataFrame:
    """Returns the latest distinct places of each of some users before a day, newest first.

    `events` has user_id, poi_id, time, day; the result has user_id, recent (list of poi_id).
    """
    return (
        events.sort("time", "poi_id", descending=True)
        .filter(pl.col("day") < day)
        .join(users, on="user_id", how="semi", maintain_order="left")
        .group_by("user_id", maintain_order=True)
        .agg(recent=pl.col("poi_id").unique(maintain_order=True).head(length))
    )
