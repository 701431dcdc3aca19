"""What is known of a row at the start of its day: entities, statistics, profiles, levels."""

from __future__ import annotations

from dataclasses import dataclass, field

import polars as pl

from larr.checked import Log
from larr.config import BucketConfig, Config
from larr.errors import ConfigError
from larr.features import sample
from larr.keywords import bucket_edges, with_levels
from larr.profiles import daily_spending, daily_values, favourites, profile_key, recent_places
from larr.statistics import as_of, daily_counts, overall, rates

PAIR = ["user_id", "poi_id"]
EDGE_ROWS = 100_000


@dataclass
class Enricher:
    """Joins to a row what its user, its place and their past say; built from the checked log."""

    config: Config
    log: Log
    orders: pl.DataFrame
    edges: dict[str, list[float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        log, history = self.log.scan(), self.log.history.lazy()
        self.daily = {key: daily_counts(log, history, [key]) for key in ("poi_id", "user_id")}
        self.pairs = daily_counts(log.filter(pl.col("click")), history, PAIR).select(
            *PAIR, "day", pair_log_clicks="clicks", pair_log_orders="orders"
        )
        clicked = log.filter(pl.col("click")).select(*PAIR, "time", "day")
        events = pl.concat([self.log.history.lazy().select(*PAIR, "time", "day"), clicked])
        self.events = events.collect(engine="streaming")
        self.spending = self._spending()
        self._fit_edges()
        levelled = with_levels(self.orders, self._buckets_in(self.orders), self.edges)
        self.daily_values = {
            profile.name: daily_values(levelled, self.log.places, profile)
            for profile in self.config.profiles
        }

    @property
    def half_life_days(self) -> float:
        """Half-life of the statistics."""
        return self.config.features.half_life_days

    def enrich(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Adds all columns that a keyword or a feature may name to user, place, time, scene."""
        full = with_levels(self._numbers(rows), self.config.buckets, self.edges)
        for profile in self.config.profiles:
            key = [*profile_key(profile), "day"]
            found = favourites(
                self.daily_values[profile.name], full.select(key), profile, self.half_life_days
            )
            full = full.join(found, on=key, how="left", maintain_order="left")
        return full

    def recent(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Adds `recent`, the latest places of the row's user before the row's day."""
        length = self.config.features.recent
        found = recent_places(self.events, rows.select("user_id", "day"), length)
        return rows.join(found, on=["user_id", "day"], how="left", maintain_order="left")

    def places_on(self, day: pl.Series) -> pl.DataFrame:
        """All places with their statistics as of the start of a day (a series of one date)."""
        rows = self.log.places.select("poi_id").join(day.to_frame("day"), how="cross")
        rows = self._with_entity(rows, "poi", self.log.places)
        buckets = [bucket for bucket in self._buckets_in(rows) if bucket.column.startswith("poi_")]
        return with_levels(rows, buckets, self.edges)

    def _numbers(self, rows: pl.DataFrame) -> pl.DataFrame:
        rows = self._with_entity(rows, "poi", self.log.places)
        rows = self._with_entity(rows, "user", self.log.users)
        rows = self._with_spending(rows)
        pairs = as_of(self.pairs, rows.select(*PAIR, "day"), PAIR, self.half_life_days)
        values = ["pair_log_clicks", "pair_log_orders"]
        return rows.join(pairs, on=[*PAIR, "day"], how="left", maintain_order="left").with_columns(
            pl.col(values).fill_null(0.0).log1p()
        )

    def _spending(self) -> pl.DataFrame | None:
        if "poi_price_yuan" not in self.log.places.columns:
            return None
        return daily_spending(self.orders, self.log.places)

    def _with_spending(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Adds `user_order_price_yuan`, the mean price of the user's earlier orders."""
        if self.spending is None:
            return rows
        wanted = rows.select("user_id", "day")
        sums = as_of(self.spending, wanted, ["user_id"], self.half_life_days).select(
            "user_id", "day", user_order_price_yuan=pl.col("spent_yuan") / pl.col("priced_orders")
        )
        return rows.join(sums, on=["user_id", "day"], how="left", maintain_order="left")

    def _with_entity(self, rows: pl.DataFrame, prefix: str, table: pl.DataFrame) -> pl.DataFrame:
        key = f"{prefix}_id"
        wanted = rows.select(key, "day")
        sums = as_of(self.daily[key], wanted, [key], self.half_life_days)
        days = overall(self.daily[key], rows["day"], self.half_life_days)
        counts = [f"{prefix}_log_impressions_per_day", f"{prefix}_log_orders"]
        return (
            rows.join(table, on=key, how="left", maintain_order="left")
            .join(rates(sums, prefix, days), on=[key, "day"], how="left", maintain_order="left")
            .with_columns(pl.col(counts).fill_null(0.0))
        )

    def _buckets_in(self, rows: pl.DataFrame) -> list[BucketConfig]:
        return [bucket for bucket in self.config.buckets if bucket.column in rows.columns]

    def _fit_edges(self) -> None:
        train = self.log.scan().filter(pl.col("split") == "train")
        numbers = self._numbers(sample(train, EDGE_ROWS))
        for bucket in self.config.buckets:
            if bucket.column not in numbers.columns:
                raise ConfigError(
                    f"bucket {bucket.column}: no such column; there are "
                    f"{', '.join(sorted(numbers.columns))}"
                )
            values = numbers[bucket.column].cast(pl.Float64)
            self.edges[bucket.column] = bucket_edges(bucket, values)


def past_orders(log: Log) -> pl.DataFrame:
    """Orders of the history and of the training days, with the scene columns that both have."""
    logged = (
        log.scan()
        .filter((pl.col("split") == "train") & pl.col("order"))
        .collect(engine="streaming")
    )
    return pl.concat([log.history, logged], how="diagonal_relaxed").sort(
        "time", "user_id", "poi_id"
    )
