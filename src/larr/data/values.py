"""Values of a table as the types of the data contract: times, labels and texts.

Every expression gives null for what cannot be read. Times are those that a clock at the place
shows, without a zone.
"""

from __future__ import annotations

import polars as pl

YEAR_FIRST = r"^\d{4}\D"
"""A date with another order is not read: 04/05/2024 may be in April or in May."""
OFFSET = r"(\d{2}:\d{2}(?::\d{2}(?:\.\d+)?)?)\s*(?:Z|UTC|[+-]\d{2}(?::?\d{2})?)$"
"""A time of day (group 1) and its offset from UTC at the end of a text."""
SIGNED_OFFSET = r":\d{2}(?:\.\d+)?\s*([+-])(\d{2}):?(\d{2})?$"
"""Sign, hours and minutes of an offset; Z and UTC have none."""
TRUTH = dict.fromkeys(("true", "t", "yes", "y", "1", "1.0"), True)
TRUTH |= dict.fromkeys(("false", "f", "no", "n", "0", "0.0"), False)


def as_type(column: str, dtype: pl.DataType, wanted: pl.DataType, zone: str) -> pl.Expr:
    """Returns a column of type `dtype` in the type `wanted`; times as clocks in `zone` show them.

    A zone of "" keeps the reading of the clock and drops the offset.
    """
    value = pl.col(column)
    if wanted == pl.Datetime:
        return _as_time(value, dtype, zone)
    if wanted == pl.String and dtype.is_float():
        return text_column(column, dtype)
    if wanted == pl.Boolean and dtype == pl.String:
        words = value.str.to_lowercase()
        return words.replace_strict(TRUTH, default=None, return_dtype=pl.Boolean)
    if wanted == pl.Boolean and dtype.is_numeric():
        # Logs often hold how many clicks a row had; a fraction or a negative number is no count.
        return pl.when((value >= 0) & (value % 1 == 0)).then(value > 0)
    return value.cast(wanted, strict=False)


def text_column(column: str, dtype: pl.DataType) -> pl.Expr:
    """Returns a column as it is written in a text or a vocabulary.

    4.0 becomes "4": readers of files turn whole numbers into floats as soon as one is missing.
    """
    value = pl.col(column)
    if not dtype.is_float():
        return value.cast(pl.String)
    whole = value.cast(pl.Int64, strict=False)
    return pl.when(whole == value).then(whole.cast(pl.String)).otherwise(value.cast(pl.String))


def _as_time(value: pl.Expr, dtype: pl.DataType, zone: str) -> pl.Expr:
    if dtype == pl.String:
        dated = pl.when(value.str.contains(YEAR_FIRST)).then(value.str.replace(OFFSET, "$1"))
        clock = dated.str.to_datetime(strict=False, time_unit="us")
        if not zone:
            return clock
        # Only a text with an offset is an instant that can be moved to another zone.
        sign, hours, minutes = (value.str.extract(SIGNED_OFFSET, group) for group in (1, 2, 3))
        size = hours.cast(pl.Int64) * 60 + minutes.cast(pl.Int64).fill_null(0)
        offset = pl.duration(minutes=pl.when(sign == "-").then(-size).otherwise(size).fill_null(0))
        moved = _in_zone(clock - offset, zone)
        return pl.when(value.str.contains(OFFSET)).then(moved).otherwise(clock)
    if dtype.is_numeric():
        # The sizes of seconds, milliseconds, microseconds and nanoseconds since 1970 do not
        # overlap until 5138.
        number = value.cast(pl.Int64, strict=False)
        microseconds = (
            pl.when(number < 1e11)
            .then(number * 1_000_000)
            .when(number < 1e14)
            .then(number * 1_000)
            .when(number < 1e17)
            .then(number)
            .otherwise(number // 1_000)
        )
        instant = microseconds.cast(pl.Datetime("us"))
        return _in_zone(instant, zone) if zone else instant
    if isinstance(dtype, pl.Datetime) and dtype.time_zone:
        value = value.dt.convert_time_zone(zone or dtype.time_zone).dt.replace_time_zone(None)
    return value.cast(pl.Datetime("us"), strict=False)


def _in_zone(utc: pl.Expr, zone: str) -> pl.Expr:
    return utc.dt.replace_time_zone("UTC").dt.convert_time_zone(zone).dt.replace_time_zone(None)
