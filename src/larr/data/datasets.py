"""Data sets: sources of the tables of the contract, such as files and databases."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import get_args

import polars as pl

from larr.config import Config
from larr.config.data import FileConfig, TableName, is_query
from larr.data.files import Files
from larr.data.sql import reading
from larr.errors import ConfigError, DataError
from larr.plugins import with_plugins
from larr.progress import console

UNDATED = datetime(2000, 1, 1, 12, tzinfo=UTC)
"""The time of all rows in a log without times."""


@dataclass(frozen=True)
class Tables:
    """The tables of `larr.data.contract`, lazily; `orders` are from before the log."""

    places: pl.LazyFrame
    users: pl.LazyFrame
    impressions: pl.LazyFrame
    orders: pl.LazyFrame | None = None
    unreadable: pl.DataFrame | None = None
    """Malformed lines of files: file, line, reason, text."""
    is_dated: bool = True
    """Whether the impressions have times; if not, all have the time `UNDATED`."""


@dataclass(frozen=True)
class Dataset:
    """A source of tables; `prepare/` is stale when a file that `[dataset.NAME]` names changes."""

    tables: Callable[[Config, Path], Tables]
    """Reads or creates the tables; may write files to the folder."""
    users_per_seed: bool = False
    """Whether each seed has its own users, as in a simulation."""


def dataset(config: Config) -> Dataset:
    """Returns the data set `dataset.kind`; raises ConfigError for an unknown kind."""
    kind, entries = config.dataset.kind, with_plugins(DATASETS, "datasets")
    if kind not in entries:
        raise ConfigError(
            f"dataset.kind: no data set {kind!r}; the data sets are {', '.join(entries)}"
        )
    return entries[kind]


def own_tables(config: Config, folder: Path) -> Tables:
    """Returns the tables of `[dataset.tables]` with the contract's column names.

    Without a table of users or places, their IDs are taken from the impressions. Raises ConfigError
    without impressions, DataError for a table that cannot be read or renamed.
    """
    given = config.dataset.tables
    if given.impressions is None:
        raise ConfigError(
            "dataset.tables.impressions is not set; give the path of the log, for example "
            'impressions = "data/log.parquet" under [dataset.tables], or a query'
        )
    files = Files(folder)
    for name, file in config.dataset.files.items():
        path = file.path and config.source(file.path)
        files.add(name, file.model_copy(update={"path": path}))
    tables: dict[str, pl.LazyFrame] = {}
    # Queries of the other tables can read the impressions.
    for name in sorted(get_args(TableName), key="impressions".__ne__):
        source = getattr(given, name)
        if source is None:
            continue
        if is_query(source):
            files.query(name, source, f"dataset.tables.{name}")
        else:
            files.add(name, FileConfig(path=config.source(source)))
        tables[name] = _renamed(files.table(name), name, given.rename.get(name, {}))
    is_dated = "time" in tables["impressions"].collect_schema()
    log = tables["impressions"] = _completed(tables["impressions"], files, config)
    for name, key in (("users", "user_id"), ("places", "poi_id")):
        if name not in tables and key in log.collect_schema():
            console.print(f"  {name}: no table given; taken from the impressions")
            tables[name] = log.select(key).drop_nulls().unique(maintain_order=True)
    if given.places is None and "places" in tables:
        tables["places"] = tables["places"].with_columns(name=pl.col("poi_id"))
    return Tables(**tables, unreadable=files.csv.unreadable, is_dated=is_dated)


def _completed(log: pl.LazyFrame, files: Files, config: Config) -> pl.LazyFrame:
    """Returns the impressions with required columns that can be derived.

    Raises DataError without a column `click` or `[dataset.negatives]`.
    """
    columns = log.collect_schema().names()
    if "request_id" not in columns and {"user_id", "time"} <= {*columns}:
        console.print("  impressions: rows with equal user_id and time are one request")
        user, time = (pl.col(name).cast(pl.String).fill_null("") for name in ("user_id", "time"))
        log = log.with_columns(request_id=user + " " + time)
    elif "request_id" not in columns and "time" not in columns:
        console.print("  impressions: each row is a request")
        yours = config.dataset.tables.rename.get("impressions", {})
        numbered = files.table("impressions", "row_number() OVER () AS request_id, *")
        log = _renamed(numbered, "impressions", yours)
    if "time" not in columns:
        console.print("  impressions: no time; rows get random days")
        log = log.with_columns(time=pl.lit(UNDATED))
    if "click" not in columns and config.dataset.negatives:
        log = log.with_columns(click=pl.lit(value=True))
    elif "click" not in columns:
        raise DataError(
            f"table impressions: no column click; it has {', '.join(columns)}. Name yours with "
            '[dataset.tables.rename.impressions], such as click = "bought", or compute it in SQL, '
            "such as rating::INT >= 4 AS click; if every row is a click, set [dataset.negatives]"
        )
    return log


def _renamed(table: pl.LazyFrame, name: str, yours: dict[str, str]) -> pl.LazyFrame:
    """Returns a table with renamed columns; `yours` maps the contract's names to the table's."""
    with reading(f"table {name}"):
        columns = table.collect_schema().names()
    where = f"dataset.tables.rename.{name}"
    if absent := [column for column in yours.values() if column not in columns]:
        raise DataError(
            f"table {name}: no column {', '.join(absent)}, which {where} names; it has "
            f"{', '.join(columns)}"
        )
    if taken := [ours for ours, column in yours.items() if ours != column and ours in columns]:
        raise DataError(
            f"table {name}: {where} gives a column the name {', '.join(taken)}, but the table has "
            "such a column already; rename that one too"
        )
    return table.rename({column: ours for ours, column in yours.items()})


DATASETS = {"tables": Dataset(own_tables)}
