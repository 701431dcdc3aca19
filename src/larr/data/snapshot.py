"""The statistics at the start of a day, with which a server computes the columns of requests.

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
from larr.data.cross import Cross, DailyCross
from larr.data.statistics import NEVER_SEEN
from larr.data.transforms import (
    NAME_WORDS,
    Array,
    Levels,
    time_columns,
    with_age,
    with_levels,
    with_name_words,
)

KNOWN, EDGES, CROSS = "known", "edges.json", "cross-{}"
TABLES = ("places", "users", "pairs", "recent")
PAIR = ["user_id", "poi_id"]
PAIR_FIGURES = ["pair_log_clicks", "pair_log_orders"]
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Snapshot:
    """The statistics at the start of a day.

    A server reads those of the day after the training days, so a request has the columns that its
    rows would have in the log. `enrich` adds the columns to a table; `of_request`, `pair_figures`
    and `recent_places` return the same values for one request.
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
        rows = with_crosses(rows, self.levels, self.crosses)
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


def with_crosses(
    rows: pl.DataFrame, levels: Sequence[Levels], crosses: Sequence[Cross | DailyCross]
) -> pl.DataFrame:
    """Adds the age of places, levels and cross statistics, which may read levels or have some."""
    rows = with_levels(with_age(rows), levels)
    for cross in crosses:
        rows = cross.enrich(rows)
    return with_levels(rows, levels)
