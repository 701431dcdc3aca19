"""Your own tables: Parquet or CSV files, one or many for a table, with your column names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import polars as pl
from polars.exceptions import PolarsError

from larr.config import Config, TableName
from larr.errors import ConfigError, DataError

SUFFIXES = (".parquet", ".csv")
INFERRED_ROWS = 10_000
"""A CSV file's columns are of the kind that their first so many values have."""


@dataclass(frozen=True)
class Tables:
    """The tables of `larr.datasets.schema`, lazily; `orders` holds orders from before the log."""

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
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    files = [file for file in files if file.suffix in SUFFIXES]
    if not path.exists() or not files:
        raise DataError(
            f"{path}: expected a .parquet or .csv file, or a folder of them; found none"
        )
    if len({file.suffix for file in files}) > 1:
        raise DataError(f"{path}: holds Parquet and CSV files; give a folder of one kind")
    try:
        if files[0].suffix == ".csv":
            table = pl.scan_csv(files, infer_schema_length=INFERRED_ROWS)
        else:
            table = pl.scan_parquet(files)
        table.collect_schema()
    except (PolarsError, OSError) as error:
        raise DataError(f"{path}: cannot be read as {files[0].suffix}: {error}") from error
    return table


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
            f"it has {', '.join(columns)}. CSV files have to be UTF-8 and separated by commas"
        )
    taken = [ours for ours, yours in names.items() if ours != yours and ours in columns]
    if taken:
        raise DataError(
            f"{path}: dataset.tables.rename.{name} gives the name {', '.join(taken)}, which "
            "another column has already; rename that one too"
        )
    return table.rename({yours: ours for ours, yours in names.items()})
