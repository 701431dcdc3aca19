"""When it is, in words: columns derived from the time of a row."""

from __future__ import annotations

from datetime import datetime

import polars as pl

TIME_COLUMNS = ("day", "hour", "meal_slot", "hour_band", "day_kind", "season")
MEAL_SLOTS = {
    hour: slot
    for slot, hours in {
        "breakfast": range(5, 10),
        "lunch": range(10, 14),
        "afternoon tea": range(14, 17),
        "dinner": range(17, 21),
        "late night": (21, 22, 23, 0, 1, 2, 3, 4),
    }.items()
    for hour in hours
}
"""Hour -> meal slot."""
SEASONS = {
    month: season
    for season, months in {
        "winter": (12, 1, 2),
        "spring": (3, 4, 5),
        "summer": (6, 7, 8),
        "autumn": (9, 10, 11),
    }.items()
    for month in months
}
"""Month -> season (northern)."""
DAY_KINDS = {day: "weekend" if day >= 6 else "weekday" for day in range(1, 8)}
"""ISO day of the week -> kind of day."""
HOUR_BANDS = {hour: f"{hour} o'clock" for hour in range(24)}


def with_time_columns(frame: pl.DataFrame) -> pl.DataFrame:
    """Adds the day, hour, meal slot, hour band, kind of day and season of `time`."""
    hour, time = pl.col("time").dt.hour(), pl.col("time").dt
    return frame.with_columns(
        day=time.date(),
        hour=hour,
        meal_slot=hour.replace_strict(MEAL_SLOTS, return_dtype=pl.String),
        hour_band=hour.replace_strict(HOUR_BANDS, return_dtype=pl.String),
        day_kind=time.weekday().replace_strict(DAY_KINDS, return_dtype=pl.String),
        season=time.month().replace_strict(SEASONS, return_dtype=pl.String),
    )


def time_columns(time: datetime) -> dict[str, object]:
    """The same columns of one moment."""
    return {
        "day": time.date(),
        "hour": time.hour,
        "meal_slot": MEAL_SLOTS[time.hour],
        "hour_band": HOUR_BANDS[time.hour],
        "day_kind": DAY_KINDS[time.isoweekday()],
        "season": SEASONS[time.month],
    }
