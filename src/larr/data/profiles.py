"""What the earlier orders of a user contain: favourite values, prices, and the latest places."""

from __future__ import annotations

from typing import Any

import polars as pl

from larr.config.data import ProfileConfig
from larr.data.statistics import as_of
from larr.data.values import text_column


def daily_values(
    orders: pl.DataFrame, places: pl.DataFrame, profile: ProfileConfig
) -> pl.DataFrame:
    """Returns how often a user ordered each value of the profile's column on each day.

    Columns: those of `profile_key`, `value`, `day`, `count`.
    """
    key = profile_key(profile)
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


def profile_key(profile: ProfileConfig) -> list[str]:
    """Returns the columns within which orders are counted: the user and maybe a scene column."""
    return ["user_id", profile.within] if profile.within else ["user_id"]


def favourites(
    daily: pl.DataFrame, wanted: pl.DataFrame, profile: ProfileConfig, half_life_days: float
) -> pl.DataFrame:
    """Returns the most frequent values before each wanted day, joined by commas.

    `daily` comes from `daily_values`; `wanted` has `day` and some or all columns of the key. The
    result has all columns of the key, `day`, and the values as a column named after the profile.
    """
    key = profile_key(profile)
    sums = as_of(daily, wanted, [*key, "value"], half_life_days)
    return (
        sums.sort("count", "value", descending=[True, False])
        .group_by(*key, "day", maintain_order=True)
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


def recent_places(events: pl.DataFrame, wanted: pl.DataFrame, length: int) -> pl.DataFrame:
    """Returns the latest distinct places of each wanted user before each day, newest first.

    `events` has user_id, poi_id, time, day; the result has user_id, day, recent (list of poi_id).
    """
    newest = events.sort("time", "poi_id", descending=True)
    schema: dict[str, Any] = {"user_id": pl.String, "recent": pl.List(pl.String), "day": pl.Date}
    parts = [pl.DataFrame(schema=schema)]
    days = wanted.select("user_id", "day").unique(maintain_order=True).sort("day")
    for (day,), users in days.group_by("day", maintain_order=True):
        parts.append(
            newest.filter(pl.col("day") < day)
            .join(users.select("user_id"), on="user_id", how="semi", maintain_order="left")
            .group_by("user_id", maintain_order=True)
            .agg(recent=pl.col("poi_id").unique(maintain_order=True).head(length))
            .with_columns(pl.lit(day).alias("day"))
        )
    return pl.concat(parts)
