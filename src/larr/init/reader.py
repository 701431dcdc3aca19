"""Reads the tables of a folder: finds them, decides on headers, and cleans their cells."""

from __future__ import annotations

import re
import shutil
import sqlite3
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import duckdb
import numpy as np
import polars as pl

from larr.config.data import MISSING, FileConfig, TableName
from larr.data.csv_files import decoded, detected_dialect, detected_encoding, opened
from larr.data.files import HIDDEN, Files, table_files
from larr.data.sql import ENDING, identifier, literal
from larr.data.transforms import text_column
from larr.errors import DataError
from larr.init.kinds import Column
from larr.init.words import is_role, words_of
from larr.progress import console

MAX_ROWS = 1_000_000
"""Rows read from the beginning of each table."""
MAX_ODD = 0.01
"""Maximum share of ratings that are not numbers, such as `NEW`; they are read as missing."""
DATA = re.compile(r"https?://.*|\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}.*|[0-9a-f]{16,}")
"""A first cell that is no column name, although all others may be words."""
SAMPLE = 1_000
"""Cells searched for brackets and units."""
NO_TABLE = re.compile(
    r"^(readme|licen[cs]e|changelog|copying|sha256|md5)|"
    r"\.(md|rst|html?|pdf|ipynb|py|pl|sh|r|toml|ya?ml|npy|npz|png|jpe?g|svg|docx?)$",
    re.IGNORECASE,
)
"""Names of files that are ignored."""
NOT_DATA = {
    rb"<!doctype html|<html": "a web page instead of the data; download the file itself",
    rb"version https://git-lfs": "a pointer of Git LFS instead of the data; download the file "
    "itself",
    rb"\{\s*u?'": "Python literals, with single quotes, instead of JSON; convert them, for example "
    'with python -c "import ast, json, sys; '
    '[print(json.dumps(ast.literal_eval(line))) for line in sys.stdin]" < FILE > NEW.json',
    rb"[-+]?[\d.]+( \d+:[-+\d.e]+)+\s*\n": "a LIBSVM file: its numbers name no users and places, "
    "which larr needs; export the table that it was made from",
}
"""Beginning of files that are no tables -> what they are, and what to do."""
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2")
DATABASES = {".duckdb": "duckdb", ".db": "sqlite", ".sqlite": "sqlite", ".sqlite3": "sqlite"}
BRACKETED, QUOTED = r"^\[.*\]$", r"^\[\s*u?['\"]"
"""Lists, and lists of texts, as Python or JSON write them."""
OBJECTS = r"(?s)^\[?\s*(\{.*\})?\s*\]?$"
"""Objects of JSON, lists of these, and empty lists."""
ENDS, BETWEEN = r"^\[\s*u?['\"]?|['\"]?\s*\]$", r"['\"]\s*,\s*u?['\"]"
"""What surrounds and separates the values of `['spicy', "men's"]`."""
TAGGED = r"^(<[^<>]+>)+$"
NUMBER = r"[+-]?\d[\d.,]*"
MEASURED = (
    rf"^([A-Z]{{0,3}}[€$£¥₹]|(?:USD|EUR|CNY|Rs\.?)\s)?\s?{NUMBER}"
    r"\s?(?i:(km|mi|m|h|min|mins|minutes|kg|g|lbs?|%|[^\x00-\x7f]{1,2}))?$"
)
"""Currency, number and unit: `€ 3.20`, `S$5.50`, `1.5km`."""
THOUSANDS, DECIMALS = r"^[+-]?(\d+|\d{1,3}(,\d{3})+)(\.\d+)?$", r"^[+-]?\d+(,\d{1,2})?$"


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
        return next(column for column in self.columns if column.name == name)


def with_needs(tables: Iterable[Table | None]) -> list[Table]:
    """Returns the tables and, recursively, the tables that their queries read."""
    given = [table for table in tables if table]
    return [*given, *(one for table in given for one in with_needs(table.needs))]


def base(table: Table) -> Table:
    """Returns the file whose rows a query completes."""
    return base(table.needs[0]) if table.needs else table


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
            with self._noting(path.name):
                for stem, file in tables_in(path):
                    # A table that cannot be read, such as a view, does not hide the others.
                    with self._noting(path.name if file.path else f"{path.name}, {stem}"):
                        self.add(stem, file, prefix=path.parent.name)
        if not self.tables:
            seen = "; ".join(f"{name}: {reason}" for name, reason in self.others.items())
            raise DataError(
                f"{folder}: no table found; expected CSV, Parquet or JSON files, folders or "
                "archives of these, or DuckDB or SQLite databases. "
                f"Tried {seen or 'no file: none has a known extension'}"
            )

    @contextmanager
    def _noting(self, name: str) -> Iterator[None]:
        """Notes the error that occurs while a file or table is read."""
        try:
            yield
        except (DataError, duckdb.Error, sqlite3.Error, UnicodeError) as error:
            self.others[name] = str(error)

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
            file = self._with_columns(file, paths[0]) if kind == "csv" else file
        self.files.add(name, file)
        frame = self.files.table(name).head(MAX_ROWS).collect(engine="streaming")
        if frame.width < 2 or frame.height < 2:
            raise DataError(f"{frame.width} columns and {frame.height} rows are not a table")
        read = [c for c in frame.columns if {c, "_".join(words_of(c))}.isdisjoint(self.ignored)]
        found = [_column(frame, column) for column in read]
        columns = tuple(column for column in found if file.columns or not _numbers_rows(column))
        self.tables.append(Table(name, file, columns, frame.height, needs, note))
        return self.tables[-1]

    def query(self, stem: str, sql: str, note: str, *needs: Table) -> Table:
        return self.add(stem, FileConfig(query=sql), *needs, note=note)

    def _with_columns(self, file: FileConfig, path: Path) -> FileConfig:
        """Returns a CSV file with generated column names if its first line is not a header."""
        encoding = detected_encoding(path)
        dialect = detected_dialect(path, file, encoding)
        self.files.folder.mkdir(parents=True, exist_ok=True)
        first = self.files.folder / "first.csv"
        first.write_text(next(decoded(path, encoding)), encoding="utf-8")
        options = f"delim={literal(dialect.separator)}, quote={literal(dialect.quote)}"
        sql = f"SELECT HasHeader FROM sniff_csv({literal(first)}, {options}, ignore_errors=true)"
        columns, has_header = dialect.columns, True
        with suppress(duckdb.Error):
            ((has_header,),) = self.files.database.execute(sql).fetchall()
        if has_header and len({*columns}) == len(columns) and not DATA.fullmatch(columns[0]):
            return file
        names = [f"column_{number}" for number in range(1, len(columns) + 1)]
        return file.model_copy(update={"columns": names})


def sources(path: Path, unpacked: Path, *, is_given: bool = False) -> Iterator[Path]:
    """Yields the files below a folder; a folder with the parts of one table is yielded itself."""
    if not is_given and (path.name.startswith(HIDDEN) or NO_TABLE.search(path.name)):
        return
    if path.name.lower().endswith(ARCHIVES):
        folder = unpacked / path.name.partition(".")[0]
        if not folder.exists():
            safe = {} if path.suffix.lower() == ".zip" else {"filter": "data"}
            shutil.unpack_archive(path, folder, **safe)  # type: ignore[arg-type]
            console.print(f"  {path}: unpacked to {folder}", soft_wrap=True)
        path = folder
    if not path.is_dir():
        yield path
        return
    inside = [child for child in sorted(path.iterdir()) if not child.name.startswith(HIDDEN)]
    stems = {re.sub(r"[\d_.-]+|(?<=-)[0-9a-f]{8,}.*", "", child.name) for child in inside}
    is_split = len(inside) > 1 and len(stems) == 1 and re.search(ENDING, inside[0].name, re.I)
    if (is_split and not is_given) or any("=" in child.name for child in inside):
        yield path
        return
    for child in inside:
        yield from sources(child, unpacked)


def tables_in(path: Path) -> Iterator[tuple[str, FileConfig]]:
    """Yields the name and source of each table in a file, database, or folder of parts."""
    if path.suffix.lower() in (".xls", ".xlsx"):
        raise DataError("an Excel workbook; save each of its sheets as CSV")
    kind = DATABASES.get(path.suffix.lower())
    if path.is_file():
        beginning = b""
        with suppress(OSError), opened(path) as stream:  # fails again when read
            beginning = stream.read(1000)
        for pattern, reason in NOT_DATA.items():
            if re.match(rb"\s*(?:" + pattern + rb")", beginning, re.IGNORECASE):
                raise DataError(reason)
    if kind is None:
        yield re.sub(ENDING, "", path.name, flags=re.I), FileConfig(path=path)
        return
    if kind == "duckdb":
        with duckdb.connect(str(path), read_only=True) as database:
            names = database.sql("SELECT table_name FROM information_schema.tables").fetchall()
    else:
        query = "SELECT name FROM sqlite_master WHERE type IN ('table', 'view')"
        names = sqlite3.connect(f"file:{path}?mode=ro", uri=True).execute(query).fetchall()
    for (name,) in sorted(names):
        yield name, FileConfig(uri=f"{kind}:///{path.resolve()}", query=f'SELECT * FROM "{name}"')


def _numbers_rows(column: Column) -> bool:
    """Returns whether a column is an index without a name, as pandas and R write it."""
    is_index = column.name in ("column_1", "Unnamed: 0") and column.is_key and column.is_integer
    return is_index and bool(np.ptp(column.number_values) == len(column.values) - 1)


def _column(frame: pl.DataFrame, name: str) -> Column:
    """Returns a column as texts."""
    dtype, sql = frame.schema[name], identifier(name)
    if _holds_objects(frame[name]):
        dtype = pl.Struct([])  # its fields are not read
    if isinstance(dtype, pl.List) and not dtype.inner.is_nested():
        texts = pl.col(name).cast(pl.List(pl.String)).list.join(", ")
    elif dtype.is_nested() or dtype == pl.Binary:
        texts = pl.repeat(None, pl.len(), dtype=pl.String)
    else:
        texts = text_column(name, dtype).str.strip_chars()
    cells = frame.select(texts.replace(["", *MISSING], None).alias(name))
    clean = cleaned(sql, cells[name]) if dtype == pl.String else ""
    if clean:
        # DuckDB computes the values, as it will when the configuration is used.
        cells = duckdb.from_arrow(cells.to_arrow()).project(f"{clean} AS {sql}").pl()
        cells = cells.with_columns(pl.col(name).replace("", None))
    values, numbers = cells[name], cells[name].cast(pl.Float64, strict=False)
    odd = values.count() - numbers.count()
    if dtype == pl.String and is_role(name, "rating") and 0 < odd <= MAX_ODD * values.count():
        values, clean = values.set(numbers.is_null(), None), f"TRY_CAST({clean or sql} AS DOUBLE)"
    return Column(name, values, dtype, clean)


def _holds_objects(cells: pl.Series) -> bool:
    """Returns whether texts are objects of JSON: `[{"min": 5}]`."""
    if cells.dtype != pl.String:
        return False
    some = cells.drop_nulls().head(SAMPLE)
    has_objects = some.str.contains("{", literal=True).any()
    return bool(has_objects and some.str.contains(OBJECTS).all())


def cleaned(column: str, values: pl.Series) -> str:
    """Returns SQL that removes brackets and units from a column of texts; empty if it has none.

    Lists as Python or JSON write them, or as `<a><b>`, become values with commas between; numbers
    with the same unit in all rows become numbers.
    """
    given = values.drop_nulls()
    some = given.head(SAMPLE)
    if some.is_empty():
        return ""
    is_list = some.str.contains(BRACKETED).all()
    if is_list and (some.str.contains(",").any() or some.str.contains(QUOTED).any()):
        inside = f"regexp_replace({column}, {literal(BETWEEN)}, ', ', 'g')"
        return f"regexp_replace({inside}, {literal(ENDS)}, '', 'g')"
    if some.str.contains(TAGGED).all() and some.str.contains("><").any():
        return f"trim(replace({column}, '><', ', '), '<>')"
    for cells in (some, given):  # the first cells decide on most columns
        units = [cells.str.extract(MEASURED, group).unique() for group in (1, 2)]
        if any(len(unit) > 1 for unit in units) or not any(unit[0] for unit in units):
            return ""
    numbers = given.str.extract(f"({NUMBER})")
    for form, old, new in ((THOUSANDS, ",", ""), (DECIMALS, ",", ".")):
        if not numbers.null_count() and numbers.str.contains(form).all():
            return f"replace(regexp_extract({column}, {literal(NUMBER)}), '{old}', '{new}')"
    return ""
