"""What is known of a row at the start of its day: entities, statistics, profiles, levels."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Self

import polars as pl

from larr import artifacts
from larr.config import Config
from larr.config.data import BucketConfig
from larr.data.contract import NEVER_FEATURES
from larr.data.features import NESTED, as_numbers, sample
from larr.data.keywords import bucket_edges, with_levels
from larr.data.log import Log
from larr.data.profiles import daily_spending, daily_values, favourites, recent_places
from larr.data.statistics import as_of, daily_counts, overall, rates
from larr.errors import ConfigError, DataError

PAIR = ["user_id", "poi_id"]
PAIR_FIGURES = ["pair_log_clicks", "pair_log_orders"]
EDGE_ROWS = 100_000
KNOWN, EDGES = "known", "edges.json"
ORDER = "row of the chunk"
NEVER_SEEN = ("log_impressions_per_day", "log_orders")
"""Figures that are 0 for a place or user without a past; rates are missing."""


@dataclass(frozen=True)
class Known:
    """All that is known at the start of a day, in tables that are joined to the rows of that day.

    `larr prepare` makes one for each day of the log; that of the day after the training days is
    what a server starts with, so a row gets the same columns there.
    """

    places: pl.DataFrame
    """poi_id, the columns of the places, their statistics."""
    users: pl.DataFrame
    """user_id, the columns of the users, their statistics, what they like."""
    situations: dict[str, pl.DataFrame]
    """What users like in a situation: a table for each profile with `within`."""
    pairs: pl.DataFrame
    """user_id, poi_id and `PAIR_FIGURES`."""
    recent: pl.DataFrame
    """user_id and `recent`, the latest places."""
    buckets: list[BucketConfig]
    edges: dict[str, list[float]]

    def enrich(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Adds all columns that a keyword or a feature may name to user, place, time, scene."""
        full = with_levels(self.numbers(rows), self.buckets, self.edges)
        for table in self.situations.values():
            key = table.columns[:-1]
            full = full.join(table, on=key, how="left", maintain_order="left")
        return full

    def numbers(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Adds all but the levels and what needs them."""
        for table, key in (
            (self.places, ["poi_id"]),
            (self.users, ["user_id"]),
            (self.pairs, PAIR),
        ):
            rows = rows.join(table, on=key, how="left", maintain_order="left")
        return rows.with_columns(pl.col(PAIR_FIGURES).fill_null(0.0))

    def with_recent(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Adds `recent`, the latest places of the row's user before the day."""
        return rows.join(self.recent, on="user_id", how="left", maintain_order="left")

    def described_places(self) -> pl.DataFrame:
        """All places with their statistics and levels."""
        return self._described(self.places)

    def described_users(self, profiles: Iterable[str]) -> pl.DataFrame:
        """All users with their statistics and levels; with the profiles of a situation, which are
        chosen by name, a row for each situation that the user has ordered in.
        """
        users = self._described(self.users)
        for name in profiles:
            table = self.situations[name]
            key = [column for column in table.columns[:-1] if column in users.columns]
            users = users.join(table, on=key, how="left", maintain_order="left")
        return users

    def _described(self, entities: pl.DataFrame) -> pl.DataFrame:
        own = [one for one in self.buckets if one.column in entities.columns]
        return with_levels(entities, own, self.edges)

    def save(self, folder: Path) -> None:
        """Writes the tables, for serving."""
        folder.mkdir()
        for name in ("places", "users", "pairs", "recent"):
            getattr(self, name).write_parquet(folder / f"{name}.parquet")
        for name, table in self.situations.items():
            table.write_parquet(folder / f"situation-{name}.parquet")
        artifacts.write_json(folder / EDGES, self.edges)

    @classmethod
    def load(cls, config: Config, folder: Path) -> Self:
        """Reads what `save` wrote."""
        tables = {
            name: pl.read_parquet(folder / f"{name}.parquet")
            for name in ("places", "users", "pairs", "recent")
        }
        situations = {
            one.name: pl.read_parquet(folder / f"situation-{one.name}.parquet")
            for one in config.profiles
            if one.within
        }
        edges = artifacts.read_json(folder / EDGES)
        return cls(**tables, situations=situations, buckets=config.buckets, edges=edges)


@dataclass
class Enricher:
    """Makes `Known` for a day from the checked log: what happened on earlier days."""

    config: Config
    log: Log
    edges: dict[str, list[float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_names(self.config, self.log)
        orders = past_orders(self.log, ("train", "test"))
        log, history = self.log.scan(), self.log.history.lazy()
        rate = self.config.dataset.sampling_rate
        self.daily = {key: daily_counts(log, history, [key], rate) for key in ("poi_id", "user_id")}
        self.pairs = daily_counts(log.filter(pl.col("click")), history, PAIR).select(
            *PAIR, "day", pair_log_clicks="clicks", pair_log_orders="orders"
        )
        clicked = log.filter(pl.col("click")).select(*PAIR, "time", "day")
        events = pl.concat([self.log.history.lazy().select(*PAIR, "time", "day"), clicked])
        self.events = events.collect(engine="streaming")
        priced = "poi_price_yuan" in self.log.places.columns
        self.spending = daily_spending(orders, self.log.places) if priced else None
        self.daily_values: dict[str, pl.DataFrame] = {}
        self._fit_edges()
        levelled = with_levels(orders, self._buckets_in(orders), self.edges)
        self.daily_values = {
            profile.name: daily_values(levelled, self.log.places, profile)
            for profile in self.config.profiles
        }

    def enrich(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Adds to each row what was known at the start of its day, the recent places too."""
        return self._by_day(rows, lambda known, part: known.with_recent(known.enrich(part)))

    def numbers(self, rows: pl.DataFrame) -> pl.DataFrame:
        """The same without the levels and what needs them."""
        return self._by_day(rows, Known.numbers)

    def _by_day(
        self, rows: pl.DataFrame, add: Callable[[Known, pl.DataFrame], pl.DataFrame]
    ) -> pl.DataFrame:
        numbered = rows.with_row_index(ORDER)
        if not rows.height:
            return add(self.known(date.min, numbered), numbered).drop(ORDER)
        days = numbered.group_by("day", maintain_order=True)
        parts = [add(self.known(day, part), part) for (day,), part in days]
        return pl.concat(parts).sort(ORDER).drop(ORDER)

    def known(self, day: date, rows: pl.DataFrame | None = None) -> Known:
        """All that is known at the start of a day, of every user or of those of some rows."""
        life, values = self.config.features.half_life_days, self.daily_values
        asking = self.log.users
        if rows is not None:
            asking = asking.join(rows, on="user_id", how="semi", maintain_order="left")
        places = self._entities("poi", self.log.places, day)
        users = self._entities("user", asking, day)
        asked = users.select("user_id", pl.lit(day).alias("day"))
        if self.spending is not None:
            spent = as_of(self.spending, asked, ["user_id"], life)
            mean = pl.col("spent_yuan") / pl.col("priced_orders")
            spent = spent.select("user_id", user_order_price_yuan=mean)
            users = users.join(spent, on="user_id", how="left", maintain_order="left")
        situations = {}
        for profile in self.config.profiles:
            if profile.name in values:
                found = favourites(values[profile.name], asked, profile, life).drop("day")
                if profile.within:
                    situations[profile.name] = found
                else:
                    users = users.join(found, on="user_id", how="left", maintain_order="left")
        pairs = as_of(self.pairs, asked, PAIR, life).select(*PAIR, pl.col(PAIR_FIGURES).log1p())
        recent = recent_places(self.events, asked, self.config.features.recent).drop("day")
        return Known(places, users, situations, pairs, recent, self.config.buckets, self.edges)

    def _entities(self, prefix: str, table: pl.DataFrame, day: date) -> pl.DataFrame:
        """Places or users with their statistics."""
        key, life = f"{prefix}_id", self.config.features.half_life_days
        asked = table.select(key, pl.lit(day).alias("day"))
        sums = as_of(self.daily[key], asked, [key], life)
        days = overall(self.daily[key], asked["day"], life)
        figures = rates(sums, prefix, days).drop("day")
        never = [f"{prefix}_{name}" for name in NEVER_SEEN]
        full = table.join(figures, on=key, how="left", maintain_order="left")
        return full.with_columns(pl.col(never).fill_null(0.0))

    def _buckets_in(self, rows: pl.DataFrame) -> list[BucketConfig]:
        return [bucket for bucket in self.config.buckets if bucket.column in rows.columns]

    def _fit_edges(self) -> None:
        train = self.log.scan().filter(pl.col("split") == "train")
        numbers = self.numbers(sample(train, EDGE_ROWS))
        for bucket in self.config.buckets:
            if bucket.column not in numbers.columns:
                raise ConfigError(
                    f"bucket {bucket.column}: no such column; there are "
                    f"{', '.join(sorted(numbers.columns))}"
                )
            values = as_numbers(numbers[bucket.column], "buckets")
            self.edges[bucket.column] = bucket_edges(bucket, values)


def _check_names(config: Config, log: Log) -> None:
    """Refuses a column that has the name of one that is made here, and would stand for it."""
    figures = (*NEVER_SEEN, "ctr", "cvr", "impressions")
    made = {f"{prefix}_{name}" for prefix in ("poi", "user") for name in figures}
    made |= {"user_order_price_yuan", "recent", *PAIR_FIGURES}
    made |= {f"{one.column}_level" for one in config.buckets}
    logged = log.scan().collect_schema().names()
    for bucket in config.buckets:
        if bucket.column in NEVER_FEATURES:
            raise ConfigError(f"bucket {bucket.column}: that column says what happened")
    for one in config.profiles:
        if one.within in NEVER_FEATURES:
            raise ConfigError(
                f"profile {one.name}: within is {one.within}, which says what happened"
            )
        if one.name in made:
            raise ConfigError(f"profile {one.name}: larr makes a column of that name itself")
        if one.poi_column not in log.places.columns:
            raise ConfigError(
                f"profile {one.name}: places have no column {one.column}; they have "
                f"{', '.join(name.removeprefix('poi_') for name in log.places.columns)}"
            )
        if isinstance(log.places.schema[one.poi_column], NESTED):
            raise ConfigError(
                f"profile {one.name}: {one.column} of places holds "
                f"{log.places.schema[one.poi_column]}; give a text with values joined by commas"
            )
        if one.within and not {one.within, one.within.removesuffix("_level")} & {*logged}:
            raise ConfigError(
                f"profile {one.name}: within is {one.within}, which impressions do not have; they "
                f"have {', '.join(logged)}"
            )
    made |= {one.name for one in config.profiles}
    entities = {*log.places.columns, *log.users.columns} - {"poi_id", "user_id"}
    for table, columns, others in (
        ("places", log.places.columns, made),
        ("users", log.users.columns, made),
        ("impressions", logged, made | entities),
        ("orders", log.history.columns, made | entities),
    ):
        taken = sorted(others.intersection(columns))
        if taken:
            raise DataError(
                f"table {table}: its column {', '.join(taken)} has the name of a column that larr "
                "makes, or that another table has; rename it ([dataset.tables.rename])"
            )


def past_orders(log: Log, splits: Collection[str]) -> pl.DataFrame:
    """Orders of the log's splits and of the history up to their last day.

    They have the scene columns that both have.
    """
    rows = log.scan().filter(pl.col("split").is_in(splits))
    last = rows.select(pl.col("day").max()).collect(engine="streaming").item()
    logged = rows.filter(pl.col("order")).collect(engine="streaming")
    earlier = log.history.filter(pl.col("day") <= last)
    return pl.concat([earlier, logged], how="diagonal_relaxed").sort("time", "user_id", "poi_id")
