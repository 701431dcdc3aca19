"""Adds to the rows of the log what was known at the start of their day, and nothing later."""

from __future__ import annotations

from collections.abc import Callable, Collection
from datetime import date

import polars as pl

from larr.config import Config
from larr.config.data import ProfileConfig
from larr.data.features import as_numbers, sample
from larr.data.known import NEVER_SEEN, PAIR, PAIR_FIGURES, Known
from larr.data.log import Log
from larr.data.statistics import (
    as_of,
    daily_counts,
    daily_spending,
    daily_values,
    favourites,
    overall,
    rates,
    recent_places,
)
from larr.data.transforms import Levels

EDGE_ROWS = 100_000
"""Training rows of which the quantiles of buckets are computed."""
ROW = "row of the chunk"


class Enricher:
    """Builds `Known` for any day from the checked log.

    Of the log it keeps counts of each day and the clicks in memory. All that a row gets is summed
    over earlier days by `statistics.as_of` or chosen from them by `profiles.recent_places`, so
    neither the row itself nor anything later can leak into it.
    """

    def __init__(self, config: Config, log: Log) -> None:
        self.config, self.log = config, log
        impressions, history = log.scan(), log.history.lazy()
        clicked = impressions.filter(pl.col("click"))
        rate = config.dataset.sampling_rate
        self.counts = {
            key: daily_counts(impressions, history, [key], rate) for key in ("poi_id", "user_id")
        }
        self.pairs = daily_counts(clicked, history, PAIR).select(
            *PAIR, "day", pair_log_clicks="clicks", pair_log_orders="orders"
        )
        columns = [*PAIR, "time", "day"]
        self.events = pl.concat([history.select(columns), clicked.select(columns)]).collect(
            engine="streaming"
        )
        # Later test days count the orders of earlier ones; `as_of` reads earlier days alone.
        orders = past_orders(log, ("train", "test"))
        has_prices = "poi_price_yuan" in log.places.columns
        self.spending = daily_spending(orders, log.places) if has_prices else None
        # Profiles count within levels, and levels need edges, which are fitted on the statistics.
        self.profiles: list[tuple[ProfileConfig, pl.DataFrame]] = []
        self.levels: list[Levels] = []
        self.levels = self._fit_levels()
        present = [level for level in self.levels if level.bucket.column in orders.columns]
        orders = orders.with_columns(level.column(orders) for level in present)
        self.profiles = [
            (profile, daily_values(orders, log.places, profile)) for profile in config.profiles
        ]

    def enrich(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Returns the rows with what was known at the start of their days, and recent places."""
        return self._by_day(rows, lambda known, part: known.with_recent(known.enrich(part)))

    def _by_day(
        self, rows: pl.DataFrame, add: Callable[[Known, pl.DataFrame], pl.DataFrame]
    ) -> pl.DataFrame:
        numbered = rows.with_row_index(ROW)  # the parts of the days are put in order again by it
        if not rows.height:
            return add(self.known(date.min, numbered), numbered).drop(ROW)
        days = numbered.group_by("day", maintain_order=True)
        parts = [add(self.known(day, part), part) for (day,), part in days]
        return pl.concat(parts).sort(ROW).drop(ROW)

    def known(self, day: date, rows: pl.DataFrame | None = None) -> Known:
        """Returns what is known at the start of a day, of all users or of those of some rows."""
        half_life = self.config.features.half_life_days
        users = self.log.users
        if rows is not None:
            users = users.join(rows, on="user_id", how="semi", maintain_order="left")
        places = self._with_statistics("poi", self.log.places, day)
        users = self._with_statistics("user", users, day)
        asked = users.select("user_id", pl.lit(day).alias("day"))
        if self.spending is not None:
            mean = pl.col("spent_yuan") / pl.col("priced_orders")
            spent = as_of(self.spending, asked, ["user_id"], half_life)
            spent = spent.select("user_id", user_order_price_yuan=mean)
            users = users.join(spent, on="user_id", how="left", maintain_order="left")
        situations = {}
        for profile, counts in self.profiles:
            words = favourites(counts, asked, profile, half_life).drop("day")
            if profile.within:
                situations[profile.name] = words
            else:
                users = users.join(words, on="user_id", how="left", maintain_order="left")
        pairs = as_of(self.pairs, asked, PAIR, half_life)
        pairs = pairs.select(*PAIR, pl.col(PAIR_FIGURES).log1p())
        recent = recent_places(self.events, asked, self.config.features.recent).drop("day")
        return Known(places, users, situations, pairs, recent, self.levels)

    def _with_statistics(self, owner: str, entities: pl.DataFrame, day: date) -> pl.DataFrame:
        """Returns places or users with their statistics as of the start of a day."""
        key, half_life = f"{owner}_id", self.config.features.half_life_days
        asked = entities.select(key, pl.lit(day).alias("day"))
        sums = as_of(self.counts[key], asked, [key], half_life)
        days = overall(self.counts[key], asked["day"], half_life)
        figures = rates(sums, owner, days).drop("day")
        never = [f"{owner}_{name}" for name in NEVER_SEEN]
        entities = entities.join(figures, on=key, how="left", maintain_order="left")
        return entities.with_columns(pl.col(never).fill_null(0.0))

    def _fit_levels(self) -> list[Levels]:
        train = self.log.scan().filter(pl.col("split") == "train")
        rows = self._by_day(sample(train, EDGE_ROWS), Known.with_numbers)
        return [
            Levels.fit(bucket, as_numbers(rows[bucket.column], "buckets"))
            for bucket in self.config.buckets
        ]


def past_orders(log: Log, splits: Collection[str]) -> pl.DataFrame:
    """Returns orders of some splits of the log, and those of the history up to their last day.

    The history may lack scene columns that the log has; they are null there.
    """
    rows = log.scan().filter(pl.col("split").is_in(splits))
    last = rows.select(pl.col("day").max()).collect(engine="streaming").item()
    logged = rows.filter(pl.col("order")).collect(engine="streaming")
    earlier = log.history.filter(pl.col("day") <= last)
    return pl.concat([earlier, logged], how="diagonal_relaxed").sort("time", "user_id", "poi_id")
