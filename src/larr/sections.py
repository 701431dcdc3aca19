"""The base class and the types of configuration sections, and trees of settings."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import reduce
from operator import getitem
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

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
    """Yields dotted paths and values of a tree; an empty table is a value."""
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def picked(tree: dict[str, Any], paths: Iterable[str]) -> dict[str, Any]:
    """Returns the values of a tree at dotted paths, by path."""
    return {path: reduce(getitem, path.split("."), tree) for path in paths}


def merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Returns a tree with the values of `changes`; tables are merged recursively."""
    tree = dict(base)
    for key, value in changes.items():
        both = isinstance(value, dict) and isinstance(tree.get(key), dict)
        tree[key] = merged(tree[key], value) if both else value
    return tree


def changed(tree: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """Returns a tree with values replaced, and tables merged, at dotted paths."""
    for path, value in settings.items():
        nested = value
        for name in reversed(path.split(".")):
            nested = {name: nested}
        tree = merged(tree, nested)
    return tree
