"""The values of cells: those of any type are read as texts, numbers, Booleans and times.

Columns of the user's own must hold what a client can send as JSON, since the same columns are
served.
"""

from __future__ import annotations

import re

import polars as pl

from larr.config.data import TablesConfig
from larr.data.contract import TABLES
from larr.data.names import INTERNAL
from larr.data.transforms import text_column
from larr.errors import DataError

NESTED = (pl.List, pl.Array, pl.Struct, pl.Binary, pl.Object)
"""Types whose values larr cannot read; most lists are read as texts before."""
UNUSABLE = re.compile(rf"^(\^.*\$|\*|{INTERNAL}.*|)$")
"""Names that polars reads as patterns, names that larr uses, and none."""
TIME_FORMATS: dict[type[pl.DataType], str] = {
    pl.Date: "%Y-%m-%d",
    pl.Time: "%H:%M:%S%.f",
    pl.Datetime: "%Y-%m-%dT%H:%M:%S%.f",
}
YEAR_FIRST = r"^\d{4}\D"
"""A date with another order is not read: 04/05/2024 may be in April or in May."""
OFFSET = r"(\d{2}:\d{2}(?::\d{2}(?:\.\d+)?)?)\s*(?:Z|UTC|[+-]\d{2}(?::?\d{2})?)$"
"""A time of day (group 1) and its offset from UTC at the end of a text."""
SIGNED_OFFSET = r":\d{2}(?:\.\d+)?\s*([+-])(\d{2}):?(\d{2})?$"
"""Sign, hours and minutes of an offset; Z and UTC have none."""
TRUTH = {"true": 1.0, "false": 0.0}
LABELS = TRUTH | {"t": 1.0, "yes": 1.0, "y": 1.0, "f": 0.0, "no": 0.0, "n": 0.0}
LARGEST_EXACT: dict[pl.DataType, int] = {
    pl.Float16(): 2**11,
    pl.Float32(): 2**24,
    pl.Float64(): 2**53,
}
"""From here on floats leave whole numbers out, so that two IDs may have become one."""
ROUNDED = r"^-?(\d{16,}\.0|\d+(\.\d+)?[eE]\+\d+)$"
"""The same as texts: what spreadsheets and pandas write of large floats."""


def plain(table: pl.LazyFrame, name: str) -> pl.LazyFrame:
    """Returns a table of the contract without types that JSON lacks, lazily.

    Encoded texts and lists of texts or whole numbers become texts, decimals and durations (in
    seconds) numbers, dates and times texts as in ISO 8601. Columns of type `NESTED` stay.
    """
    contract = TABLES[name].columns
    columns = {}
    if wrong := [n for n in table.collect_schema() if UNUSABLE.search(n)]:
        raise DataError(
            f"table {name}: no column may be called {wrong[0]!r}; rename it "
            "([dataset.tables.rename]), or give it another name in SQL"
        )
    for column, dtype in table.collect_schema().items():
        wanted = contract[column].dtype if column in contract else None
        if wanted != pl.Datetime or dtype.base_type() not in (pl.Date, pl.Datetime):
            columns[column] = _plain(pl.col(column), dtype)
    return table.with_columns(**columns)


def _plain(value: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    if isinstance(dtype, pl.Decimal):
        # Whole numbers may have more digits than a float keeps.
        return value.cast(pl.Float64 if dtype.scale else pl.String)
    if dtype in (pl.Categorical, pl.Enum, pl.Null, pl.Int128, pl.UInt128):
        return value.cast(pl.String)
    if dtype == pl.Duration:
        return value.dt.total_microseconds() / 1e6
    if dtype.base_type() in TIME_FORMATS:
        return value.dt.to_string(TIME_FORMATS[dtype.base_type()])
    if isinstance(dtype, pl.List | pl.Array):
        inner = dtype.inner
        if inner.is_integer() or inner in (pl.String, pl.Categorical, pl.Enum, pl.Boolean):
            # Commas separate the values from here on.
            texts = pl.element().cast(pl.String).str.replace_all(",", ";")
            return value.cast(pl.List(inner)).list.eval(texts).list.join(", ")
    return value


def as_type(column: str, dtype: pl.DataType, wanted: pl.DataType, tables: TablesConfig) -> pl.Expr:
    """Returns a column of type `dtype` in the type `wanted`; null for what cannot be read."""
    value = pl.col(column)
    if wanted == pl.Datetime:
        return _as_time(value, dtype, tables)
    if wanted == pl.String:
        return text_column(column, dtype)
    if isinstance(wanted, pl.Enum):
        return value.cast(pl.String).cast(wanted, strict=False)
    number = _as_number(value, dtype, LABELS if wanted == pl.Boolean else TRUTH)
    if wanted == pl.Boolean:
        # Logs often hold how many clicks a row had; a fraction or a negative number is no count.
        return pl.when((number >= 0) & (number % 1 == 0)).then(number > 0)
    if wanted.is_integer():
        return pl.when(number % 1 == 0).then(number).cast(wanted, strict=False)
    return number


def _as_number(value: pl.Expr, dtype: pl.DataType, words: dict[str, float]) -> pl.Expr:
    """Returns float64; null for what is no number, infinity and NaN among it."""
    if dtype == pl.String:
        text = value.str.strip_chars().str.to_lowercase()
        word = text.replace_strict(words, default=None, return_dtype=pl.Float64)
        value = pl.coalesce(word, text.cast(pl.Float64, strict=False))
    number = value.cast(pl.Float64, strict=False)
    return pl.when(number.is_finite()).then(number)


def is_naive(value: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    """Returns whether each value is a date and a time of day, without an offset."""
    if dtype == pl.String:
        is_dated = value.str.contains(YEAR_FIRST) & value.str.contains(":", literal=True)
        return is_dated & ~value.str.contains(OFFSET)
    return pl.lit(isinstance(dtype, pl.Datetime) and dtype.time_zone is None)


def _as_time(value: pl.Expr, dtype: pl.DataType, tables: TablesConfig) -> pl.Expr:
    """Returns the times that a clock at the place shows, without a zone.

    Without `tables.time_zone` the reading of the clock is kept and the offset dropped.
    """
    zone = tables.time_zone
    if dtype.is_numeric():
        return _instant(value.cast(pl.Int64, strict=False), zone)
    if isinstance(dtype, pl.Datetime) and dtype.time_zone:
        value = value.dt.convert_time_zone(zone or dtype.time_zone).dt.replace_time_zone(None)
        return value.cast(pl.Datetime("us"))
    clock = value
    if dtype == pl.String:
        dated = pl.when(value.str.contains(YEAR_FIRST)).then(value.str.replace(OFFSET, "$1"))
        clock = dated.str.to_datetime(strict=False, time_unit="us")
    local = clock.cast(pl.Datetime("us"), strict=False)
    if tables.naive_times == "utc":
        local = pl.when(is_naive(value, dtype)).then(_in_zone(local, zone)).otherwise(local)
    if dtype != pl.String:
        return local
    if zone:
        # A text with an offset is an instant, which can be moved to another zone.
        sign, hours, minutes = (value.str.extract(SIGNED_OFFSET, group) for group in (1, 2, 3))
        size = hours.cast(pl.Int64) * 60 + minutes.cast(pl.Int64).fill_null(0)
        offset = pl.duration(minutes=pl.when(sign == "-").then(-size).otherwise(size).fill_null(0))
        moved = _in_zone(clock - offset, zone)
        local = pl.when(value.str.contains(OFFSET)).then(moved).otherwise(local)
    number = pl.coalesce(
        value.cast(pl.Int64, strict=False),
        value.cast(pl.Float64, strict=False).cast(pl.Int64, strict=False),
    )
    return pl.coalesce(local, _instant(number, zone))


def _instant(number: pl.Expr, zone: str) -> pl.Expr:
    """Returns the times of numbers (int64) of seconds to nanoseconds since 1970."""
    # The sizes of seconds, milliseconds, microseconds and nanoseconds do not overlap until 5138.
    microseconds = number // 1_000
    for limit, factor in ((1e17, 1), (1e14, 1_000), (1e11, 1_000_000)):
        microseconds = pl.when(number < limit).then(number * factor).otherwise(microseconds)
    instant = microseconds.cast(pl.Datetime("us"))
    return _in_zone(instant, zone) if zone else instant


def _in_zone(utc: pl.Expr, zone: str) -> pl.Expr:
    return utc.dt.replace_time_zone("UTC").dt.convert_time_zone(zone).dt.replace_time_zone(None)
