"""Applies the rules of the data contract to the rows of a table."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import polars as pl
import polars.selectors as cs

from larr.config import Config
from larr.data.contract import (
    NUMBER,
    TABLES,
    Column,
    Violations,
    column_violations,
    row_violations,
)
from larr.data.names import own_categories, own_names, own_numbers
from larr.data.values import LARGEST_EXACT, NESTED, ROUNDED, SHORT, as_type, is_naive
from larr.errors import DataError

EARLIEST_ZONE = timedelta(hours=14)
"""The largest offset from UTC of any time zone."""
REASONS = ("reason", "columns")
"""The first columns of rejected rows; given columns with these names get a suffix."""
IDS = ("request_id", "user_id", "poi_id")


class Checked(NamedTuple):
    """The result of checking some rows."""

    good: pl.DataFrame
    """The valid rows, in the types of the contract."""
    rejected: pl.DataFrame
    """The invalid rows as given, after `reason` (joined by "; ") and the list `columns` of the
    broken rules, see `larr.data.contract.Violations`."""
    blanked: pl.DataFrame
    """The invalid values in optional columns of the valid rows, which became null: the required
    columns of their row, `column`, `value`, `reason`."""
    markers: Counter[tuple[str, str]]
    """(column, marker of a missing value) -> number of occurrences."""
    values: Counter[str]
    """Column -> number of values."""


@dataclass
class Checks:
    """Checks rows of any table."""

    config: Config
    known: dict[str, pl.Series] = field(default_factory=dict)
    """The valid IDs of users and places, to which later tables refer."""
    rejected: dict[str, pl.Series] = field(default_factory=dict)
    """The IDs of rejected users and places."""
    now: datetime = field(
        default_factory=lambda: datetime.now(UTC).replace(tzinfo=None) + EARLIEST_ZONE
    )
    """The time in the earliest zone, as the times in tables are local."""

    def check(self, table: str, frame: pl.DataFrame) -> Checked:
        """Returns the valid and invalid rows of a table, or of one of its chunks.

        `frame` has the types of `larr.data.values.plain`. Raises DataError for a column with
        nested values, rounded IDs or ambiguous times.
        """
        contract, tables = TABLES[table], self.config.dataset.tables
        columns = self._columns(table, frame)
        for name, dtype in frame.select(*columns).schema.items():
            if isinstance(dtype, NESTED):
                raise DataError(
                    f"table {table}: column {name} holds {dtype}; give one text, number, Boolean "
                    "or time per row"
                )
        frame = frame.with_columns(_written_out(frame.select(cs.by_name(*IDS, require_all=False))))
        looked_up = own_categories(self.config, table) - own_numbers(self.config, table)
        _check_ids(table, frame.select(cs.by_name(*IDS, *looked_up, require_all=False)))
        given, markers = _without_markers(frame, self.config.dataset.missing)
        typed = pl.DataFrame(
            [as_type(given[name], column.dtype, tables) for name, column in columns.items()]
        )
        if tables.time_zone and not tables.naive_times and "time" in frame.columns:
            _check_times(table, given["time"], tables.time_zone)
        found = column_violations(columns, given, typed)
        violations = {rule: rows for rule, rows in found.items() if columns[rule[0]].rejects}
        blanked = {rule: rows for rule, rows in found.items() if rule not in violations}
        violations |= row_violations(contract, typed, self.known, self.rejected, self.now)
        is_bad = pl.select(pl.any_horizontal(*violations.values())).to_series()
        good = typed.with_columns(given.drop(typed.columns))
        cells = []
        for (name, reason), rows in blanked.items():
            if rows.any():
                good = good.with_columns(pl.when(~rows).then(name).alias(name))
                of_cell = frame.filter(rows & ~is_bad).select(
                    *contract.required,
                    column=pl.lit(name),
                    value=pl.col(name).cast(pl.String),
                    reason=pl.lit(reason),
                )
                cells.append(of_cell)
        return Checked(
            good.filter(~is_bad),
            with_reasons(frame, violations),
            pl.concat(cells) if cells else pl.DataFrame(schema=["column", "value", "reason"]),
            markers,
            Counter({name: given[name].count() for name in columns}),
        )

    def _columns(self, table: str, frame: pl.DataFrame) -> dict[str, Column]:
        """Returns the typed columns: those of the contract, and numeric columns of the user."""
        own = own_numbers(self.config, table).intersection(frame.select(cs.string()).columns)
        # Clients send numbers for features, but can send true or false for buckets.
        features = own_names(table, self.config.features.numbers)
        own |= features.intersection(frame.select(cs.boolean()).columns)
        columns = dict.fromkeys(sorted(own), NUMBER) | TABLES[table].columns
        return {name: column for name, column in columns.items() if name in frame.columns}


def _written_out(ids: pl.DataFrame) -> pl.DataFrame:
    """Returns IDs without the exponents of R: 9e+05 becomes 900000."""
    texts = ids.select(cs.string())
    number = cs.string().cast(pl.Float64, strict=False).cast(pl.Int64, strict=False)
    is_short = cs.string().str.contains(SHORT)
    return texts.with_columns(pl.when(is_short).then(number.cast(pl.String)).otherwise(cs.string()))


def _check_ids(table: str, frame: pl.DataFrame) -> None:
    """Raises DataError for IDs that were rounded to floats."""
    for name, dtype in frame.schema.items():
        if dtype.is_float():
            is_rounded = pl.col(name).is_finite() & (pl.col(name).abs() >= LARGEST_EXACT[dtype])
        elif dtype == pl.String and name in IDS:
            is_rounded = pl.col(name).str.contains(ROUNDED)
        else:
            continue
        rounded = frame[name].filter(frame.select(is_rounded.fill_null(value=False)).to_series())
        if len(rounded):
            raise DataError(
                f"table {table}: {name} holds floats, such as {rounded[0]}, which are too large "
                "to represent every integer: different IDs may have been rounded to the same "
                "value. Export the column as integers or texts"
            )


def _check_times(table: str, time: pl.Series, zone: str) -> None:
    """Raises DataError for times without an offset from UTC."""
    naive = time.to_frame().filter(is_naive(pl.col("time"), time.dtype))["time"]
    if len(naive):
        raise DataError(
            f"table {table}: a time such as {naive[0]} has no offset from UTC, and "
            f"dataset.tables.time_zone is {zone}. Set dataset.tables.naive_times: "
            f'"local" if these times are already in {zone}, "utc" if they must be converted'
        )


def _without_markers(
    frame: pl.DataFrame, missing: list[str]
) -> tuple[pl.DataFrame, Counter[tuple[str, str]]]:
    """Returns the rows with null for markers of missing values, blank texts, NaN and infinity.

    Also returns how often each marker occurs in each column.
    """
    columns, markers = [], Counter[tuple[str, str]]()
    for column in frame.select(cs.string()):
        text = column.str.strip_chars()
        is_marker = text.is_in(missing)
        counts = text.filter(is_marker).alias("marker").value_counts()
        markers.update({(column.name, marker): count for marker, count in counts.iter_rows()})
        columns.append(column.set(is_marker | (text == ""), None))
    given = frame.with_columns(columns)
    given = given.with_columns(pl.when(cs.float().is_finite()).then(cs.float()))
    # Via text, float32 becomes the shortest decimal: 5.4, not 5.400000095367432.
    short = (cs.float() - cs.by_dtype(pl.Float64)).cast(pl.String).cast(pl.Float64)
    return given.with_columns(short), markers


def with_reasons(rows: pl.DataFrame, violations: Violations) -> pl.DataFrame:
    """Returns the rows that break a rule, as in `Checked.rejected`."""
    is_bad = pl.select(pl.any_horizontal(*violations.values())).to_series()
    given = rows.filter(is_bad)
    violations = {rule: mask.filter(is_bad) for rule, mask in violations.items()}
    columns = [pl.when(mask).then(pl.lit(column)) for (column, _), mask in violations.items()]
    reasons = [pl.when(mask).then(pl.lit(reason)) for (_, reason), mask in violations.items()]
    for name in {*REASONS}.intersection(given.columns):
        new = f"{name}_given"
        while new in given.columns:
            new += "_given"
        given = given.rename({name: new})
    return given.select(
        pl.concat_str(reasons, separator="; ", ignore_nulls=True).alias("reason"),
        pl.concat_list(columns).list.drop_nulls().alias("columns"),
        pl.all(),
    )
