"""Configurations as files: reading them, explaining what is wrong, listing what there is."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import to_json

from larr.config import Config
from larr.errors import ConfigError
from larr.sections import merged, put


def load_config(path: Path, overrides: list[str] | None = None) -> Config:
    """Reads a TOML file and applies `a.b=value` overrides, values in TOML syntax or bare strings.

    A file may begin with `extends = "other.toml"` (a path beside it) and hold what differs.
    """
    tree = _read(path, ())
    for override in overrides or []:
        _apply(tree, override)
    tree.setdefault("output", f"runs/{path.stem}")
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(f"{path}: {_explain(error)}") from error


def _read(path: Path, extending: tuple[Path, ...]) -> dict[str, Any]:
    """The tree of a file, and of those that it extends; `extending` are those that extend it."""
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; give the path of a TOML configuration") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: not a readable TOML file: {error}") from error
    extended = tree.pop("extends", None)
    if extended is None:
        return tree
    extending = (*extending, path.resolve())
    if not isinstance(extended, str) or (path.parent / extended).resolve() in extending:
        raise ConfigError(f"{path}: extends must name another file, got {extended!r}")
    return merged(_read(path.parent / extended, extending), tree)


def _apply(tree: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set {override}: expected a.b=value, for example --set seed=2")
    put(tree, key.strip(), _parse(text.strip()))


def _parse(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


class Setting(NamedTuple):
    """What `larr settings` tells of a setting."""

    path: str
    """Dotted; `[]` stands for an entry of a list, `NAME` for one of a table."""
    default: str
    """In JSON; empty if it has to be given."""
    about: str


def all_settings(section: type[BaseModel] = Config, above: str = "") -> Iterator[Setting]:
    """Every setting, in the order of `larr.config`."""
    for name, field in section.model_fields.items():
        path, inner = f"{above}{name}", _section_of(field.annotation)
        if inner is None:
            default = field.get_default(call_default_factory=True)
            told = "" if field.is_required() else to_json(default).decode()
            yield Setting(path, told, " ".join((field.description or "").split()))
        else:
            yield from all_settings(inner[0], f"{path}{inner[1]}.")


def settings_below(path: str) -> list[Setting]:
    """Those whose path begins so; ConfigError if none does."""
    found = [setting for setting in all_settings() if setting.path.startswith(path)]
    if not found:
        raise ConfigError(f"{path}: no such setting{_nearest(path)}")
    return found


def _nearest(path: str) -> str:
    """A question after the setting, or the section, that was meant."""
    known = {setting.path for setting in all_settings()}
    known |= {one.rpartition(".")[0] for one in known}
    near = get_close_matches(path, known, n=1) or get_close_matches(
        path.rpartition(".")[2], {one.rpartition(".")[2] for one in known}, n=1
    )
    return f"; did you mean {near[0]}?" if near else ""


def _section_of(kind: Any) -> tuple[type[BaseModel], str] | None:
    """The section that a setting is or holds, and how its entries are named; None if none."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return kind, ""
    arguments = get_args(kind)
    found = _section_of(arguments[-1]) if arguments else None
    entry = {list: "[]", dict: ".NAME"}.get(get_origin(kind), "")
    return found and (found[0], entry + found[1])


def _explain(error: ValidationError) -> str:
    return "; ".join(map(_told, error.errors())) + "; `larr settings` lists all of them"


def _told(item: Any) -> str:
    where = ".".join(str(part) for part in item["loc"]) or "configuration"
    if item["type"] == "extra_forbidden":
        return f"{where}: no such setting{_nearest(where)}"
    if item["type"] == "value_error":
        return f"{where}: {item['ctx']['error']}"
    given = "" if item["type"] == "missing" else f", got {item['input']!r:.80}"
    return f"{where}: {item['msg']}{given}"
