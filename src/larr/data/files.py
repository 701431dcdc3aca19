"""Reads files and databases with DuckDB; each becomes a view for SQL."""

from __future__ import annotations

import re
from pathlib import Path

import duckdb
import polars as pl
import pyarrow.parquet as pq

from larr.config.data import FileConfig
from larr.data.csv_files import CsvReader
from larr.data.sql import ENDINGS, identifier, literal, paths, reading, with_file_name
from larr.errors import DataError
from larr.progress import console

HIDDEN = (".", "_")
"""Prefixes of files that are ignored, such as `_SUCCESS`."""
BATCH = 100_000
"""Rows of a database query held in memory at a time."""


class Files:
    """The files, databases and SQL queries of a configuration, as DuckDB views."""

    def __init__(self, folder: Path) -> None:
        """`folder` receives copies of what DuckDB cannot read directly."""
        self.folder = folder
        self.database = duckdb.connect()
        # Times with an offset are read in UTC; they are converted to local time later.
        self.database.execute("SET TimeZone = 'UTC'")
        self.csv = CsvReader(self.database, folder)

    def add(self, name: str, file: FileConfig) -> None:
        """Creates a view of a file or database; raises DataError if it cannot be read."""
        if file.path is None and not file.uri:
            self.query(name, file.query, f"dataset.files.{name}")
            return
        with reading(str(file.path or file.uri)):
            if file.path is None:
                source = f"read_parquet({literal(self._copied(name, file))})"
            else:
                files, kind = table_files(file.path)
                if kind == "csv":
                    source = self.csv.scan(file.path, files, file)
                else:
                    source = f"read_{kind}({paths(files)}, union_by_name=true)"
                    if file.file_column:
                        source = with_file_name(source, file.file_column)
            self._create(name, source)

    def query(self, name: str, sql: str, where: str) -> None:
        """Creates a view of a query's result; `where` is the query's place in the configuration.

        The query runs on one thread, so that the order of the rows is reproducible.
        """
        path = self._path(name)
        with reading(where):
            self.database.execute("SET threads = 1")
            self.database.execute(f"COPY ({sql.strip().rstrip(';')}) TO {literal(path)}")
            self.database.execute("RESET threads")
            self._create(name, f"read_parquet({literal(path)})")

    def table(self, name: str, columns: str = "*") -> pl.LazyFrame:
        """Returns a view lazily; `columns` is the SQL after SELECT."""
        # A connection can read only one result at a time, so each table has its own cursor.
        rows = self.database.cursor().sql(f"SELECT {columns} FROM {identifier(name)}")
        found: pl.LazyFrame = rows.pl(lazy=True)
        return found

    def _create(self, name: str, source: str) -> None:
        view = f"CREATE OR REPLACE VIEW {identifier(name)} AS SELECT * FROM {source}"
        self.database.execute(view)

    def _path(self, name: str) -> Path:
        self.folder.mkdir(parents=True, exist_ok=True)
        return self.folder / f"{name}.parquet"

    def _copied(self, name: str, file: FileConfig) -> Path:
        """Writes the result of a database query to a Parquet file; returns its path."""
        path = self._path(name)
        with reading(f"dataset.files.{name} ({file.uri})"):
            if file.uri.startswith("duckdb:///"):
                with duckdb.connect(file.uri.removeprefix("duckdb:///"), read_only=True) as other:
                    other.execute(f"COPY ({file.query}) TO {literal(path)}")
                return path
            try:
                import connectorx  # noqa: PLC0415 - an extra
            except ModuleNotFoundError as error:
                needed = "connectorx is not installed; run `pip install 'larr[databases]'`"
                raise DataError(f"{file.uri}: {needed}") from error
            batches = connectorx.read_sql(
                file.uri, file.query, return_type="arrow_stream", batch_size=BATCH
            )
            with pq.ParquetWriter(path, batches.schema) as writer:
                for batch in batches:
                    writer.write_batch(batch)
        return path


def table_files(path: Path) -> tuple[list[Path], str]:
    """Returns the files of a table, and their format: a key of `ENDINGS`.

    Raises DataError if a folder holds other files: none is ignored silently.
    """
    if not path.exists():
        raise DataError(f"{path}: no such file or folder")
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    files = [file for file in files if file.is_file() and not file.name.startswith(HIDDEN)]
    kinds = {_kind(file) or ("" if path.is_dir() else "csv") for file in files}
    if path.is_dir() and ("" in kinds or len(kinds) != 1):
        wrong = [file.name for file in files if not _kind(file)]
        raise DataError(
            f"{path}: expected only Parquet, only CSV or only JSON files, got "
            f"{', '.join(wrong[:5] or [file.name for file in files][:5]) or 'an empty folder'}"
        )
    if empty := [file for file in files if not file.stat().st_size]:
        console.print(f"  {path}: {len(empty)} files are empty, such as {empty[0].name}")
    files = [file for file in files if file.stat().st_size]
    if not files:
        raise DataError(f"{path}: is empty")
    return files, kinds.pop()


def _kind(file: Path) -> str:
    return next((kind for kind, end in ENDINGS.items() if re.search(end, file.name, re.I)), "")
