"""Adds the statistics known at the start of each row's day, and nothing later, as columns.

Shapes: K candidates of a request.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import polars as pl

from larr import artifacts
from larr.config import Config
from larr.data.chunks import ParallelMap
from larr.data.counts import COUNTS, Counting, count_log, daily_counts
from larr.data.cross import Cross, DailyCross, Values, count_names, pair_counts
from larr.data.features import as_numbers, sample
from larr.data.log import Log
from larr.data.names import INTERNAL, PLACE, ROWS, USER, raw_column
from larr.data.statistics import (
    NEVER_SEEN,
    ProfileTexts,
    RecentPlaces,
    Statistics,
    Sums,
    daily_spending,
)
from larr.data.transforms import (
    NAME_WORDS,
    Array,
    Levels,
    time_columns,
    with_age,
    with_levels,
    with_name_words,
)
from larr.progress import track

KNOWN, EDGES, CROSS = "known", "edges.json", "cross-{}"
TABLES = ("places", "users", "pairs", "recent")
PAIR = ["user_id", "poi_id"]
PAIR_FIGURES = ["pair_log_clicks", "pair_log_orders"]
EDGE_ROWS = 100_000
"""Training rows from which the quantiles of buckets are computed."""
ON_ITS_DAY = INTERNAL + "{} on its day"
"""The column that numbers the distinct pairs of place (or user) and day in a chunk."""
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Known:
    """The state at the start of a day, and how rows of that day read it.

    A server starts with the state of the day after the training days, so a request has the columns
    that its rows would have in the log. `enrich` adds the columns to a table; `of_request`,
    `pair_figures` and `recent_places` return the same values for one request.
    """

    places: pl.DataFrame
    """poi_id, the columns of the places, their statistics."""
    users: pl.DataFrame
    """user_id, the columns of the users, their statistics and profiles."""
    scene_profiles: dict[str, pl.DataFrame]
    """For each profile with `within`: user_id, the column `within`, the profile."""
    pairs: pl.DataFrame
    """user_id, poi_id and `PAIR_FIGURES`."""
    recent: pl.DataFrame
    """user_id and `recent`, the latest places."""
    levels: list[Levels]
    crosses: Sequence[Cross] = ()
    """One for each pair of columns."""

    def enrich(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Adds all columns that keywords and features can read."""
        for table in (self.places, self.users, self.pairs, self.recent):
            key = [name for name in PAIR if name in table.columns]
            rows = rows.join(table, on=key, how="left", maintain_order="left")
        # A user or place without a row in the tables has no past.
        never = [f"{owner}_{name}" for owner in ("poi", "user") for name in NEVER_SEEN]
        rows = rows.with_columns(pl.col(*PAIR_FIGURES, *never).fill_null(0.0))
        rows = _with_crosses(rows, self.levels, self.crosses)
        # These come last, as their key may be a level.
        for table in self.scene_profiles.values():
            rows = rows.join(table, on=table.columns[:-1], how="left", maintain_order="left")
        return rows

    def describe_places(self, places: pl.DataFrame) -> pl.DataFrame:
        """Returns known or new places with all columns and levels; new ones have no past."""
        places = pl.concat([self.places.clear(), places], how="diagonal_relaxed")
        never = [f"poi_{name}" for name in NEVER_SEEN]
        if NAME_WORDS in places.columns:
            places = with_name_words(places)
        return with_levels(places.with_columns(pl.col(never).fill_null(0.0)), self.levels)

    def describe_users(self, profiles: Iterable[str]) -> pl.DataFrame:
        """Returns all users with their statistics, levels, and some of `scene_profiles`.

        A user has a row for each value of the scene column in earlier orders.
        """
        users = with_levels(self.users, self.levels)
        for name in profiles:
            table = self.scene_profiles[name]
            key = [column for column in table.columns[:-1] if column in users.columns]
            users = users.join(table, on=key, how="left", maintain_order="left")
        return users

    def of_request(self, row: Row) -> dict[str, Any]:
        """Returns the columns of a request, except those of places and pairs.

        `row` holds the columns sent by the client: `user_id`, `time`, and the scene.
        """
        number = self.user_rows.get(row["user_id"])
        values = {} if number is None else self.users.row(number, named=True)
        for name in NEVER_SEEN:
            values[f"user_{name}"] = values.get(f"user_{name}") or 0.0
        values.update(row, **time_columns(row["time"]))
        self._add_levels(values)
        for cross in self.crosses:
            if not cross.differs:
                values |= cross.of_values(values)
        self._add_levels(values)  # levels of the cross statistics
        for name, table in self._scene_profile_texts.items():
            within = self.scene_profiles[name].columns[1]
            values[name] = table.get((row["user_id"], values.get(within)))
        return values

    def _add_levels(self, values: dict[str, Any]) -> None:
        """Adds missing levels of the present numbers."""
        for level in self.levels:
            column, name = level.bucket.column, level.bucket.level
            if column in values and name not in values:
                values[name] = level.value(values[column])

    def pair_figures(self, user_id: str, places: Sequence[str]) -> Array:
        """Returns `PAIR_FIGURES` of a user at each place, float64 [K, 2]."""
        figures = self._pair_values.get(user_id, {})
        figures_K2 = np.array([figures.get(place, (0.0, 0.0)) for place in places], np.float64)
        return figures_K2.reshape(-1, len(PAIR_FIGURES))

    @cached_property
    def recent_places(self) -> dict[str, list[str]]:
        """User -> latest places before the day, for users who have any."""
        return dict(self.recent.select("user_id", "recent").iter_rows())

    @cached_property
    def user_rows(self) -> dict[str, int]:
        """User -> row in `users`."""
        return {user_id: number for number, user_id in enumerate(self.users["user_id"])}

    @cached_property
    def _scene_profile_texts(self) -> dict[str, dict[tuple[Any, ...], str]]:
        return {
            name: {row[:-1]: row[-1] for row in table.iter_rows()}
            for name, table in self.scene_profiles.items()
        }

    @cached_property
    def _pair_values(self) -> dict[str, dict[str, tuple[float, ...]]]:
        values: dict[str, dict[str, tuple[float, ...]]] = {}
        for user, place, *figures in self.pairs.select(*PAIR, *PAIR_FIGURES).iter_rows():
            values.setdefault(user, {})[place] = tuple(figures)
        return values

    def save(self, folder: Path) -> None:
        """Writes the tables, for serving; `Enricher.save_crosses` writes the cross statistics."""
        folder.mkdir()
        for name in TABLES:
            getattr(self, name).write_parquet(folder / f"{name}.parquet")
        for name, table in self.scene_profiles.items():
            table.write_parquet(folder / f"situation-{name}.parquet")
        edges = {level.bucket.column: level.edges for level in self.levels}
        artifacts.write_json(folder / EDGES, edges)

    @classmethod
    def load(cls, config: Config, folder: Path) -> Self:
        tables = {name: pl.read_parquet(folder / f"{name}.parquet") for name in TABLES}
        scene_profiles = {
            profile.name: pl.read_parquet(folder / f"situation-{profile.name}.parquet")
            for profile in config.profiles
            if profile.within
        }
        edges = artifacts.read_json(folder / EDGES)
        levels = [Levels(bucket, edges[bucket.column]) for bucket in config.buckets]
        crosses = [
            Cross.load(config, pair, folder / CROSS.format(number))
            for number, pair in enumerate(config.statistics or [])
        ]
        return cls(**tables, scene_profiles=scene_profiles, levels=levels, crosses=crosses)


def _with_crosses(
    rows: pl.DataFrame, levels: Sequence[Levels], crosses: Sequence[Cross | DailyCross]
) -> pl.DataFrame:
    """Adds the age of places, levels and cross statistics, which may read levels or have some."""
    rows = with_levels(with_age(rows), levels)
    for cross in crosses:
        rows = cross.enrich(rows)
    return with_levels(rows, levels)


class Enricher:
    """Adds the statistics known at the start of each row's day to rows of the checked log.

    It holds in memory the clicks, and sums for each key and day with an event. Rows read them only
    through `Past`, so neither the row itself nor later ones can leak into it.
    """

    def __init__(self, config: Config, log: Log, pmap: ParallelMap = map) -> None:
        self.config, self.log = config, log
        self._tables = {PLACE: self._places, USER: self._users}
        reads = len(log.impressions) * (3 + len(config.statistics or []))
        with track("daily counts", reads, "file reads") as advance:
            rate = config.dataset.sampling_rate
            self._count(partial(count_log, log, rate, pmap, advance))

    def _count(self, count: Callable[[Sequence[str], Counting], pl.DataFrame]) -> None:
        """Counts the log with a `count_log`, and keeps the sums that rows are looked up in."""
        config, log = self.config, self.log
        half_life = config.features.half_life_days
        impressions, history = log.counted(), log.history.lazy()
        clicked = impressions.filter(pl.col("click"))
        self.statistics = {}
        for owner, row in (("poi", PLACE), ("user", USER)):
            daily = count(COUNTS, partial(daily_counts, key=[pl.col(row).alias("key")]))
            self.statistics[owner] = Statistics(owner, daily, half_life)
        user_place = pl.col(USER).cast(pl.Int64) * (len(log.places) + 1) + pl.col(PLACE)
        names = dict(zip(("clicks", "orders"), PAIR_FIGURES, strict=True))
        daily = count([*names], partial(daily_counts, key=[user_place.alias("key")]))
        self.pairs = Sums(daily.rename(names), half_life)
        del daily
        columns = [USER, PLACE, "poi_id", "time", "day"]
        events = pl.concat([history.select(columns), clicked.select(columns)])
        events = events.sort("time", "poi_id", descending=True).select(USER, PLACE, "day")
        self.recent = RecentPlaces(
            events.collect(engine="streaming"), len(log.users), config.features.recent
        )
        within = {raw_column(config, p.within) for p in config.profiles if p.within}
        needed = {"day", "click", "order", "time", *ROWS, *ROWS.values(), *within}
        shown = impressions.select(sorted(needed))
        orders = past_orders(log, shown)
        self.spending: Sums | None = None
        if "poi_price_yuan" in log.places.columns:
            spending = daily_spending(orders, log.places)
            self.spending = Sums(spending, half_life)
        # Profiles and cross statistics may read levels of other columns, so these levels are fitted
        # first; levels of cross statistics follow.
        self.profiles: list[ProfileTexts] = []
        self.levels: list[Levels] = []
        self.crosses: list[DailyCross] = []
        train = sample(log.training(), EDGE_ROWS)
        self._fit_levels(train)
        pairs = config.statistics or []
        crossed = dict.fromkeys(name for pair in pairs for name in pair.columns)
        owned: dict[str, Values] = {}
        for entities in (log.users, log.places):
            table = with_levels(entities, self.levels)
            owned |= {name: Values.of(table, name) for name in crossed if name in table.columns}
        for pair in pairs:
            read = partial(pair_counts, config=config, pair=pair, owned=owned, levels=self.levels)
            self.crosses.append(DailyCross(config, pair, owned, count(count_names(pair), read)))
        self._fit_levels(train)
        kinds = {"clicked": pl.col("click") & ~pl.col("order"), "left": ~pl.col("click")}
        for profile in config.profiles:
            chosen = orders
            if profile.events in kinds:
                chosen = shown.filter(kinds[profile.events]).collect(engine="streaming")
            chosen = with_levels(chosen, self.levels)
            self.profiles.append(ProfileTexts(chosen, log.places, profile, half_life))
        no_rows = np.zeros(0, np.int64)
        self.owned = {
            row: {*with_levels(table(no_rows, no_rows), self.levels).columns}
            for row, table in self._tables.items()
        }
        """The columns that are equal in all rows of a place, or of a user, on a day."""

    def _fit_levels(self, train: pl.DataFrame) -> None:
        """Fits the remaining levels whose columns can be computed by now."""
        fitted = {level.bucket.column for level in self.levels}
        buckets = [bucket for bucket in self.config.buckets if bucket.column not in fitted]
        if buckets:
            rows = self.enrich(train)
            for bucket in buckets:
                if bucket.column in rows.columns:
                    values = as_numbers(rows[bucket.column], "buckets")
                    self.levels.append(Levels.fit(bucket, values))

    def enrich(self, rows: pl.DataFrame, crossed: bool = True) -> pl.DataFrame:
        """Returns the rows, in order, with the columns known at the start of their days.

        `crossed` adds the cross statistics.
        """
        user_N, place_N = rows[USER].to_numpy(), rows[PLACE].to_numpy()
        day_N = rows["day"].to_physical().to_numpy()
        # Users and places repeat within a day, so each pair with a day is looked up once.
        for row, table in self._tables.items():
            number = ON_ITS_DAY.format(row)
            distinct = rows.select(row, "day").unique(maintain_order=True).with_row_index(number)
            days_N = distinct["day"].to_physical().to_numpy()
            known = with_levels(table(distinct[row].to_numpy(), days_N), self.levels)
            rows = rows.join(distinct, on=[row, "day"], how="left", maintain_order="left")
            rows = rows.hstack(known.drop(PAIR, strict=False)[rows[number]])
        pair_N = user_N.astype(np.int64) * (len(self.log.places) + 1) + place_N
        pairs = self.pairs.as_of(pair_N, day_N).select(pl.all().log1p().fill_null(0.0))
        rows = _with_crosses(rows.hstack(pairs), self.levels, self.crosses if crossed else ())
        return rows.with_columns(
            texts.as_of(rows) for texts in self.profiles if texts.profile.within
        )

    def _places(self, place_N: Array, day_N: Array) -> pl.DataFrame:
        """Returns places with their statistics."""
        figures = self.statistics["poi"].as_of(place_N, day_N)
        return self.log.places[place_N.astype(np.int64) - 1].hstack(figures)

    def _users(self, user_N: Array, day_N: Array) -> pl.DataFrame:
        """Returns users with their statistics and profiles."""
        users = self.log.users[user_N.astype(np.int64) - 1]
        users = users.hstack(self.statistics["user"].as_of(user_N, day_N))
        if self.spending is not None:
            mean = pl.col("spent_yuan") / pl.col("priced_orders")
            spent = self.spending.as_of(user_N, day_N).select(user_order_price_yuan=mean)
            users = users.hstack(spent)
        rows = pl.DataFrame({USER: user_N, "day": pl.Series(day_N).cast(pl.Date)})
        return users.with_columns(
            texts.as_of(rows) for texts in self.profiles if not texts.profile.within
        )

    def known(self, day: int) -> Known:
        """Returns the state at the start of a day (since 1970), without cross statistics."""
        places, users = self.log.places, self.log.users
        place_P, user_U = (np.arange(1, len(table) + 1) for table in (places, users))
        pairs = self.pairs.of_day(day)
        user_N, place_N = np.divmod(pairs["key"].to_numpy(), len(places) + 1)
        ids = [users["user_id"][user_N - 1], places["poi_id"][place_N - 1]]
        pairs = pl.DataFrame(ids).hstack(pairs.select(pl.col(PAIR_FIGURES).log1p())).sort(PAIR)
        recent_UL = self.recent.as_of(user_U, np.full(len(users), day))
        user_N, position_N = np.nonzero(recent_UL)
        ids = [users["user_id"][user_N], places["poi_id"][recent_UL[user_N, position_N] - 1]]
        recent = pl.DataFrame(ids).group_by("user_id", maintain_order=True)
        return Known(
            self._places(place_P, np.full(len(places), day)),
            self._users(user_U, np.full(len(users), day)),
            {
                texts.profile.name: texts.known(day, users["user_id"])
                for texts in self.profiles
                if texts.profile.within
            },
            pairs,
            recent.agg(recent="poi_id"),
            self.levels,
        )

    def save_crosses(self, day: int, folder: Path) -> None:
        """Writes the cross statistics of `Known`, one by one, as those of a long log are large."""
        for number, cross in enumerate(self.crosses):
            cross.known(day).save(folder / CROSS.format(number))


def past_orders(log: Log, rows: pl.LazyFrame) -> pl.DataFrame:
    """Returns the orders among some impressions, and those of the history up to their last day.

    Scene columns that the history does not have are null.
    """
    last = rows.select(pl.col("day").max()).collect(engine="streaming").item()
    logged = rows.filter(pl.col("order")).collect(engine="streaming")
    earlier = log.history.filter(pl.col("day") <= last)
    return pl.concat([earlier, logged], how="diagonal_relaxed").sort("time", "user_id", "poi_id")
