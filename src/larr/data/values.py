"""Converts cell values of any type to texts, numbers, Booleans and times.

Columns outside the contract must hold values that JSON can represent, as clients send the same
columns when serving.
"""

from __future__ import annotations

import re
from typing import Any

import polars as pl
from polars.exceptions import ComputeError

from larr.config.data import TablesConfig
from larr.data.contract import TABLES
from larr.data.names import INTERNAL
from larr.data.transforms import as_texts, text_value
from larr.errors import DataError

NESTED = (pl.List, pl.Array, pl.Struct, pl.Object)
"""Types that larr cannot read, except most lists, which `plain` converts to texts."""
UNUSABLE = re.compile(rf"^(\^.*\$|\*|{INTERNAL}.*|)$")
"""Invalid column names: polars patterns, larr's internal names, and the empty name."""
TIME_FORMATS: dict[type[pl.DataType], str] = {
    pl.Date: "%Y-%m-%d",
    pl.Time: "%H:%M:%S%.f",
    pl.Datetime: "%Y-%m-%dT%H:%M:%S%.f",
}
YEAR_FIRST = r"^\d{4}\D"
"""Other orders are ambiguous: 04/05/2024 can be in April or in May."""
FAST_FORMATS = ("%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S")
"""Other formats are detected for each value, which is several times slower."""
OFFSET = r"(\d{2}:\d{2}(?::\d{2}(?:\.\d+)?)?)\s*(?:Z|UTC|[+-]\d{2}(?::?\d{2})?)$"
"""A time of day (group 1) and its offset from UTC at the end of a text."""
SIGNED_OFFSET = r":\d{2}(?:\.\d+)?\s*([+-])(\d{2}):?(\d{2})?$"
"""Sign, hours and minutes of an offset; Z and UTC have none."""
EPOCHS = ((1e11, 1), (1e14, 10**3), (1e17, 10**6))
"""Upper limits of seconds, milliseconds and microseconds since 1970, and their number per second;
larger times are in nanoseconds. The ranges do not overlap until the year 5138."""
TRUTH = {"true": 1.0, "false": 0.0}
LABELS = TRUTH | {"t": 1.0, "yes": 1.0, "y": 1.0, "f": 0.0, "no": 0.0, "n": 0.0}
LARGEST_EXACT: dict[pl.DataType, int] = {
    pl.Float16(): 2**11,
    pl.Float32(): 2**24,
    pl.Float64(): 2**53,
}
"""From these values on, floats cannot represent every integer, so distinct IDs can collide."""
ROUNDED = r"^-?(\d{16,}\.0|\d+(\.\d+)?[eE]\+\d+)$"
"""Such floats as texts, as spreadsheets and pandas write them."""
SHORT = r"^[1-9](\.\d{1,4})?e\+(0[5-9]|1[0-4])$"
"""Whole numbers that R writes with an exponent, as that is shorter: 100000 as 1e+05."""


def plain(table: pl.LazyFrame, name: str) -> pl.LazyFrame:
    """Returns a table of the contract with JSON-compatible types, lazily.

    Categoricals, lists of texts or integers, and binary values (in hex if they are not UTF-8)
    become texts; decimals and durations (in seconds) become numbers; dates and times become ISO
    8601 texts. Columns of type `NESTED` are kept.
    """
    contract = TABLES[name].columns
    columns = {}
    if wrong := [n for n in table.collect_schema() if UNUSABLE.search(n)]:
        raise DataError(
            f"table {name}: invalid column name {wrong[0]!r}; rename the column "
            "([dataset.tables.rename] or SQL)"
        )
    for column, dtype in table.collect_schema().items():
        wanted = contract[column].dtype if column in contract else None
        if wanted != pl.Datetime or dtype.base_type() not in (pl.Date, pl.Datetime):
            columns[column] = _plain(pl.col(column), dtype)
    return table.with_columns(**columns)


def _plain(value: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    if isinstance(dtype, pl.Decimal):
        # An integer may have more digits than a float can hold.
        value = value.cast(pl.Float64 if dtype.scale else pl.String)
    elif dtype in (pl.Categorical, pl.Enum, pl.Null, pl.Int128, pl.UInt128):
        value = value.cast(pl.String)
    elif dtype == pl.Binary:
        value = value.map_batches(_decoded, return_dtype=pl.String, is_elementwise=True)
    elif dtype == pl.Duration:
        value = value.dt.total_microseconds() / 1e6
    elif dtype.base_type() in TIME_FORMATS:
        value = value.dt.to_string(TIME_FORMATS[dtype.base_type()])
    elif isinstance(dtype, pl.List | pl.Array):
        inner = dtype.inner
        if inner.is_integer() or inner in (pl.String, pl.Categorical, pl.Enum, pl.Boolean):
            # Commas will separate the values.
            texts = pl.element().cast(pl.String).str.replace_all(",", ";")
            value = value.cast(pl.List(inner)).list.eval(texts).list.join(", ")
    return value


def joined(value: Any) -> Any:
    """Returns a list of texts or integers as one text, other values unchanged.

    The value form of `plain`, for columns that clients send.
    """
    if not isinstance(value, list) or not all(isinstance(v, str | int | None) for v in value):
        return value
    return ", ".join(text_value(item).replace(",", ";") for item in value if item is not None)


def _decoded(values: pl.Series) -> pl.Series:
    """Returns bytes as texts: old Parquet writers do not mark texts as such."""
    try:
        return values.cast(pl.String)
    except ComputeError:
        return values.map_elements(_text, return_dtype=pl.String)


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.hex()


def as_type(values: pl.Series, wanted: pl.DataType, tables: TablesConfig) -> pl.Series:
    """Returns a column converted to `wanted`; null if a value cannot be converted."""
    if wanted == pl.Datetime:
        return _as_time(values, tables)
    if wanted == pl.String:
        return as_texts(values)
    if isinstance(wanted, pl.Enum):
        return values.cast(pl.String).cast(wanted, strict=False)
    number = _as_number(values, LABELS if wanted == pl.Boolean else TRUTH)
    if wanted == pl.Boolean:
        # A log may hold numbers of clicks; a negative number or a fraction is invalid.
        return (number > 0).set((number < 0) | (number % 1 != 0), None)
    if wanted.is_integer():
        return number.set(number % 1 != 0, None).cast(wanted, strict=False)
    return number


def _as_number(values: pl.Series, words: dict[str, float]) -> pl.Series:
    """Returns float64; null for values that are not finite numbers."""
    if values.dtype == pl.String:
        values = values.str.strip_chars()
    number = values.cast(pl.Float64, strict=False)
    if values.dtype == pl.String and number.null_count() > values.null_count():
        text = values.str.to_lowercase()
        number = number.fill_null(text.replace_strict(words, default=None, return_dtype=pl.Float64))
    return number.set(~number.is_finite(), None)


def is_naive(value: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    """Returns whether each value is a date with a time of day and without an offset."""
    if dtype == pl.String:
        is_dated = value.str.contains(YEAR_FIRST) & value.str.contains(":", literal=True)
        return is_dated & ~value.str.contains(OFFSET)
    return pl.lit(isinstance(dtype, pl.Datetime) and dtype.time_zone is None)


def _as_time(values: pl.Series, tables: TablesConfig) -> pl.Series:
    """Returns local times, without a zone.

    Without `tables.time_zone` offsets are dropped and the local time kept.
    """
    zone, dtype, value = tables.time_zone, values.dtype, pl.col(values.name)
    rows = values.to_frame()
    if dtype.is_numeric():
        return rows.select(_instant(value.cast(pl.Int64, strict=False), zone)).to_series()
    if isinstance(dtype, pl.Datetime) and dtype.time_zone:
        local = value.dt.convert_time_zone(zone or dtype.time_zone).dt.replace_time_zone(None)
        return rows.select(local.cast(pl.Datetime("us"))).to_series()
    clock = _clock(values) if dtype == pl.String else values.cast(pl.Datetime("us"), strict=False)
    local = pl.lit(clock)
    if tables.naive_times == "utc":
        local = pl.when(is_naive(value, dtype)).then(_in_zone(local, zone)).otherwise(local)
    if dtype == pl.String and zone:
        # A text with an offset is an instant, which can be converted to another zone.
        sign, hours, minutes = (value.str.extract(SIGNED_OFFSET, group) for group in (1, 2, 3))
        size = hours.cast(pl.Int64) * 60 + minutes.cast(pl.Int64).fill_null(0)
        offset = pl.duration(minutes=pl.when(sign == "-").then(-size).otherwise(size).fill_null(0))
        moved = _in_zone(pl.lit(clock) - offset, zone)
        local = pl.when(value.str.contains(OFFSET)).then(moved).otherwise(local)
    if dtype == pl.String and clock.null_count() > values.null_count():
        number = value.cast(pl.Float64, strict=False).cast(pl.Int64, strict=False)
        local = pl.coalesce(local, _instant(number, zone))
    return rows.select(local.alias(values.name)).to_series()


def _clock(texts: pl.Series) -> pl.Series:
    """Returns the times in texts, ignoring their offsets."""
    for form in FAST_FORMATS:
        clock = texts.str.to_datetime(form, time_unit="us", strict=False)
        if clock.null_count() == texts.null_count():
            return clock
    dated = texts.str.replace(OFFSET, "$1").set(~texts.str.contains(YEAR_FIRST), None)
    return dated.str.to_datetime(strict=False, time_unit="us")


def _instant(number: pl.Expr, zone: str) -> pl.Expr:
    """Returns the times of numbers (int64) in one of the units of `EPOCHS`."""
    microseconds = number // 1_000
    for limit, units in reversed(EPOCHS):
        in_unit = number * (10**6 // units)
        microseconds = pl.when(number < limit).then(in_unit).otherwise(microseconds)
    instant = microseconds.cast(pl.Datetime("us"))
    return _in_zone(instant, zone) if zone else instant


def _in_zone(utc: pl.Expr, zone: str) -> pl.Expr:
    return utc.dt.replace_time_zone("UTC").dt.convert_time_zone(zone).dt.replace_time_zone(None)
