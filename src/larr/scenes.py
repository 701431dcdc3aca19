"""When it is, in words: columns derived from the time of a row."""

from __future__ import annotations

import polars as pl

TIME_COLUMNS = ("day", "hour", "meal_slot", "hour_band", "day_kind", "season")


def with_time_columns(frame: pl.DataFrame) -> pl.DataFrame:
    """Adds the day, hour, meal slot, hour band, kind of day and season (northern) of `time`."""
    hour = pl.col("time").dt.hour()
    meal_slot = (
        pl.when(hour.is_between(5, 9))
        .then(pl.lit("breakfast"))
        .when(hour.is_between(10, 13))
        .then(pl.lit("lunch"))
        .when(hour.is_between(14, 16))
        .then(pl.lit("afternoon tea"))
        .when(hour.is_between(17, 20))
        .then(pl.lit("dinner"))
        .otherwise(pl.lit("late night"))
    )
    weekend = pl.col("time").dt.weekday() >= 6
    return frame.with_columns(
        day=pl.col("time").dt.date(),
        hour=hour,
        meal_slot=meal_slot,
        hour_band=pl.format("{} o'clock", hour),
        day_kind=pl.when(weekend).then(pl.lit("weekend")).otherwise(pl.lit("weekday")),
        season=pl.col("time").dt.month().replace_strict(_SEASONS, return_dtype=pl.String),
    )


_SEASONS = {
    month: season
    for season, months in {
        "winter": (12, 1, 2),
        "spring": (3, 4, 5),
        "summer": (6, 7, 8),
        "autumn": (9, 10, 11),
    }.items()
    for month in months
}
