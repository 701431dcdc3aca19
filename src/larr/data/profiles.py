"""What a user's earlier orders say: favourite values in words, and the latest places."""

from __future__ import annotations

from typing import Any

import polars as pl

from larr.config.data import ProfileConfig
from larr.data.statistics import as_of
from larr.data.values import text_column


def daily_values(
    orders: pl.DataFrame, places: pl.DataFrame, profile: ProfileConfig
) -> pl.DataFrame:
    """How often a user ordered each value of the profile's column on each day."""
    key = profile_key(profile)
    values = places.select(
        "poi_id",
        value=text_column(profile.poi_column, places.schema[profile.poi_column]).str.split(","),
    ).explode("value")
    values = values.with_columns(pl.col("value").str.strip_chars()).filter(
        pl.col("value").str.len_chars() > 0
    )
    return (
        orders.select(*key, "poi_id", "day")
        .join(values, on="poi_id", maintain_order="left_right")
        .group_by(*key, "value", "day", maintain_order=True)
        .agg(count=pl.len().cast(pl.Float64))
        .sort(*key, "value", "day")
    )


def profile_key(profile: ProfileConfig) -> list[str]:
    """The user, and the scene column within which orders are counted."""
    return ["user_id", profile.within] if profile.within else ["user_id"]


def favourites(
    daily: pl.DataFrame, wanted: pl.DataFrame, profile: ProfileConfig, half_life_days: float
) -> pl.DataFrame:
    """The commonest values before each wanted day, joined by commas, the commonest first.

    `wanted` has `day` and some or all columns of the profile's key; so has what is given back all.
    """
    key = profile_key(profile)
    sums = as_of(daily, wanted, [*key, "value"], half_life_days)
    return (
        sums.sort("count", "value", descending=[True, False])
        .group_by(*key, "day", maintain_order=True)
        .agg(pl.col("value").head(profile.top).str.join(", ").alias(profile.name))
    )


def daily_spending(orders: pl.DataFrame, places: pl.DataFrame) -> pl.DataFrame:
    """The prices of each user's orders on each day, summed, and how many there were."""
    prices = places.select("poi_id", spent_yuan="poi_price_yuan").drop_nulls()
    return (
        orders.select("user_id", "poi_id", "day")
        .join(prices, on="poi_id", maintain_order="left")
        .group_by("user_id", "day", maintain_order=True)
        .agg(pl.col("spent_yuan").sum(), priced_orders=pl.len().cast(pl.Float64))
        .sort("user_id", "day")
    )


def recent_places(events: pl.DataFrame, wanted: pl.DataFrame, length: int) -> pl.DataFrame:
    """The latest distinct places of each wanted user before each day, most recent first.

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
