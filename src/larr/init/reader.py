"""Reads the tables of a folder, for `larr init`."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import duckdb
import numpy as np
import polars as pl

from larr.config.data import MISSING, FileConfig, TableName
from larr.data.csv_files import detected_dialect, detected_encoding
from larr.data.files import Files, table_files
from larr.data.sql import identifier
from larr.data.transforms import text_column
from larr.errors import DataError
from larr.init.cells import cleaned
from larr.init.kinds import Column
from larr.init.sources import sources, tables_in
from larr.init.words import is_role, words_of

MAX_ROWS = 1_000_000
"""Rows read from the beginning of each table."""
MAX_ODD = 0.01
"""Maximum share of ratings that are not numbers, such as `NEW`; they are read as missing."""
DATA = re.compile(r"[+-]?\d+([.,]\d+)?|https?://.*|\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}.*|[0-9a-f]{16,}")
"""A cell that is unlikely to be a column name."""
DATED = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:.*")
"""A cell that cannot be a column name."""


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

    def __init__(
        self, folder: Path, scratch: Path, unpacked: Path, ignored: Collection[str] = ()
    ) -> None:
        """Reads the files of a folder; extracts archives to `unpacked`, copies to `scratch`.

        Columns with the names `ignored` are left out. Raises DataError if no table is found.
        """
        if not folder.exists():
            raise DataError(f"{folder}: no such folder; give the folder of your tables")
        self.files, self.ignored = Files(scratch), ignored
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
        frame = self._frame(name, file)
        if file.columns and frame.height and _is_header(frame):
            file = file.model_copy(update={"columns": []})
            frame = self._frame(name, file)
        if frame.width < 2 or frame.height < 2:
            raise DataError(f"{frame.width} columns and {frame.height} rows are not a table")
        read = [c for c in frame.columns if {c, "_".join(words_of(c))}.isdisjoint(self.ignored)]
        found = [_column(frame, column) for column in read]
        columns = tuple(column for column in found if file.columns or not _numbers_rows(column))
        self.tables.append(Table(name, file, columns, frame.height, needs, note))
        return self.tables[-1]

    def _frame(self, name: str, file: FileConfig) -> pl.DataFrame:
        self.files.add(name, file)
        return self.files.table(name).head(MAX_ROWS).collect(engine="streaming")

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


def _is_header(rows: pl.DataFrame) -> bool:
    """Returns whether the first row holds names, as one of its texts is above numbers alone."""
    first, rest = rows.head(1), rows.slice(1)
    cells = [cell for cell in first.row(0) if cell]
    if any(map(DATED.fullmatch, cells)) or len({*cells}) < rows.width:
        return False
    numbers = rows.select(pl.all().cast(pl.Float64, strict=False))
    return any(
        cell not in MISSING
        and numbers[name][0] is None
        and rest[name].count() > 0
        and numbers[name].count() == rest[name].count()
        for name, cell in zip(rows.columns, first.row(0), strict=True)
        if cell
    )


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
    values = values.set(values.is_in(["", *MISSING]), None)
    clean = ""
    if dtype == pl.String:
        values, sql = cleaned(identifier(name), values)
        clean = sql if sql != identifier(name) else ""
        numbers = values.cast(pl.Float64, strict=False)
        odd = values.count() - numbers.count()
        if is_role(name, "rating") and 0 < odd <= MAX_ODD * values.count():
            values, clean = values.set(numbers.is_null(), None), f"TRY_CAST({sql} AS DOUBLE)"
    return Column(name, values, dtype, clean)
