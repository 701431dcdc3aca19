"""Where tables come from: a data set yields the tables of the data contract, read lazily."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from larr.config import Config
from larr.data.tables import Tables, own_tables
from larr.plugins import plugins


@dataclass(frozen=True)
class Dataset:
    """A source of tables; entry points of the group `larr.datasets` name them."""

    tables: Callable[[Config, Path], Tables]
    """Reads or makes the tables; the folder is for files that it makes."""
    files: tuple[str, ...] = ()
    """Dotted paths of settings that name files; when one of these changes, `prepare/` is stale."""
    users_per_seed: bool = False
    """Whether each seed has users of its own, as in a simulation; else all seeds share them."""


OWN_TABLES = Dataset(
    own_tables,
    files=tuple(f"dataset.tables.{name}" for name in ("places", "users", "impressions", "orders")),
)


def dataset(config: Config) -> Dataset:
    """The data set that `dataset.kind` names."""
    found: Dataset = plugins("datasets")[config.dataset.kind].load()
    return found
