"""What packages beside larr add to it, declared as entry points in their pyproject.toml.

| group | name | object |
|---|---|---|
| `larr.datasets` | a value of `dataset.kind` | a `larr.data.datasets.Dataset` |
| `larr.settings` | the dotted path of a section, such as `dataset.city` | its pydantic class |
| `larr.commands` | a verb of the command line | a function for Typer |
| `larr.pages` | any | a function `(Live, secured) -> list of Starlette routes` |

`larr_lab`, which comes with larr, is such a package.
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Literal

Group = Literal["datasets", "settings", "commands", "pages"]


@cache
def plugins(group: Group) -> dict[str, EntryPoint]:
    """The entry points of a group by their names; `load()` imports what one names."""
    return {point.name: point for point in sorted(entry_points(group=f"larr.{group}"))}
