"""Reads configuration files, explains their errors, and lists all settings.

pydantic-settings supports neither `extends`, nor TOML values in `--set`, nor suggestions for
misspelt settings.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_origin

from pydantic import BaseModel, RootModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from larr.config import Config
from larr.errors import ConfigError, suggestion
from larr.sections import changed, merged


def load_config(path: Path, overrides: list[str] | None = None) -> Config:
    """Returns the configuration of a TOML file, with `a.b=value` overrides.

    Values of overrides are TOML or bare strings. A file can begin with `extends = "other.toml"`,
    relative to its folder, and then contains only the differences. Raises ConfigError.
    """
    tree = {"output": f"runs/{path.stem}"} | _read(path, ())
    for override in overrides or []:
        key, equals, text = override.partition("=")
        if not equals or not key:
            raise ConfigError(f"--set {override}: expected a.b=value, for example --set seed=2")
        try:
            value = tomllib.loads(f"value = {text.strip()}")["value"]
        except tomllib.TOMLDecodeError:
            value = text.strip()
        tree = changed(tree, {key.strip(): value})
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        reasons = "; ".join(map(_explain, _without_misspelt(error.errors())))
        raise ConfigError(f"{path}: {reasons}; `larr settings` lists all settings") from error


def _read(path: Path, extended_by: tuple[Path, ...]) -> dict[str, Any]:
    """Returns the tree of a file, merged into the file that it extends."""
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; give the path of a TOML configuration") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: not a readable TOML file: {error}") from error
    base = tree.pop("extends", None)
    if base is None:
        return tree
    extended_by = (*extended_by, path.resolve())
    if not isinstance(base, str) or (path.parent / base).resolve() in extended_by:
        raise ConfigError(f"{path}: extends must name another file, got {base!r}")
    return merged(_read(path.parent / base, extended_by), tree)


def all_settings(section: type[BaseModel] = Config, above: str = "") -> dict[str, FieldInfo]:
    """Returns dotted path -> pydantic's field of all settings, in the order of Config.

    In a path, `[]` is an entry of a list and `NAME` an entry of a table.
    """
    settings: dict[str, FieldInfo] = {}
    for name, field in section.model_fields.items():
        path = above.removesuffix(".") if issubclass(section, RootModel) else f"{above}{name}"
        nested = _nested_section(field.annotation)
        settings |= all_settings(nested[0], f"{path}{nested[1]}.") if nested else {path: field}
    return settings


def settings_below(path: str) -> dict[str, FieldInfo]:
    """Returns the settings whose paths begin with `path`; raises ConfigError if there are none."""
    settings = {name: field for name, field in all_settings().items() if name.startswith(path)}
    if not settings:
        raise ConfigError(f"{path}: no such setting{_suggestion(path)}")
    return settings


def _nested_section(kind: Any) -> tuple[type[BaseModel], str] | None:
    """Returns the section that a type is or contains, and the path of its entries, or None."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return kind, ""
    arguments = [kind for kind in get_args(kind) if kind is not NoneType]
    nested = _nested_section(arguments[-1]) if arguments else None
    entry = {list: "[]", dict: ".NAME"}.get(get_origin(kind), "")
    return nested and (nested[0], entry + nested[1])


def _without_misspelt(errors: list[ErrorDetails]) -> list[ErrorDetails]:
    """Returns the errors without those for a missing setting whose misspelt name is another."""
    unknown = [item["loc"] for item in errors if item["type"] == "extra_forbidden"]
    return [
        item
        for item in errors
        if item["type"] != "missing"
        or not suggestion(
            str(item["loc"][-1]),
            [str(loc[-1]) for loc in unknown if loc[:-1] == item["loc"][:-1]],
        )
    ]


def _explain(item: ErrorDetails) -> str:
    """Returns a pydantic error as `dotted.path: message, got value`."""
    where = ".".join(str(part) for part in item["loc"]) or "configuration"
    if item["type"] == "extra_forbidden":
        return f"{where}: no such setting{_suggestion(where)}"
    if item["type"] == "value_error":
        return f"{where}: {item['ctx']['error']}"
    value = "" if item["type"] == "missing" else f", got {item['input']!r:.80}"
    return f"{where}: {item['msg']}{value}"


def _suggestion(path: str) -> str:
    """Returns a suggestion for a misspelt setting or section, or an empty text."""
    known = {*all_settings()}
    known |= {setting.rpartition(".")[0] for setting in known}
    names = {setting.rpartition(".")[2] for setting in known}
    # Similar paths come first, then similar names in other sections.
    return suggestion(path, known) or suggestion(path.rpartition(".")[2], names)
