"""Column names that follow from the configuration, and properties that a name implies."""

from __future__ import annotations

from collections.abc import Iterable

from larr.config import Config
from larr.config.data import StatisticConfig
from larr.data.transforms import AGE
from larr.data.within import within_names

INTERNAL = "larr:"
"""Prefix of temporary columns."""
ROWS = {"user_id": f"{INTERNAL}row of the user", "poi_id": f"{INTERNAL}row of the place"}
"""Columns that `larr.data.log` adds to impressions and orders: row numbers, from 1, in the tables
of users and places. Counting, sorting and lookup are several times faster with them than with IDs.
"""
USER, PLACE = ROWS.values()
PREFIXES = {"users": "user_", "places": "poi_", "impressions": "", "orders": ""}
"""The prefix of each table's columns after places and users are joined to the log."""
LOOKED_UP = ("poi_", "user_", "pair_")
"""Prefixes of columns that the server looks up by user and place IDs."""


def row_numbers(config: Config) -> list[str]:
    """Returns the numeric features that depend on a row alone, cross statistics last."""
    figures = [name for pair in config.statistics or [] for name in pair.figure_names]
    return list(dict.fromkeys([*config.features.numbers, *figures]))


def number_names(config: Config) -> list[str]:
    """Returns all numeric features: those of rows, then those within requests."""
    return [*row_numbers(config), *within_names(compared_numbers(config))]


def compared_numbers(config: Config) -> list[str]:
    """Returns the numeric features that are compared between a request's candidates."""
    if not config.features.within_request:
        return []
    numbers, differing = row_numbers(config), _differing(config)
    return [n for n in numbers if n in differing or n.startswith(("poi_", "pair_"))]


def own_numbers(config: Config, table: str) -> set[str]:
    """Returns the names that numeric columns can have in a table."""
    return own_names(table, [*config.features.numbers, *(b.column for b in config.buckets)])


def own_categories(config: Config, table: str) -> set[str]:
    """Returns the names in a table of columns whose values are looked up or counted."""
    counted = [name for pair in config.statistics or [] for name in pair.columns]
    return own_names(table, [*config.features.categories, *counted])


def own_names(table: str, names: list[str]) -> set[str]:
    """Returns the names that columns can have in their table, with and without its prefix."""
    return {*names, *(name.removeprefix(PREFIXES[table]) for name in names)}


def is_multivalued(column: str) -> bool:
    """Returns whether a column can hold comma-separated values."""
    return column.startswith("poi_") and column != "poi_id"


def raw_column(config: Config, name: str) -> str:
    """Returns the column from which a level is computed; other names are returned unchanged."""
    return next((bucket.column for bucket in config.buckets if bucket.level == name), name)


def is_crossed(config: Config, name: str) -> bool:
    """Returns whether a column is a cross statistic, or its level."""
    raw = raw_column(config, name)
    return any(raw in pair.figure_names for pair in config.statistics or [])


def figures_differ(config: Config, pair: StatisticConfig) -> bool:
    """Returns whether a cross statistic differs between the candidates of a request."""
    declared = config.features.candidate_columns
    return any(
        column.startswith("poi_") or raw_column(config, column) in declared
        for column in pair.columns
    )


def candidate_features(config: Config, names: Iterable[str]) -> list[str]:
    """Returns the features among `names` that differ between the candidates of a request.

    They are declared columns, the age of a place, statistics of user-place pairs, cross statistics
    of a column that differs, levels of all these, and comparisons within the request.
    """
    differing = _differing(config) | {*within_names(compared_numbers(config))}
    return [
        name for name in names if raw_column(config, name) in differing or name.startswith("pair_")
    ]


def _differing(config: Config) -> set[str]:
    """Returns declared columns, the age, and cross statistics that differ between candidates."""
    pairs = [pair for pair in config.statistics or [] if figures_differ(config, pair)]
    figures = [name for pair in pairs for name in pair.figure_names]
    return {*config.features.candidate_columns, AGE, *figures}
