"""Your own tables: Parquet or CSV files, one or many for a table, with your column names."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import polars as pl
from polars.exceptions import PolarsError

from larr.config import Config
from larr.config.data import TableName
from larr.errors import ConfigError, DataError

SUFFIXES = (".parquet", ".csv", ".csv.gz")
HIDDEN = (".", "_")
"""How files begin that stand beside tables, such as _SUCCESS."""
REPEATED = re.compile(r"_duplicated_\d+$")
"""What polars adds to the name of a column that is there twice."""
CSV = (
    "CSV files have to be UTF-8, separated by commas, with a header and as many values in each row"
)


@dataclass(frozen=True)
class Tables:
    """The tables of `larr.data.contract`, lazily; `orders` holds orders from before the log."""

    places: pl.LazyFrame
    users: pl.LazyFrame
    impressions: pl.LazyFrame
    orders: pl.LazyFrame | None = None


def own_tables(config: Config, _: Path) -> Tables:
    """The tables that `[dataset.tables]` names, under the contract's column names."""
    settings = config.dataset.tables
    return Tables(
        places=_renamed(config, "places", settings.places),
        users=_renamed(config, "users", settings.users),
        impressions=_renamed(config, "impressions", settings.impressions),
        orders=_renamed(config, "orders", settings.orders) if settings.orders else None,
    )


def scan(path: Path) -> pl.LazyFrame:
    """A Parquet or CSV file, or a folder of files of one of the two kinds, as one lazy table."""
    if not path.exists():
        raise DataError(f"{path}: no such file or folder")
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    files = [file for file in files if not file.name.startswith(HIDDEN)]
    kinds = {_kind(file) for file in files}
    if len(kinds) != 1 or "" in kinds:
        others = [file.name for file in files if not _kind(file)] or [file.name for file in files]
        raise DataError(
            f"{path}: expected {', '.join(SUFFIXES)}, or a folder of files of one of these kinds, "
            f"got {', '.join(others[:5]) or 'an empty folder'}"
        )
    try:
        table = pl.scan_parquet(files) if kinds == {".parquet"} else _scan_csv(files)
        columns = table.collect_schema().names()
    except (PolarsError, OSError) as error:
        said = str(error).partition("\n")[0]
        raise DataError(f"{path}: cannot be read as {kinds.pop()}: {said}. {CSV}") from error
    if len(columns) == 1 and re.search(r"[;\t|]", columns[0]):
        raise DataError(f"{path}: has a single column, {columns[0]!r:.80}. {CSV}")
    if twice := sorted({REPEATED.sub("", name) for name in columns if REPEATED.search(name)}):
        raise DataError(f"{path}: two columns are called {', '.join(twice)}; rename one of each")
    return table


def _kind(file: Path) -> str:
    """Which of the suffixes a file has; empty if none."""
    ends = (suffix for suffix in SUFFIXES if file.name.lower().endswith(suffix))
    return next(ends, "") if file.is_file() else ""


def _scan_csv(files: list[Path]) -> pl.LazyFrame:
    """Codes such as 00123 stay as they are written; polars would make numbers of them."""
    kinds = pl.scan_csv(files, infer_schema_length=None).collect_schema()
    numbers = [name for name, kind in kinds.items() if kind.is_integer()]
    written = pl.scan_csv(files, infer_schema=False).select(numbers)
    coded = written.select(pl.all().str.contains(r"^0\d").any()).collect(engine="streaming")
    codes = [name for name in numbers if coded[name].item()]
    return pl.scan_csv(files, schema=pl.Schema(kinds | dict.fromkeys(codes, pl.String())))


def _renamed(config: Config, name: TableName, path: Path | None) -> pl.LazyFrame:
    if path is None:
        raise ConfigError(
            f"dataset.tables.{name} is not set; give the path of the table, for example {name} = "
            f'"data/{name}.parquet" under [dataset.tables]'
        )
    table = scan(path)
    names = config.dataset.tables.rename.get(name, {})
    columns = table.collect_schema().names()
    absent = [yours for yours in names.values() if yours not in columns]
    if absent:
        raise DataError(
            f"{path}: no column {', '.join(absent)}, which dataset.tables.rename.{name} names; "
            f"it has {', '.join(columns)}. {CSV}"
        )
    taken = [ours for ours, yours in names.items() if ours != yours and ours in columns]
    if taken:
        raise DataError(
            f"{path}: dataset.tables.rename.{name} gives the name {', '.join(taken)}, which "
            "another column has already; rename that one too"
        )
    return table.rename({yours: ours for ours, yours in names.items()})
