"""Data sets: sources of the contract's tables, your Parquet and CSV files among them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import polars as pl
from polars.exceptions import PolarsError

from larr.config import Config
from larr.config.data import TableName
from larr.errors import ConfigError, DataError
from larr.plugins import with_plugins

SUFFIXES = (".parquet", ".csv", ".csv.gz")
HIDDEN = (".", "_")
"""Files that other programs write beside tables begin with these, for example _SUCCESS."""
REPEATED = re.compile(r"_duplicated_\d+$")
"""What polars appends to the name of a repeated column."""
CSV = (
    "CSV files have to be UTF-8, separated by commas, with a header and as many values in each row"
)


@dataclass(frozen=True)
class Tables:
    """The tables of `larr.data.contract`, lazily; `orders` are those from before the log."""

    places: pl.LazyFrame
    users: pl.LazyFrame
    impressions: pl.LazyFrame
    orders: pl.LazyFrame | None = None


@dataclass(frozen=True)
class Dataset:
    """A source of tables; `prepare/` is stale when a file that `[dataset.NAME]` names changes."""

    tables: Callable[[Config, Path], Tables]
    """Reads or creates the tables; may write files to the folder."""
    users_per_seed: bool = False
    """Whether each seed has other users, as in a simulation; else all seeds share them."""


def dataset(config: Config) -> Dataset:
    """Returns the data set that `dataset.kind` names; raises ConfigError without one."""
    kind, entries = config.dataset.kind, with_plugins(DATASETS, "datasets")
    if kind not in entries:
        raise ConfigError(
            f"dataset.kind: no data set {kind!r}; the data sets are {', '.join(entries)}"
        )
    return entries[kind]


def own_tables(config: Config, _: Path) -> Tables:
    """Returns the tables that `[dataset.tables]` names, under the contract's column names.

    Raises ConfigError for a table without a path, DataError for one that cannot be renamed so.
    """
    tables: dict[str, pl.LazyFrame] = {}
    for name in get_args(TableName):
        path = getattr(config.dataset.tables, name)
        if path is None and name == "orders":
            continue
        if path is None:
            raise ConfigError(
                f"dataset.tables.{name} is not set; give the path of the table, for example "
                f'{name} = "data/{name}.parquet" under [dataset.tables]'
            )
        tables[name] = scan(path)
        columns = tables[name].collect_schema().names()
        yours = config.dataset.tables.rename.get(name, {})
        if absent := [column for column in yours.values() if column not in columns]:
            raise DataError(
                f"{path}: no column {', '.join(absent)}, which dataset.tables.rename.{name} names; "
                f"it has {', '.join(columns)}. {CSV}"
            )
        if taken := [ours for ours, column in yours.items() if ours != column and ours in columns]:
            raise DataError(
                f"{path}: dataset.tables.rename.{name} gives the name {', '.join(taken)}, which "
                "another column has already; rename that one too"
            )
        tables[name] = tables[name].rename({column: ours for ours, column in yours.items()})
    return Tables(**tables)


def scan(path: Path) -> pl.LazyFrame:
    """Returns a file, or a folder of files of one kind, as one lazy table.

    Raises DataError if something in the folder is no table: no file is left out silently.
    """
    if not path.exists():
        raise DataError(f"{path}: no such file or folder")
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    files = [file for file in files if not file.name.startswith(HIDDEN)]
    tables = [file for file in files if file.is_file() and file.name.lower().endswith(SUFFIXES)]
    kinds = [kind for kind in SUFFIXES if any(file.name.lower().endswith(kind) for file in tables)]
    if len(kinds) != 1 or tables != files:
        wrong = [file.name for file in files if file not in tables or tables == files]
        raise DataError(
            f"{path}: expected {', '.join(SUFFIXES)}, or a folder of files of one of these kinds, "
            f"got {', '.join(wrong[:5]) or 'an empty folder'}"
        )
    with reading(str(path)):
        table = pl.scan_parquet(files) if kinds == [".parquet"] else _scan_csv(files)
        columns = table.collect_schema().names()
    if len(columns) == 1 and re.search(r"[;\t|]", columns[0]):
        raise DataError(f"{path}: has a single column, {columns[0]!r:.80}. {CSV}")
    if repeated := sorted({REPEATED.sub("", name) for name in columns if REPEATED.search(name)}):
        raise DataError(f"{path}: two columns are called {', '.join(repeated)}; rename one of each")
    return table


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Raises DataError for what polars cannot read."""
    try:
        yield
    except (PolarsError, OSError) as error:
        # The further lines of polars advise programmers.
        reason = str(error).partition("\n")[0]
        raise DataError(f"{what}: cannot be read: {reason}. {CSV}") from error


def _scan_csv(files: list[Path]) -> pl.LazyFrame:
    """Scans CSV files; a column with numbers that begin with zeros is read as text.

    Polars would make 123 of the code 00123.
    """
    dtypes = pl.scan_csv(files, infer_schema_length=None).collect_schema()
    integers = [name for name, dtype in dtypes.items() if dtype.is_integer()]
    texts = pl.scan_csv(files, infer_schema=False).select(integers)
    has_zeros = texts.select(pl.all().str.contains(r"^0\d").any()).collect(engine="streaming")
    codes = {name: pl.String() for name in integers if has_zeros[name].item()}
    return pl.scan_csv(files, schema=pl.Schema({**dtypes, **codes}))


DATASETS = {"tables": Dataset(own_tables)}
