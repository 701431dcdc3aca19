"""Columns derived from the time of a row: the scene in words."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

import polars as pl


def _by_number(words: dict[str, Iterable[int]]) -> dict[int, str]:
    return {number: word for word, numbers in words.items() for number in numbers}


TIME_COLUMNS = ("day", "hour", "meal_slot", "hour_band", "day_kind", "season")
MEAL_SLOTS = _by_number(
    {
        "breakfast": range(5, 10),
        "lunch": range(10, 14),
        "afternoon tea": range(14, 17),
        "dinner": range(17, 21),
        "late night": (21, 22, 23, 0, 1, 2, 3, 4),
    }
)
"""Hour -> meal slot."""
HOUR_BANDS = {hour: f"{hour} o'clock" for hour in range(24)}
"""Hour -> hour as a category, since a text or a vocabulary needs a word."""
DAY_KINDS = _by_number({"weekday": range(1, 6), "weekend": (6, 7)})
"""ISO day of the week -> kind of day."""
SEASONS = _by_number(
    {"winter": (12, 1, 2), "spring": (3, 4, 5), "summer": (6, 7, 8), "autumn": (9, 10, 11)}
)
"""Month -> season of the northern hemisphere."""


def with_time_columns(frame: pl.DataFrame) -> pl.DataFrame:
    """Returns the frame with `TIME_COLUMNS` of its column `time`."""
    time, hour = pl.col("time").dt, pl.col("time").dt.hour()
    return frame.with_columns(
        day=time.date(),
        hour=hour,
        meal_slot=hour.replace_strict(MEAL_SLOTS, return_dtype=pl.String),
        hour_band=hour.replace_strict(HOUR_BANDS, return_dtype=pl.String),
        day_kind=time.weekday().replace_strict(DAY_KINDS, return_dtype=pl.String),
        season=time.month().replace_strict(SEASONS, return_dtype=pl.String),
    )


def time_columns(time: datetime) -> dict[str, object]:
    """Returns the same columns for the time of one request, without a data frame."""
    return {
        "day": time.date(),
        "hour": time.hour,
        "meal_slot": MEAL_SLOTS[time.hour],
        "hour_band": HOUR_BANDS[time.hour],
        "day_kind": DAY_KINDS[time.isoweekday()],
        "season": SEASONS[time.month],
    }
