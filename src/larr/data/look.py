"""What the files of a folder hold: tables, and what each column looks like, for `larr init`."""

from __future__ import annotations

import csv
import re
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import get_args

import duckdb
import polars as pl

from larr.config.data import MISSING, FileConfig, TableName
from larr.data.csv_files import SEPARATORS, decoded, detected_encoding
from larr.data.files import Files, found
from larr.data.transforms import text_column
from larr.errors import DataError

MOST_ROWS = 1_000_000
"""Rows of a table that are looked at, its first ones."""
MOST_VALUES, MOST_PARTS, MOST_FEW = 1_000, 500, 12
"""Values of a category, parts of lists, and values of a number that is a category as well."""
NO_TABLE = re.compile(
    r"^(readme|licen[cs]e|changelog|copying|sha256|md5)|"
    r"\.(md|rst|html?|pdf|ipynb|py|pl|sh|r|json|toml|ya?ml|zip|tar|png|jpe?g|svg|xlsx?|docx?)$",
    re.IGNORECASE,
)
"""Names of files that are left out without a look."""
USUAL_SUFFIX = re.compile(r"\.(csv|tsv|txt|parquet|pq)(\.(gz|zst))?$", re.IGNORECASE)
DATABASES = {".duckdb": "duckdb", ".db": "sqlite", ".sqlite": "sqlite", ".sqlite3": "sqlite"}
TYPE_SUFFIX = re.compile(r":(token|float|token_seq|float_seq)$")
"""What RecBole writes behind the names of columns."""
DATA = re.compile(r"[+-]?\d+([.,]\d+)?|https?://.*|\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}.*|[0-9a-f]{16,}")
"""A cell that is no name of a column."""
TRUTH = ({"0", "1"}, {"true", "false"}, {"yes", "no"}, {"y", "n"}, {"t", "f"}, {"0.0", "1.0"})
ISO = r"^\d{4}[-/]\d{1,2}[-/]\d{1,2}"
LEAST_WORDS = 0.3
"""Share of the values with several words from which on they are texts."""
CODES = {"id", "code", "zip", "zipcode", "postcode", "phone", "number", "no", "index"}
"""Words of names of numbers that count nothing."""
CLOCK = r"^([01]?\d|2[0-3]):[0-5]\d(:[0-5]\d(\.\d+)?)?$"
DIGITS = "%Y%m%d"
DATES = ("%d/%m/%Y", "%m/%d/%Y", "%d.%m.%Y", "%d-%m-%Y", "%d-%b-%Y")
TIMES = ("", " %H:%M", " %H:%M:%S", " %I:%M:%S %p", " %I:%M %p")
FORMATS = (*(date + time for time in TIMES for date in DATES), "%a %b %d %H:%M:%S %z %Y")
"""Formats of times other than ISO 8601, in the order in which they are tried."""
OLDEST, LATEST = 6.3e8, 2.2e9
"""Seconds since 1970 that may be times of a log: from 1990 to 2039."""
EPOCHS = {"seconds": 1.0, "milliseconds": 1e3, "microseconds": 1e6, "nanoseconds": 1e9}


@dataclass(frozen=True, eq=False)
class Column:
    """A column as it is in the file, and what it looks like."""

    name: str
    kind: str
    """missing, constant, flag, number, time, date, clock, link, list, category, text or code: a
    text or whole number that nearly every row has another of."""
    values: pl.Series
    """Texts, null where missing."""
    form: str = ""
    """Of times the format (empty for ISO 8601) or the unit since 1970, of lists the separator."""

    @cached_property
    def words(self) -> list[str]:
        """The words of its name, in lower case."""
        return words_of(self.name)

    @cached_property
    def distinct(self) -> pl.Series:
        """Its values, each once."""
        return self.values.drop_nulls().unique(maintain_order=True)

    @cached_property
    def numbers(self) -> pl.Series:
        """Its values as numbers."""
        return self.values.cast(pl.Float64, strict=False)

    @property
    def is_scale(self) -> bool:
        """Whether it may hold explicit ratings."""
        values = self.numbers.drop_nulls().to_numpy()
        return len(values) == self.values.count() and values.min() >= 0 and 3 <= values.max() <= 100

    @property
    def is_key(self) -> bool:
        """Whether each row has another value."""
        return len(self.distinct) == len(self.values) > 1

    @cached_property
    def times(self) -> pl.Series:
        """Its values as times, for the kinds time and date."""
        if self.form in EPOCHS:
            return (self.numbers * (1e6 / EPOCHS[self.form])).cast(pl.Int64).cast(pl.Datetime("us"))
        if self.form:
            return _parsed(self.values, self.form)
        clock = self.values.str.replace_all("/", "-").str.replace("T", " ").str.slice(0, 19)
        return clock.str.to_datetime(strict=False, time_unit="us")


@dataclass(frozen=True, eq=False)
class Table:
    """The first rows of a file, column by column."""

    name: str
    """How SQL names it."""
    file: FileConfig
    columns: tuple[Column, ...]
    rows: int

    @cached_property
    def words(self) -> list[str]:
        """The words of its name."""
        return words_of(self.name)


def share(is_so: pl.Series) -> float:
    """Returns the share of true values."""
    return float(is_so.sum()) / max(len(is_so), 1)


def example(column: Column) -> str:
    """Returns one of the values of a column, shortened, as a comment can hold it."""
    return repr(str(column.distinct.first())[:40])


def words_of(name: str) -> list[str]:
    """Returns the words of a name, in lower case: those of `userId` are `user` and `id`."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", TYPE_SUFFIX.sub("", name))
    return [word for word in re.split(r"[\W_]+", spaced.lower()) if word]


def look(folder: Path, scratch: Path) -> tuple[list[Table], dict[str, str]]:
    """Returns the tables of a folder, and why its other files are none: name -> reason.

    Raises DataError if there is no table.
    """
    if not folder.exists():
        raise DataError(f"{folder}: no such folder; give the folder of your tables")
    files, others = Files(scratch), dict[str, str]()
    tables: list[Table] = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else [folder]:
        if path.name.startswith((".", "_")) or NO_TABLE.search(path.name):
            continue
        try:
            for stem, file in _tables_in(path):
                name = "_".join(words_of(stem)) or "table"
                name = name if name[0].isalpha() else f"table_{name}"
                name += "_file" if name in get_args(TableName) else ""
                name += "_2" if name in {table.name for table in tables} else ""
                tables.append(_looked_at(files, name, file))
        except (DataError, duckdb.Error, sqlite3.Error, UnicodeError) as error:
            others[path.name] = str(error)
    if not tables:
        seen = "; ".join(f"{name}: {reason}" for name, reason in others.items())
        raise DataError(
            f"{folder}: no table found; expected CSV or Parquet files, folders of these, or DuckDB "
            f"or SQLite databases. Looked at {seen or 'nothing: all names are of other kinds'}"
        )
    return tables, others


def _tables_in(path: Path) -> Iterator[tuple[str, FileConfig]]:
    """Yields the name and source of each table of a file or folder."""
    kind = DATABASES.get(path.suffix.lower())
    if kind is None:
        yield USUAL_SUFFIX.sub("", path.name), FileConfig(path=path)
        return
    if kind == "duckdb":
        with duckdb.connect(str(path), read_only=True) as database:
            names = database.sql("SELECT table_name FROM information_schema.tables").fetchall()
    else:
        query = "SELECT name FROM sqlite_master WHERE type IN ('table', 'view')"
        names = sqlite3.connect(f"file:{path}?mode=ro", uri=True).execute(query).fetchall()
    for (name,) in sorted(names):
        yield name, FileConfig(uri=f"{kind}:///{path.resolve()}", query=f'SELECT * FROM "{name}"')


def _looked_at(files: Files, name: str, file: FileConfig) -> Table:
    """Returns what a file holds; raises DataError if that is no table."""
    read_as = file
    if file.path is not None:
        paths, is_parquet = found(file.path)
        if not is_parquet:
            encoding = detected_encoding(paths[0])
            file = _with_columns(file, paths[0], encoding)
            read_as = file.model_copy(update={"encoding": encoding})
    files.add(name, read_as)
    frame = files.table(name).head(MOST_ROWS).collect(engine="streaming")
    if frame.width < 2 or frame.height < 2:
        raise DataError(f"{frame.width} columns and {frame.height} rows are no table")
    columns = [_column(frame, column) for column in frame.columns]
    if file.columns:  # names that larr chose itself
        named = [f"{column.kind}_{n}" for n, column in enumerate(columns, 1)]
        columns = [
            Column(new, column.kind, column.values, column.form)
            for new, column in zip(named, columns, strict=True)
        ]
        file = file.model_copy(update={"columns": named})
    return Table(name, file, tuple(columns), frame.height)


def _with_columns(file: FileConfig, path: Path, encoding: str) -> FileConfig:
    """Returns the file with a name for each column if its first line is data, not a header."""
    lines = [line for line in next(decoded(path, encoding)).splitlines() if line.strip()]
    if not lines:
        return file
    if lines[0].count("::") > 1:
        file = file.model_copy(update={"separator": "::"})
        cells = lines[0].split("::")
    else:
        cells = next(csv.reader(lines, delimiter=max(SEPARATORS, key=lines[0].count)))
    given = [cell.strip() for cell in cells if cell.strip()]
    data = [DATA.fullmatch(cell) is not None for cell in given]
    if given and (data[0] or sum(data) > 1 or len(set(given)) < len(given)):
        return file.model_copy(update={"columns": [f"column_{n}" for n in range(len(cells))]})
    return file


def _column(frame: pl.DataFrame, name: str) -> Column:
    """Returns a column as texts, and what it looks like."""
    dtype = frame.schema[name]
    if isinstance(dtype, pl.List) and not dtype.inner.is_nested():
        joined = pl.col(name).cast(pl.List(pl.String)).list.join(", ")
        return Column(name, "list", frame.select(joined).to_series())
    if dtype.is_nested() or dtype == pl.Binary:
        return Column(name, "missing", pl.Series(name, [None] * frame.height, pl.String))
    texts = frame.select(text_column(name, dtype)).to_series().str.strip_chars()
    values = texts.set(texts.is_in(["", *MISSING]), None)
    kind, form = next(_kinds(name, values))
    return Column(name, kind, values, form)


def _kinds(name: str, values: pl.Series) -> Iterator[tuple[str, str]]:
    """Yields what a column looks like, and the form of its times or lists; the first one holds."""
    distinct = values.drop_nulls().unique(maintain_order=True)
    count, rows = len(distinct), values.count()
    if not count:
        yield "missing", ""
    if count == 1:
        yield ("category" if rows < len(values) else "constant"), ""
    if {*distinct.head(3).str.to_lowercase()} in TRUTH:
        yield "flag", ""
    numbers = distinct.cast(pl.Float64, strict=False)
    if not numbers.null_count():
        yield _kind_of_numbers(name, numbers, rows)
    if distinct.str.contains(CLOCK).all():
        yield "clock", ""
    if distinct.str.contains(ISO).all():
        yield ("time" if distinct.str.contains(r"\d{1,2}:\d\d").any() else "date"), ""
    for form in FORMATS:
        if not (
            _parsed(distinct.head(100), form).null_count() or _parsed(distinct, form).null_count()
        ):
            yield ("time" if "M" in form else "date"), form
    if distinct.str.contains("^https?://").all():
        yield "link", ""
    if separator := _separator(distinct):
        yield "list", separator
    if count <= min(MOST_VALUES, rows / 2):
        yield "category", ""
    # Languages without spaces have other letters.
    if share(distinct.str.contains(r"\pL{2}.*\s|[^\x00-\x7f]{2}")) >= LEAST_WORDS:
        yield "text", ""
    yield "code", ""


def _kind_of_numbers(name: str, distinct: pl.Series, rows: int) -> tuple[str, str]:
    """Returns whether numbers are times, codes or numbers, and the unit of times."""
    words = {*words_of(name)}
    is_whole = bool((distinct % 1 == 0).all())
    for unit, factor in EPOCHS.items():
        if is_whole and distinct.is_between(OLDEST * factor, LATEST * factor).all():
            return ("code" if "id" in words else "time"), unit
    month, day = distinct // 100 % 100, distinct % 100
    is_date = month.is_between(1, 12).all() and day.is_between(1, 31).all()
    if is_whole and is_date and distinct.is_between(19_900_101, 20_401_231).all():
        return "date", DIGITS
    few = len(distinct) <= MOST_FEW
    if is_whole and (few or ("year" in words and len(distinct) <= MOST_VALUES)):
        return "category", ""
    is_code = is_whole and len(distinct) > 0.5 * rows and (words & CODES or len(distinct) == rows)
    return ("code" if is_code else "number"), ""


def _separator(distinct: pl.Series) -> str:
    """Returns what separates the values of lists; empty if these are no lists.

    Values of lists recur in other lists.
    """
    some = distinct.head(10_000)
    for separator, least, recurring in (("|", 0.1, 2), (";", 0.1, 2), (",", 0.2, 4), (" ", 0.4, 4)):
        if share(some.str.contains(separator, literal=True)) >= least:
            parts = some.str.split(separator).explode().str.strip_chars()
            known = parts.n_unique() <= min(MOST_PARTS, len(parts) / recurring)
            if known and (separator in "|;" or len(some) > MOST_FEW):
                return separator
    return ""


def _parsed(values: pl.Series, form: str) -> pl.Series:
    """Returns texts in a format as times, null where they have another."""
    if "%z" in form:
        times = values.str.to_datetime(form, strict=False, time_unit="us", time_zone="UTC")
        return times.dt.replace_time_zone(None)
    if "M" in form:
        return values.str.to_datetime(form, strict=False, time_unit="us")
    return values.str.to_date(form, strict=False).cast(pl.Datetime("us"))
