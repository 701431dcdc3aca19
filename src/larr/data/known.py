"""What is known at the start of a day, and nothing later, as columns of that day's rows.

Shapes: K candidates of a request.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import polars as pl

from larr import artifacts
from larr.config import Config
from larr.config.data import ProfileConfig
from larr.data import statistics
from larr.data.cross import Cross, DailyCross
from larr.data.features import as_numbers, sample
from larr.data.log import Log
from larr.data.transforms import Array, Levels, time_columns

KNOWN, EDGES = "known", "edges.json"
TABLES = ("places", "users", "pairs", "recent")
PAIR = ["user_id", "poi_id"]
PAIR_FIGURES = ["pair_log_clicks", "pair_log_orders"]
EDGE_ROWS = 100_000
"""Training rows from which the quantiles of buckets are computed."""
ROW = "row of the chunk"
NO_PAIR = (0.0,) * len(PAIR_FIGURES)
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Known:
    """All that is known at the start of a day, and how rows of that day get it as columns.

    `larr prepare` builds one for each day of the log. A server starts with that of the day after
    the training days, so that a request has the columns that its rows would have in the log.
    `enrich` takes a table; `of_request`, `pair_figures` and `recent_places` give the same columns
    for one request.
    """

    places: pl.DataFrame
    """poi_id, the columns of the places, their statistics."""
    users: pl.DataFrame
    """user_id, the columns of the users, their statistics, their profiles."""
    situations: dict[str, pl.DataFrame]
    """For each profile with `within`: user_id, the column within which it counts, the profile."""
    pairs: pl.DataFrame
    """user_id, poi_id and `PAIR_FIGURES`."""
    recent: pl.DataFrame
    """user_id and `recent`, the latest places."""
    levels: list[Levels]
    crosses: Sequence[Cross] = ()
    """The cross statistics of each pair of columns."""

    def enrich(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Adds all columns that a keyword or a feature may name to user, place, time, scene."""
        for table in (self.places, self.users, self.pairs, self.recent):
            key = [name for name in PAIR if name in table.columns]
            rows = rows.join(table, on=key, how="left", maintain_order="left")
        # A user or place that the tables do not have is one without a past.
        never = [f"{owner}_{name}" for owner in ("poi", "user") for name in statistics.NEVER_SEEN]
        rows = rows.with_columns(pl.col(*PAIR_FIGURES, *never).fill_null(0.0))
        rows = with_levels(rows, self.levels)
        for cross in self.crosses:
            rows = cross.enrich(rows)
        rows = with_levels(rows, self.levels)  # of the figures just added
        # Last, since situations may be looked up by levels.
        for table in self.situations.values():
            rows = rows.join(table, on=table.columns[:-1], how="left", maintain_order="left")
        return rows

    def describe_places(self, places: pl.DataFrame) -> pl.DataFrame:
        """Returns known places, or new ones, which have no past, with all columns and levels."""
        places = pl.concat([self.places.clear(), places], how="diagonal_relaxed")
        never = [f"poi_{name}" for name in statistics.NEVER_SEEN]
        return with_levels(places.with_columns(pl.col(never).fill_null(0.0)), self.levels)

    def describe_users(self, profiles: Iterable[str]) -> pl.DataFrame:
        """Returns all users with their statistics and levels, and chosen profiles of situations.

        With the latter there is a row for each situation in which the user has ordered.
        """
        users = with_levels(self.users, self.levels)
        for name in profiles:
            table = self.situations[name]
            key = [column for column in table.columns[:-1] if column in users.columns]
            users = users.join(table, on=key, how="left", maintain_order="left")
        return users

    def of_request(self, row: Row) -> dict[str, Any]:
        """Returns the columns of a request: those sent (`user_id`, `time`, scene), and all known.

        Columns of places and pairs are not among them.
        """
        number = self.user_rows.get(row["user_id"])
        values = {} if number is None else self.users.row(number, named=True)
        for name in statistics.NEVER_SEEN:
            values[f"user_{name}"] = values.get(f"user_{name}") or 0.0
        values.update(row, **time_columns(row["time"]))
        self._add_levels(values)
        for cross in self.crosses:
            if not cross.differs:
                values |= cross.of_values(values)
        self._add_levels(values)
        for name, table in self._situation_values.items():
            within = self.situations[name].columns[1]
            values[name] = table.get((row["user_id"], values.get(within)))
        return values

    def _add_levels(self, values: dict[str, Any]) -> None:
        """Adds the levels of those numbers that there are, where they are missing."""
        for level in self.levels:
            if level.bucket.column in values and level.name not in values:
                values[level.name] = level.value(values[level.bucket.column])

    def pair_figures(self, user_id: str, places: Sequence[str]) -> Array:
        """Returns `PAIR_FIGURES` of a user at each of some places, float64 [K, 2]."""
        figures = self._pair_values.get(user_id, {})
        figures_K2 = np.array([figures.get(place, NO_PAIR) for place in places], np.float64)
        return figures_K2.reshape(-1, len(PAIR_FIGURES))

    @cached_property
    def recent_places(self) -> dict[str, list[str]]:
        """The latest places before the day of each user who has any."""
        return dict(self.recent.select("user_id", "recent").iter_rows())

    @cached_property
    def user_rows(self) -> dict[str, int]:
        """The row of each user of the log in `users`."""
        return {user_id: number for number, user_id in enumerate(self.users["user_id"])}

    @cached_property
    def _situation_values(self) -> dict[str, dict[tuple[Any, ...], str]]:
        return {
            name: {row[:-1]: row[-1] for row in table.iter_rows()}
            for name, table in self.situations.items()
        }

    @cached_property
    def _pair_values(self) -> dict[str, dict[str, tuple[float, ...]]]:
        values: dict[str, dict[str, tuple[float, ...]]] = {}
        for user, place, *figures in self.pairs.select(*PAIR, *PAIR_FIGURES).iter_rows():
            values.setdefault(user, {})[place] = tuple(figures)
        return values

    def save(self, folder: Path) -> None:
        """Writes the tables, for serving."""
        folder.mkdir()
        for name in TABLES:
            getattr(self, name).write_parquet(folder / f"{name}.parquet")
        for name, table in self.situations.items():
            table.write_parquet(folder / f"situation-{name}.parquet")
        for cross in self.crosses:
            cross.save(folder)
        edges = {level.bucket.column: level.edges for level in self.levels}
        artifacts.write_json(folder / EDGES, edges)

    @classmethod
    def load(cls, config: Config, folder: Path) -> Self:
        """Returns what `save` wrote."""
        tables = {name: pl.read_parquet(folder / f"{name}.parquet") for name in TABLES}
        situations = {
            profile.name: pl.read_parquet(folder / f"situation-{profile.name}.parquet")
            for profile in config.profiles
            if profile.within
        }
        edges = artifacts.read_json(folder / EDGES)
        levels = [Levels(bucket, edges[bucket.column]) for bucket in config.buckets]
        crosses = [Cross.load(config, pair, folder) for pair in config.statistics or []]
        return cls(**tables, situations=situations, levels=levels, crosses=crosses)


class Enricher:
    """Builds `Known` for any day from the checked log.

    Of the log it keeps counts of each day and the clicks in memory. All that a row gets is summed
    over earlier days by `statistics.as_of` or chosen from them by `recent_places`, so
    neither the row itself nor anything later can leak into it.
    """

    def __init__(self, config: Config, log: Log) -> None:
        self.config, self.log = config, log
        impressions, history = log.counted(), log.history.lazy()
        clicked = impressions.filter(pl.col("click"))
        rate = config.dataset.sampling_rate
        self.counts = {
            owner: statistics.daily_counts(impressions, history, [f"{owner}_id"], rate)
            for owner in ("poi", "user")
        }
        self.pairs = statistics.daily_counts(clicked, history, PAIR).select(
            *PAIR, "day", pair_log_clicks="clicks", pair_log_orders="orders"
        )
        columns = [*PAIR, "time", "day"]
        events = pl.concat([history.select(columns), clicked.select(columns)])
        self.events = events.collect(engine="streaming")
        orders = past_orders(log, log.counted())  # `as_of` reads those of earlier days alone
        has_prices = "poi_price_yuan" in log.places.columns
        self.spending = statistics.daily_spending(orders, log.places) if has_prices else None
        # Profiles and cross statistics count within levels, whose edges are fitted on columns that
        # need neither; levels of cross statistics come after them.
        self.profiles: list[tuple[ProfileConfig, pl.DataFrame]] = []
        self.levels: list[Levels] = []
        self.crosses: list[DailyCross] = []
        train = sample(impressions.filter(pl.col("split") == "train"), EDGE_ROWS)
        self._fit_levels(train)
        rows, earlier = self._with_values(impressions), self._with_values(history)
        self.crosses = [
            DailyCross.of(config, pair, rows, earlier) for pair in config.statistics or []
        ]
        self._fit_levels(train)
        orders = with_levels(orders, self.levels)
        for profile in config.profiles:
            values = statistics.daily_values(orders, log.places, profile)
            self.profiles.append((profile, values))

    def _fit_levels(self, train: pl.DataFrame) -> None:
        """Adds the levels of those columns that rows have by now."""
        fitted = {level.bucket.column for level in self.levels}
        buckets = [bucket for bucket in self.config.buckets if bucket.column not in fitted]
        if buckets:
            rows = self.enrich(train)
            for bucket in buckets:
                if bucket.column in rows.columns:
                    values = as_numbers(rows[bucket.column], "buckets")
                    self.levels.append(Levels.fit(bucket, values))

    def _with_values(self, rows: pl.LazyFrame) -> pl.LazyFrame:
        """Adds the columns of users and places, and the levels, that cross statistics count."""
        for table, key in ((self.log.places, "poi_id"), (self.log.users, "user_id")):
            rows = rows.join(table.lazy(), on=key, how="left")
        columns = rows.collect_schema().names()
        return rows.with_columns(
            pl.col(level.bucket.column)
            .map_batches(level.of, return_dtype=pl.String, is_elementwise=True)
            .alias(level.name)
            for level in self.levels
            if level.bucket.column in columns
        )

    def enrich(self, rows: pl.DataFrame, crossed: bool = True) -> pl.DataFrame:
        """Returns the rows, in their order, with what was known at the start of their days.

        Cross statistics, which take most of the time, are added where they are wanted.
        """
        numbered = rows.with_row_index(ROW)
        if not rows.height:
            return self.known(date.min, numbered, crossed).enrich(numbered).drop(ROW)
        days = numbered.group_by("day", maintain_order=True)
        parts = [self.known(day, part, crossed).enrich(part) for (day,), part in days]
        return pl.concat(parts).sort(ROW).drop(ROW)

    def known(self, day: date, rows: pl.DataFrame | None = None, crossed: bool = True) -> Known:
        """Returns what is known at the start of a day, of all users or of those of some rows."""
        half_life = self.config.features.half_life_days
        users = self.log.users
        if rows is not None:
            users = users.join(rows, on="user_id", how="semi", maintain_order="left")
        counts = self.counts
        places = statistics.with_statistics(self.log.places, "poi", counts["poi"], day, half_life)
        users = statistics.with_statistics(users, "user", counts["user"], day, half_life)
        asked = users.select("user_id")
        if self.spending is not None:
            mean = pl.col("spent_yuan") / pl.col("priced_orders")
            spent = statistics.as_of(self.spending, day, ["user_id"], half_life, asked)
            spent = spent.select("user_id", user_order_price_yuan=mean)
            users = users.join(spent, on="user_id", how="left", maintain_order="left")
        situations = {}
        for profile, values in self.profiles:
            words = statistics.favourites(values, day, asked, profile, half_life)
            if profile.within:
                situations[profile.name] = words
            else:
                users = users.join(words, on="user_id", how="left", maintain_order="left")
        pairs = statistics.as_of(self.pairs, day, PAIR, half_life, asked)
        pairs = pairs.select(*PAIR, pl.col(PAIR_FIGURES).log1p())
        recent = statistics.recent_places(self.events, day, asked, self.config.features.recent)
        crosses = [cross.as_of(day, half_life, users) for cross in self.crosses if crossed]
        return Known(places, users, situations, pairs, recent, self.levels, crosses)


def with_levels(rows: pl.DataFrame, levels: list[Levels]) -> pl.DataFrame:
    """Adds the levels of those numbers that the rows have, where they lack them."""
    columns = rows.columns
    missing = [
        level for level in levels if level.bucket.column in columns and level.name not in columns
    ]
    return rows.with_columns(level.column(rows) for level in missing)


def past_orders(log: Log, rows: pl.LazyFrame) -> pl.DataFrame:
    """Returns the orders among some impressions, and those of the history up to their last day.

    The history may lack scene columns that the log has; they are null there.
    """
    last = rows.select(pl.col("day").max()).collect(engine="streaming").item()
    logged = rows.filter(pl.col("order")).collect(engine="streaming")
    earlier = log.history.filter(pl.col("day") <= last)
    return pl.concat([earlier, logged], how="diagonal_relaxed").sort("time", "user_id", "poi_id")
