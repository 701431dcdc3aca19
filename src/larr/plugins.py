"""Plugins: objects that other packages add to larr by entry points in their pyproject.toml.

| group | name | object |
|---|---|---|
| `larr.rankers` | a name for `align.models` | a subclass of `larr.rankers.ranker.Ranker` |
| `larr.metrics` | the name of a metric | an entry as in `larr.metrics` |
| `larr.vectors` | a name for `vectors` of a variant | an entry as in `larr.text.embed` |
| `larr.datasets` | a value of `dataset.kind` | a `larr.data.datasets.Dataset` |
| `larr.settings` | the dotted path of a section, such as `dataset.city` | its pydantic class |
| `larr.commands` | a command | a function for Typer |
| `larr.pages` | any | a function `(Live, secured) -> list of Starlette routes` |

`larr_lab`, which is installed with larr, is such a package; docs/extend.md has an example of each.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal, TypeVar

from larr.errors import ConfigError

Group = Literal["rankers", "metrics", "vectors", "datasets", "settings", "commands", "pages"]
Entry = TypeVar("Entry")


@cache
def plugins(group: Group) -> dict[str, EntryPoint]:
    """Returns the entry points of a group by name; `load()` imports the object."""
    return {point.name: point for point in sorted(entry_points(group=f"larr.{group}"))}


def with_plugins(entries: Mapping[str, Entry], group: Group) -> dict[str, Entry]:
    """Returns larr's own entries and those of other packages.

    Call it when entries are looked up, not at import time, as the other packages import larr.
    Raises ConfigError if a package uses the name of one of larr's entries.
    """
    merged: dict[str, Any] = dict(entries)
    for name, point in plugins(group).items():
        if name in entries:
            raise ConfigError(
                f"{point.value} declares {name!r} in larr.{group}, but larr already uses this "
                "name; choose another one in that package"
            )
        merged[name] = point.load()
    return merged
