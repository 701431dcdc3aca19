"""What a section of the configuration is made of: its base class, its types, dotted paths."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from larr.errors import ConfigError

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[int, Field(gt=0)]
AtLeastTwo = Annotated[int, Field(ge=2)]
AboveZero = Annotated[float, Field(gt=0.0)]
NotNegative = Annotated[float, Field(ge=0.0)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*$")]


class Section(BaseModel):
    """A frozen group of settings that refuses unknown keys."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False
    )


def leaves(tree: dict[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """The values of a tree with their dotted paths."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """A tree of settings with others in their places."""
    tree = dict(base)
    for key, value in changes.items():
        tree[key] = _joined(tree.get(key), value)
    return tree


def _joined(old: Any, new: Any) -> Any:
    """What stands in a place; two tables there become one."""
    return merged(old, new) if isinstance(old, dict) and isinstance(new, dict) else new


def put(tree: dict[str, Any], path: str, value: Any) -> None:
    """Puts a setting, or a table of them, into a tree at its dotted path."""
    *parents, leaf = path.split(".")
    for parent in parents:
        tree = tree.setdefault(parent, {})
        if not isinstance(tree, dict):
            raise ConfigError(f"{path} = {value}: {parent} is no section of the configuration")
    tree[leaf] = _joined(tree.get(leaf), value)
