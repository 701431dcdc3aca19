"""What is known at the start of a day: of places, users, situations, pairs and recent places.

Shapes: K candidates of a request.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import polars as pl

from larr import artifacts
from larr.config import Config
from larr.data.transforms import Array, Levels, time_columns

KNOWN, EDGES = "known", "edges.json"
PAIR = ["user_id", "poi_id"]
PAIR_FIGURES = ["pair_log_clicks", "pair_log_orders"]
NEVER_SEEN = ("log_impressions_per_day", "log_orders")
"""Figures that are 0 for a place or user without a past; rates are missing."""
NO_PAIR = (0.0,) * len(PAIR_FIGURES)
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Known:
    """All that is known at the start of a day, and how rows of that day get it as columns.

    `larr prepare` builds one for each day of the log. A server starts with that of the day after
    the training days, so that a request has the columns that its rows would have in the log.
    `enrich` and `with_recent` take tables; `of_request`, `pair_figures` and `recent_places` give
    the same columns for one request.
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

    def enrich(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Adds all columns that a keyword or a feature may name to user, place, time, scene."""
        rows = self.with_numbers(rows)
        rows = rows.with_columns(level.column(rows) for level in self.levels)
        for table in self.situations.values():
            rows = rows.join(table, on=table.columns[:-1], how="left", maintain_order="left")
        return rows

    def with_numbers(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Adds all columns but the levels and the situations, which are looked up by levels too."""
        for table, key in (
            (self.places, ["poi_id"]),
            (self.users, ["user_id"]),
            (self.pairs, PAIR),
        ):
            rows = rows.join(table, on=key, how="left", maintain_order="left")
        # A user or place that the tables do not have is one without a past.
        never = [f"{owner}_{name}" for owner in ("poi", "user") for name in NEVER_SEEN]
        return rows.with_columns(pl.col(*PAIR_FIGURES, *never).fill_null(0.0))

    def with_recent(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Adds `recent`, the latest places of the row's user before the day."""
        return rows.join(self.recent, on="user_id", how="left", maintain_order="left")

    def describe_places(self, new: pl.DataFrame | None = None) -> pl.DataFrame:
        """Returns all places, or new ones, which have no past, with their statistics and levels."""
        places = self.places
        if new is not None:
            places = pl.concat([places.clear(), new], how="diagonal_relaxed")
            never = [f"poi_{name}" for name in NEVER_SEEN]
            places = places.with_columns(pl.col(never).fill_null(0.0))
        return self._with_own_levels(places)

    def describe_users(self, profiles: Iterable[str]) -> pl.DataFrame:
        """Returns all users with their statistics and levels, and chosen profiles of situations.

        With the latter there is a row for each situation in which the user has ordered.
        """
        users = self._with_own_levels(self.users)
        for name in profiles:
            table = self.situations[name]
            key = [column for column in table.columns[:-1] if column in users.columns]
            users = users.join(table, on=key, how="left", maintain_order="left")
        return users

    def _with_own_levels(self, entities: pl.DataFrame) -> pl.DataFrame:
        levels = [level for level in self.levels if level.bucket.column in entities.columns]
        return entities.with_columns(level.column(entities) for level in levels)

    def of_request(self, row: Row) -> dict[str, Any]:
        """Returns the columns of a request: those sent (`user_id`, `time`, scene), and all known.

        Columns of places and pairs are not among them.
        """
        number = self._user_rows.get(row["user_id"])
        values = {} if number is None else self.users.row(number, named=True)
        for name in NEVER_SEEN:
            values[f"user_{name}"] = values.get(f"user_{name}") or 0.0
        values.update(row, **time_columns(row["time"]))
        for level in self.levels:
            if level.bucket.column in values:
                values[level.name] = level.value(values[level.bucket.column])
        for name, table in self._situation_values.items():
            within = self.situations[name].columns[1]
            values[name] = table.get((row["user_id"], values.get(within)))
        return values

    def has_user(self, user_id: str) -> bool:
        """Returns whether the users of the log include this one."""
        return user_id in self._user_rows

    def pair_figures(self, user_id: str, places: Sequence[str]) -> Array:
        """Returns `PAIR_FIGURES` of a user at each of some places, float64 [K, 2]."""
        figures = self._pair_values.get(user_id, {})
        figures_K2 = np.array([figures.get(place, NO_PAIR) for place in places], np.float64)
        return figures_K2.reshape(-1, len(PAIR_FIGURES))

    def recent_places(self, user_id: str) -> list[str]:
        """Returns the latest places of a user before the day."""
        return self._recent_values.get(user_id) or []

    @cached_property
    def _user_rows(self) -> dict[str, int]:
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

    @cached_property
    def _recent_values(self) -> dict[str, list[str]]:
        return dict(self.recent.select("user_id", "recent").iter_rows())

    def save(self, folder: Path) -> None:
        """Writes the tables, for serving."""
        folder.mkdir()
        for name in ("places", "users", "pairs", "recent"):
            getattr(self, name).write_parquet(folder / f"{name}.parquet")
        for name, table in self.situations.items():
            table.write_parquet(folder / f"situation-{name}.parquet")
        edges = {level.bucket.column: level.edges for level in self.levels}
        artifacts.write_json(folder / EDGES, edges)

    @classmethod
    def load(cls, config: Config, folder: Path) -> Self:
        """Returns what `save` wrote."""
        tables = {
            name: pl.read_parquet(folder / f"{name}.parquet")
            for name in ("places", "users", "pairs", "recent")
        }
        situations = {
            profile.name: pl.read_parquet(folder / f"situation-{profile.name}.parquet")
            for profile in config.profiles
            if profile.within
        }
        edges = artifacts.read_json(folder / EDGES)
        levels = [Levels(bucket, edges[bucket.column]) for bucket in config.buckets]
        return cls(**tables, situations=situations, levels=levels)
