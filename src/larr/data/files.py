"""Reads files and databases through DuckDB: each becomes a view that SQL can name."""

from __future__ import annotations

import re
from pathlib import Path

import duckdb
import polars as pl
import pyarrow.parquet as pq

from larr.config.data import FileConfig
from larr.data.csv_files import CsvReader
from larr.data.sql import identifier, literal, paths, reading, with_file_name
from larr.errors import DataError
from larr.progress import console

SUFFIXES = {
    "parquet": re.compile(r"\.(parquet|pq)$", re.IGNORECASE),
    "json": re.compile(r"\.(json|jsonl|ndjson)(\.(gz|zst))?$", re.IGNORECASE),
    "csv": re.compile(r"\.(csv|tsv|txt|tab|dat|data)(\.(gz|zst))?$", re.IGNORECASE),
}
"""Names of files by kind; a single file with another name is CSV."""
HIDDEN = (".", "_")
"""Files that other programs write beside tables begin with these, for example _SUCCESS."""
BATCH = 100_000
"""Rows of a database in memory at a time."""


class Files:
    """The files and databases of a configuration, and the tables that SQL makes of them."""

    def __init__(self, folder: Path) -> None:
        """`folder` is for copies of what DuckDB cannot read where it is."""
        self.folder = folder
        self.database = duckdb.connect()
        # Times with an offset arrive in UTC; they are converted to local ones later.
        self.database.execute("SET TimeZone = 'UTC'")
        self.csv = CsvReader(self.database, folder)

    def add(self, name: str, file: FileConfig) -> None:
        """Lets SQL read a file under a name; raises DataError if it cannot be read."""
        if file.path is None and not file.uri:
            self.query(name, file.query, f"dataset.files.{name}")
            return
        if file.path is None:
            source = f"read_parquet({literal(self._copied(name, file))})"
        else:
            files, kind = found(file.path)
            with reading(str(file.path)):
                if kind != "csv":
                    source = f"read_{kind}({paths(files)}, union_by_name=true)"
                    if file.file_column:
                        source = with_file_name(source, file.file_column)
                else:
                    source = self.csv.scan(file.path, files, file)
        with reading(str(file.path or file.uri)):
            self._create(name, source)

    def query(self, name: str, sql: str, where: str) -> None:
        """Lets SQL read the result of a query, which the configuration has at `where`.

        The result is written to a file, on one thread: joins and groups on several have no order.
        """
        path = self._path(name)
        with reading(where):
            self.database.execute("SET threads = 1")
            self.database.execute(f"COPY ({sql.strip().rstrip(';')}) TO {literal(path)}")
            self.database.execute("RESET threads")
            self._create(name, f"read_parquet({literal(path)})")

    def table(self, name: str, columns: str = "*") -> pl.LazyFrame:
        """Returns columns (SQL) of what a name stands for, lazily."""
        # A cursor for each, since a connection reads one result at a time.
        rows = self.database.cursor().sql(f"SELECT {columns} FROM {identifier(name)}")
        table: pl.LazyFrame = rows.pl(lazy=True)
        return table

    def _create(self, name: str, source: str) -> None:
        view = f"CREATE OR REPLACE VIEW {identifier(name)} AS SELECT * FROM {source}"
        self.database.execute(view)

    def _path(self, name: str) -> Path:
        self.folder.mkdir(parents=True, exist_ok=True)
        return self.folder / f"{name}.parquet"

    def _copied(self, name: str, file: FileConfig) -> Path:
        """Writes what a query of a database returns to a Parquet file; returns its path."""
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


def found(path: Path) -> tuple[list[Path], str]:
    """Returns the files of a table, and their kind: a key of `SUFFIXES`.

    Raises DataError if something in a folder is no table: no file is left out silently.
    """
    if not path.exists():
        raise DataError(f"{path}: no such file or folder")
    files = [one for one in sorted(path.rglob("*")) if one.is_file()] if path.is_dir() else [path]
    files = [one for one in files if not one.name.startswith(HIDDEN)]
    kinds = {_kind(one) or ("" if path.is_dir() else "csv") for one in files}
    if path.is_dir() and ("" in kinds or len(kinds) != 1):
        wrong = [one.name for one in files if not _kind(one)]
        raise DataError(
            f"{path}: expected Parquet, CSV or JSON files, and nothing else, got "
            f"{', '.join(wrong[:5] or [one.name for one in files][:5]) or 'an empty folder'}"
        )
    if empty := [one for one in files if not one.stat().st_size]:
        console.print(f"  {path}: {len(empty)} files are empty, such as {empty[0].name}")
    files = [one for one in files if one.stat().st_size]
    if not files:
        raise DataError(f"{path}: is empty")
    return files, kinds.pop()


def _kind(file: Path) -> str:
    return next((kind for kind, suffix in SUFFIXES.items() if suffix.search(file.name)), "")
