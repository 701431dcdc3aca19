"""The rules of the data contract, applied to the rows of a table.

A bad value in an optional column does not reject its row: the value is missing from then on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
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
    Rule,
    Table,
    broken_in_columns,
    broken_in_rows,
    sentence,
)
from larr.data.names import by_table, own_categories, own_numbers
from larr.data.values import LARGEST_EXACT, NESTED, ROUNDED, as_type, is_naive
from larr.errors import DataError

EARLIEST_ZONE = timedelta(hours=14)
"""The offset from UTC of the zone that reaches a date first."""
WHY = ("reason", "broken_rules")
"""Columns in front of rejected rows; columns of the user with these names get a suffix."""
IDS = ("request_id", "user_id", "poi_id")


def latest_clock() -> datetime:
    """Returns the latest time that any clock shows now, as times of the contract are local."""
    return datetime.now(UTC).replace(tzinfo=None) + EARLIEST_ZONE


class Checked(NamedTuple):
    """What has become of some rows."""

    good: pl.DataFrame
    """The good rows, in the types of the contract."""
    rejected: pl.DataFrame
    """The others as given, after `reason` (sentences joined by "; ") and `broken_rules` (a list of
    structs with the fields of `Rule`)."""
    blanked: pl.DataFrame
    """A row for each bad value of the good rows: the required columns of its row, `column`,
    `value`, `reason`."""
    words: Counter[tuple[str, str]]
    """How often a column has a word for a missing value."""
    values: Counter[str]
    """How many values each column has."""


@dataclass
class Checks:
    """The rules for the rows of all tables."""

    config: Config
    known: dict[str, pl.Series] = field(default_factory=dict)
    """IDs that the next tables may refer to."""
    rejected: dict[str, pl.Series] = field(default_factory=dict)
    """IDs of rejected rows, to which the next tables may refer."""
    now: datetime = field(default_factory=latest_clock)

    def check(self, table: str, frame: pl.DataFrame) -> Checked:
        """Returns the rows of a table, or of one of its chunks, by what is to become of them.

        `frame` has the types of `larr.data.values.plain`. Raises DataError for a column of which
        no value can be read rightly.
        """
        contract, tables = TABLES[table], self.config.dataset.tables
        columns = self._columns(table, frame)
        _check_types(table, frame.select(*columns))
        looked_up = {*own_categories(self.config)[table]} - {*own_numbers(self.config)[table]}
        _check_ids(table, frame.select(cs.by_name(*IDS, *looked_up, require_all=False)))
        given, words = _without_words(frame, self.config.dataset.missing)
        typed = pl.DataFrame(
            [as_type(given[name], column.dtype, tables) for name, column in columns.items()]
        )
        if tables.time_zone and not tables.naive_times and "time" in frame.columns:
            _check_times(table, given["time"], tables.time_zone)
        broken = broken_in_columns(columns, given, typed)
        blanked = {rule: broken.pop(rule) for rule in [*broken] if not columns[rule.column].rejects}
        broken |= broken_in_rows(contract, typed, self.known, self.rejected, self.now)
        is_bad = pl.select(pl.any_horizontal(*broken.values())).to_series()
        blanked = {rule: rows for rule, rows in blanked.items() if rows.any()}
        good = typed.with_columns(given.drop(typed.columns))
        for rule, rows in blanked.items():
            good = good.with_columns(pl.when(~rows).then(rule.column).alias(rule.column))
        cells = [
            _bad_values(frame.filter(rows & ~is_bad), contract, rule)
            for rule, rows in blanked.items()
        ]
        return Checked(
            good.filter(~is_bad),
            with_reasons(frame, broken),
            pl.concat(cells) if cells else pl.DataFrame(schema=["reason"]),
            words,
            Counter({name: given[name].count() for name in columns}),
        )

    def _columns(self, table: str, frame: pl.DataFrame) -> dict[str, Column]:
        """Returns the columns that have to have a type: those of the contract, and own numbers."""
        own = {*own_numbers(self.config)[table]} & {*frame.select(cs.string()).columns}
        # A client sends numbers for features, and may send true or false for buckets.
        features = {*by_table(self.config.features.numbers)[table]}
        own |= features & {*frame.select(cs.boolean()).columns}
        columns = dict.fromkeys(sorted(own), NUMBER) | TABLES[table].columns
        return {name: column for name, column in columns.items() if name in frame.columns}


def _bad_values(rows: pl.DataFrame, contract: Table, rule: Rule) -> pl.DataFrame:
    """Returns `Checked.blanked` of rows that break the rule of a column."""
    return rows.select(
        *contract.required,
        column=pl.lit(rule.column),
        value=pl.col(rule.column).cast(pl.String),
        reason=pl.lit(sentence(rule)),
    )


def _check_types(table: str, frame: pl.DataFrame) -> None:
    """Raises DataError for a column without single values."""
    for name, dtype in frame.schema.items():
        if isinstance(dtype, NESTED):
            raise DataError(
                f"table {table}: its column {name} holds {dtype}; give one text, number, Boolean "
                "or time a row"
            )


def _check_ids(table: str, frame: pl.DataFrame) -> None:
    """Raises DataError for IDs that floats have rounded."""
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
                f"table {table}: {name} holds floats, such as {rounded[0]}, but floats of this "
                "size leave whole numbers out, so that different IDs have become one. Export the "
                "column as integers or as texts"
            )


def _check_times(table: str, time: pl.Series, zone: str) -> None:
    """Raises DataError for times of which the zone is not known."""
    naive = time.to_frame().filter(is_naive(pl.col("time"), time.dtype))["time"]
    if len(naive):
        raise DataError(
            f"table {table}: a time such as {naive[0]} has no offset from UTC, and "
            f"dataset.tables.time_zone is {zone}. Set dataset.tables.naive_times: "
            f'"local" if a clock in {zone} shows these times, "utc" if they are to be converted'
        )


def _without_words(
    frame: pl.DataFrame, missing: list[str]
) -> tuple[pl.DataFrame, Counter[tuple[str, str]]]:
    """Returns the rows with null for blank texts, words for missing values, NaN and infinity.

    Returns also how often each word is in each column.
    """
    numbers = cs.float()
    columns, words = [], Counter[tuple[str, str]]()
    for column in frame.select(cs.string()):
        text = column.str.strip_chars()
        is_word = text.is_in(missing)
        if is_word.any():
            counts = text.filter(is_word).alias("word").value_counts()
            words.update({(column.name, word): count for word, count in counts.iter_rows()})
        columns.append(column.set(is_word | (text == ""), None))
    given = frame.with_columns(columns).with_columns(pl.when(numbers.is_finite()).then(numbers))
    # The shortest decimal, such as 5.4, and not 5.400000095367432.
    short = (cs.float() - cs.by_dtype(pl.Float64)).cast(pl.String).cast(pl.Float64)
    return given.with_columns(short), words


def with_reasons(rows: pl.DataFrame, broken: Mapping[Rule, pl.Series]) -> pl.DataFrame:
    """Returns the rows that break a rule, with their reasons in front, see `Checked`."""
    by_rule = [
        pl.select(
            row=where.arg_true(),
            reason=pl.lit(sentence(rule)),
            column=pl.lit(rule.column),
            kind=pl.lit(rule.kind),
            limit=pl.lit(rule.limit, pl.Float64),
        )
        for rule, where in broken.items()
    ]
    reasons = (
        pl.concat(by_rule)
        .group_by("row")
        .agg(pl.col("reason").str.join("; "), broken_rules=pl.struct("column", "kind", "limit"))
        .sort("row")
    )
    given = rows[reasons["row"]]
    for name in (name for name in WHY if name in given.columns):
        new = f"{name}_given"
        while new in given.columns:
            new += "_given"
        given = given.rename({name: new})
    return pl.concat([reasons.select(WHY), given], how="horizontal")
