"""Reads the tables of a folder and detects the kinds of their columns, for `larr init`.

The kind of a column is that of the first rule in `KINDS` that its values satisfy.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import get_args

import duckdb
import numpy as np
import polars as pl

from larr.config.data import MISSING, FileConfig, TableName, TablesConfig
from larr.data.csv_files import detected_dialect, detected_encoding
from larr.data.files import Files, table_files
from larr.data.roles import WORDS, is_name, words_of
from larr.data.sources import sources, tables_in
from larr.data.sql import identifier, literal
from larr.data.transforms import text_column
from larr.data.values import as_type
from larr.errors import DataError
from larr.metrics import Array

MAX_ROWS = 1_000_000
"""Rows read from the beginning of each table."""
MAX_VALUES, MAX_PARTS, MAX_NUMERIC_CATEGORY = 1_000, 500, 12
"""Maximum numbers of distinct values: of a category, of parts of lists, of a numeric category."""
DATA = re.compile(r"[+-]?\d+([.,]\d+)?|https?://.*|\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}.*|[0-9a-f]{16,}")
"""A cell that is unlikely to be a column name."""
DATED = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:.*")
"""A cell that cannot be a column name."""
TRUTH = {"1": "0", "1.0": "0.0", "true": "false", "yes": "no", "y": "n", "t": "f"}
TRUTH |= {"ja": "nein", "oui": "non", "sí": "no", "是": "否"}
WORDY = r"\pL{2}.*\s|[^\x00-\x7f]{2}"
"""More than one word, or letters of languages without spaces."""
MIN_WORDS = 0.3
"""Minimum share of values that match `WORDY` in a column of texts."""
CLOCK = r"^([01]?\d|2[0-3]):[0-5]\d(:[0-5]\d(\.\d+)?)?$"
ISO = r"^\d{4}[-/]\d{1,2}[-/]\d{1,2}"
DIGITS = "%Y%m%d"
DATES: tuple[str, ...] = (
    "%d/%m/%Y",
    "%m/%d/%Y",
    "%d.%m.%Y",
    "%d-%m-%Y",
    "%d-%b-%Y",
    "%m %d, %Y",
    "%b %d, %Y",
)
DATES += ("%B %d, %Y", "%d %b %Y", "%d %B %Y", "%d.%m.%y", "%Y年%m月%d日")
TIMES = ("", " %H:%M", " %H:%M:%S", " %I:%M:%S %p", " %I:%M %p")
FORMATS = (*(date + time for time in TIMES for date in DATES), "%a %b %d %H:%M:%S %z %Y")
"""Time formats other than ISO 8601, tried in this order."""
EPOCHS = {"seconds": 10**6, "milliseconds": 1000, "microseconds": 1, "nanoseconds": 1e-3}
"""Units of times since 1970, in microseconds."""
OLDEST, LATEST = 6.3e14, 2.2e15
"""The range of plausible times in microseconds since 1970: 1990 to 2039."""


@dataclass(frozen=True, eq=False)
class Column:
    """A column of a file and its kind."""

    name: str
    values: pl.Series
    """Texts, or null if missing."""
    dtype: pl.DataType

    @cached_property
    def words(self) -> list[str]:
        """The words of the name, in lower case."""
        return words_of(self.name)

    @property
    def sql(self) -> str:
        """The name in SQL."""
        return identifier(self.name)

    @cached_property
    def distinct(self) -> pl.Series:
        """The distinct values."""
        return self.values.drop_nulls().unique(maintain_order=True)

    @property
    def example(self) -> str:
        """A value for a comment, shortened."""
        return repr(str(self.distinct.first())[:40])

    @property
    def is_key(self) -> bool:
        """Whether all values are distinct."""
        return not self.repeated

    @property
    def repeated(self) -> float:
        """The share of rows with a missing value or the value of an earlier row."""
        return 1 - len(self.distinct) / len(self.values)

    @cached_property
    def number_values(self) -> Array:
        """The distinct values as numbers, empty if a value is not a number."""
        numbers = self.distinct.cast(pl.Float64, strict=False)
        return np.array([]) if numbers.null_count() else numbers.to_numpy()

    @cached_property
    def is_integer(self) -> bool:
        """Whether all values are integers."""
        return len(self.number_values) > 0 and bool((self.number_values % 1 == 0).all())

    def all_match(self, pattern: str) -> bool:
        """Returns whether all values match a regular expression."""
        return bool(self.distinct.str.contains(pattern).all())

    @cached_property
    def look(self) -> tuple[str, str]:
        """The kind, a key of `KINDS` or `code`, and the form.

        A code is a text or number with many values that are not words. The form is the format of
        a time (empty for ISO 8601), its unit since 1970, or the separator of a list.
        """
        for kind, rule in KINDS:
            if form := rule(self):
                return kind, form if isinstance(form, str) else ""
        return "code", ""

    @property
    def kind(self) -> str:
        """See `look`."""
        return self.look[0]

    @property
    def form(self) -> str:
        """See `look`."""
        return self.look[1]

    @property
    def yes(self) -> str:
        """The true value of a flag."""
        return str(next(value for value in self.distinct if value.lower() in TRUTH))

    @cached_property
    def times(self) -> pl.Series:
        """The values as times, for the kinds time and date."""
        if self.form and self.form not in EPOCHS:
            return parsed(self.values, self.form)
        return as_type(self.values, pl.Datetime("us"), TablesConfig())

    def as_time(self, clock: Column | None = None) -> str:
        """Returns SQL for a time that larr can read; `clock` is a separate time of day."""
        sql = f"{self.sql} || ' ' || {clock.sql}" if clock else self.sql
        if not self.form or self.form in EPOCHS:
            return sql
        form = self.form + (" %H:%M" if clock else "")
        form += ":%S" if clock and clock.all_match(":.*:") else ""
        return f"strptime({sql}{'::VARCHAR' * (form == DIGITS)}, {literal(form)})"

    @property
    def timestamp(self) -> str:
        """SQL for the time as a timestamp."""
        if self.form in EPOCHS:
            return f"make_timestamp(({self.sql}::BIGINT * {EPOCHS[self.form]:g})::BIGINT)"
        return self.as_time() if self.form else f"{self.sql}::TIMESTAMP"


KINDS: tuple[tuple[str, Callable[[Column], object]], ...] = (
    ("list", lambda c: isinstance(c.dtype, pl.List) and not c.dtype.inner.is_nested()),
    ("nested", lambda c: c.dtype.is_nested() or c.dtype == pl.Binary),
    ("missing", lambda c: not len(c.distinct)),
    ("constant", lambda c: len(c.distinct) == 1 and not c.values.null_count()),
    ("category", lambda c: len(c.distinct) == 1),
    ("flag", lambda c: {*c.distinct.head(3).str.to_lowercase()} in map(set, TRUTH.items())),
    ("time", lambda c: c.is_integer and "id" not in c.words and _unit(c.number_values)),
    ("date", lambda c: c.is_integer and c.all_match(r"^(199|20[0-4])\d[01]\d[0-3]\d$") and DIGITS),
    ("category", lambda c: c.is_integer and len(c.distinct) <= MAX_NUMERIC_CATEGORY),
    ("category", lambda c: c.is_integer and _has(c, "year") and len(c.distinct) <= MAX_VALUES),
    ("code", lambda c: c.is_integer and len(c.distinct) > c.values.count() / 2 and _is_code(c)),
    (
        "category",
        lambda c: c.is_integer and _has(c, "id", "code") and len(c.distinct) <= MAX_VALUES,
    ),
    ("code", lambda c: c.is_integer and _has(c, "id", "code")),
    ("number", lambda c: len(c.number_values)),
    ("clock", lambda c: c.all_match(CLOCK)),
    ("date", lambda c: c.all_match(ISO + "$")),
    ("time", lambda c: c.all_match(ISO + r"([T ]\d{1,2}:\d\d.*)?$")),
    ("time", lambda c: c.all_match(ISO + r" \d\d$") and "%Y-%m-%d %H"),
    ("time", lambda c: next((f for f in FORMATS if "M" in f and _fits(c, f)), "")),
    ("date", lambda c: next((f for f in FORMATS if "M" not in f and _fits(c, f)), "")),
    ("link", lambda c: c.all_match("^https?://")),
    ("list", lambda c: _separator(c.distinct.head(10_000), "|;," if is_name(c.name) else "|;, ")),
    ("category", lambda c: len(c.distinct) <= min(MAX_VALUES, c.values.count() / 2)),
    ("text", lambda c: share(c.distinct.str.contains(WORDY)) >= MIN_WORDS),
)
"""Kinds and their rules, tried in this order; a rule may return the form."""


def share(mask: pl.Series) -> float:
    """Returns the share of true values."""
    return float(mask.sum()) / max(len(mask), 1)


def percent(part: float) -> str:
    """Returns a share above 0 as text, such as `1.2%`."""
    return f"{part:.1%}" if part >= 0.001 else "less than 0.1%"


def _unit(number_values: Array) -> str:
    """Returns the unit of plausible times since 1970, empty for other numbers."""
    low, high = number_values.min(), number_values.max()
    fits = (u for u, size in EPOCHS.items() if low * size >= OLDEST and high * size <= LATEST)
    return next(fits, "")


def _has(column: Column, *words: str) -> bool:
    """Returns whether a column's name contains one of some words."""
    return not {*words}.isdisjoint(column.words)


def _is_code(column: Column) -> bool:
    """Returns whether the column's name suggests that its numbers are codes."""
    return not WORDS["code"].isdisjoint(column.words)


def _separator(some: pl.Series, separators: str) -> str:
    """Returns the separator of lists whose parts recur, empty for other texts."""
    for separator, least, recurring in (("|", 0.1, 2), (";", 0.1, 2), (",", 0.2, 4), (" ", 0.4, 4)):
        is_possible = separator in separators
        if is_possible and share(some.str.contains(separator, literal=True)) >= least:
            parts = some.str.split(separator).explode().str.strip_chars()
            known = parts.n_unique() <= min(MAX_PARTS, len(parts) / recurring)
            if known and (separator in "|;" or len(some) > MAX_NUMERIC_CATEGORY):
                return separator
    return ""


def _fits(column: Column, form: str) -> bool:
    """Returns whether all values have a time format; tries 100 values first."""
    some = (column.distinct.head(100), column.distinct)
    return not any(parsed(values, form).null_count() for values in some)


def parsed(values: pl.Series, form: str) -> pl.Series:
    """Returns texts as times, null for those in another format."""
    if form.endswith("H"):  # polars requires minutes
        values, form = values + ":00", f"{form}:%M"
    if "%z" in form:
        times = values.str.to_datetime(form, strict=False, time_unit="us", time_zone="UTC")
        return times.dt.replace_time_zone(None)
    if "M" in form:
        return values.str.to_datetime(form, strict=False, time_unit="us")
    return values.str.to_date(form, strict=False).cast(pl.Datetime("us"))


@dataclass(frozen=True, eq=False)
class Table:
    """The first rows of a file or query."""

    name: str
    """The name in SQL."""
    file: FileConfig
    columns: tuple[Column, ...]
    rows: int
    needs: tuple[Table, ...] = ()
    """Tables that the query reads."""
    note: str = ""
    """The purpose of the query."""

    @property
    def is_named(self) -> bool:
        """Whether the file has column names, so that larr did not choose them."""
        return not self.file.columns and all(table.is_named for table in self.needs)

    def __getitem__(self, name: str) -> Column:
        """Returns a column by name."""
        return next(column for column in self.columns if column.name == name)


class Reader:
    """Reads the tables of a folder, and queries over them."""

    def __init__(self, folder: Path, scratch: Path, unpacked: Path) -> None:
        """Reads the files of a folder; extracts archives to `unpacked`, copies to `scratch`.

        Raises DataError if no table is found.
        """
        if not folder.exists():
            raise DataError(f"{folder}: no such folder; give the folder of your tables")
        self.files = Files(scratch)
        self.tables: list[Table] = []
        self.others: dict[str, str] = {}
        """File that is not a table -> reason."""
        for path in sources(folder, unpacked, is_given=True):
            try:
                for stem, file in tables_in(path):
                    self.add(stem, file, prefix=path.parent.name)
            except (DataError, duckdb.Error, sqlite3.Error, UnicodeError) as error:
                self.others[path.name] = str(error)
        if not self.tables:
            seen = "; ".join(f"{name}: {reason}" for name, reason in self.others.items())
            raise DataError(
                f"{folder}: no table found; expected CSV, Parquet or JSON files, folders or "
                "archives of these, or DuckDB or SQLite databases. "
                f"Tried {seen or 'no file: none has a known extension'}"
            )

    def add(
        self, stem: str, file: FileConfig, *needs: Table, note: str = "", prefix: str = "table"
    ) -> Table:
        """Returns the table of a file or query; raises DataError if it is not a table."""
        taken = {*get_args(TableName), *(table.name for table in self.tables)}
        short, long = ("_".join(words_of(one)) for one in (stem, f"{prefix} {stem}"))
        options = (short, long, f"table_{len(taken)}")
        name = next(o for o in options if re.fullmatch("[a-z][a-z0-9_]*", o) and o not in taken)
        if file.path is not None:
            paths, kind = table_files(file.path)
            file = _with_columns(file, paths[0]) if kind == "csv" else file
        self.files.add(name, file)
        frame = self.files.table(name).head(MAX_ROWS).collect(engine="streaming")
        if frame.width < 2 or frame.height < 2:
            raise DataError(f"{frame.width} columns and {frame.height} rows are not a table")
        found = [_column(frame, column) for column in frame.columns]
        columns = tuple(column for column in found if file.columns or not _numbers_rows(column))
        self.tables.append(Table(name, file, columns, frame.height, needs, note))
        return self.tables[-1]

    def query(self, stem: str, sql: str, note: str, *needs: Table) -> Table:
        """Returns the result of a query as a table."""
        return self.add(stem, FileConfig(query=sql), *needs, note=note)


def _with_columns(file: FileConfig, path: Path) -> FileConfig:
    """Returns the file with generated column names if its first line is not a header."""
    columns = detected_dialect(path, file, detected_encoding(path)).columns
    names = [f"column_{number}" for number in range(1, len(columns) + 1)]
    given = [cell for cell, name in zip(columns, names, strict=True) if cell != name]
    data = [DATA.fullmatch(cell) is not None for cell in given]
    is_data = any(map(DATED.fullmatch, given)) or len({*given}) < len(given) or sum(data) > 1
    if given and (is_data or data[0]):
        return file.model_copy(update={"columns": names})
    return file


def _numbers_rows(column: Column) -> bool:
    """Returns whether a column is an index without a name, as pandas and R write it."""
    if column.name not in ("column_1", "Unnamed: 0") or not column.is_key or not column.is_integer:
        return False
    return bool(np.ptp(column.number_values) == len(column.values) - 1)


def _column(frame: pl.DataFrame, name: str) -> Column:
    """Returns a column as texts."""
    dtype = frame.schema[name]
    if isinstance(dtype, pl.List) and not dtype.inner.is_nested():
        texts = pl.col(name).cast(pl.List(pl.String)).list.join(", ")
    elif dtype.is_nested() or dtype == pl.Binary:
        texts = pl.lit(None, pl.String)
    else:
        texts = text_column(name, dtype).str.strip_chars()
    values = frame.with_columns(texts.alias(name))[name]
    return Column(name, values.set(values.is_in(["", *MISSING]), None), dtype)
