"""Adds the statistics at the start of each row's day, and nothing later, as columns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl

from larr.config import Config
from larr.data.chunks import ParallelMap
from larr.data.counts import COUNTS, Counting, count_log, daily_counts
from larr.data.cross import DailyCross, Values, count_names, pair_counts
from larr.data.features import as_numbers, sample
from larr.data.log import Log
from larr.data.names import INTERNAL, PLACE, ROWS, USER, raw_column
from larr.data.snapshot import CROSS, PAIR, PAIR_FIGURES, Snapshot, with_crosses
from larr.data.statistics import ProfileTexts, RecentPlaces, Statistics, Sums, daily_spending
from larr.data.transforms import Array, Levels, with_levels
from larr.progress import track

EDGE_ROWS = 100_000
"""Training rows from which the quantiles of buckets are computed."""
ON_ITS_DAY = INTERNAL + "{} on its day"
"""The column that numbers the distinct pairs of place (or user) and day in a chunk."""


class Enricher:
    """Adds the statistics at the start of each row's day to rows of the checked log.

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
        """Returns the rows, in order, with the statistics at the start of their days.

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
        rows = with_crosses(rows.hstack(pairs), self.levels, self.crosses if crossed else ())
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

    def snapshot(self, day: int) -> Snapshot:
        """Returns the statistics at the start of a day (since 1970), without `crosses`."""
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
        return Snapshot(
            self._places(place_P, np.full(len(places), day)),
            self._users(user_U, np.full(len(users), day)),
            {
                texts.profile.name: texts.snapshot(day, users["user_id"])
                for texts in self.profiles
                if texts.profile.within
            },
            pairs,
            recent.agg(recent="poi_id"),
            self.levels,
        )

    def save_crosses(self, day: int, folder: Path) -> None:
        """Writes `Snapshot.crosses` one by one, as those of a long log are large."""
        for number, cross in enumerate(self.crosses):
            cross.snapshot(day).save(folder / CROSS.format(number))


def past_orders(log: Log, rows: pl.LazyFrame) -> pl.DataFrame:
    """Returns the orders among some impressions, and those of the history up to their last day.

    Scene columns that the history does not have are null.
    """
    last = rows.select(pl.col("day").max()).collect(engine="streaming").item()
    logged = rows.filter(pl.col("order")).collect(engine="streaming")
    earlier = log.history.filter(pl.col("day") <= last)
    return pl.concat([earlier, logged], how="diagonal_relaxed").sort("time", "user_id", "poi_id")
