"""Data sets: where the tables of the data contract come from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from larr.config import Config
from larr.data.tables import Tables, own_tables
from larr.plugins import plugins


@dataclass(frozen=True)
class Dataset:
    """A source of tables; an entry point of the group `larr.datasets` names it."""

    tables: Callable[[Config, Path], Tables]
    """Reads or creates the tables; may write files to the folder."""
    files: tuple[str, ...] = ()
    """Dotted names of settings that hold paths; `prepare/` is stale when a file there changes."""
    users_per_seed: bool = False
    """Whether each seed has other users, as in a simulation; else all seeds share them."""


OWN_TABLES = Dataset(
    own_tables,
    files=tuple(f"dataset.tables.{name}" for name in ("places", "users", "impressions", "orders")),
)


def dataset(config: Config) -> Dataset:
    """Returns the data set that `dataset.kind` names."""
    named: Dataset = plugins("datasets")[config.dataset.kind].load()
    return named
