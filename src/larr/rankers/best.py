"""`best`: the rankers that `larr choose` decided for, by name. Their mean is a `Blend`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from larr import artifacts
from larr.config import Config
from larr.config.rankers import BEST, VariantConfig
from larr.errors import StaleError

CHOICE = "choice.json"


def trained(config: Config) -> list[str]:
    """Returns the rankers that `larr align` trains: `align.models`, the members instead of best."""
    names = [name for name in config.align.models if name != BEST]
    if BEST in config.align.models:
        names += weights(config)
    return list(dict.fromkeys(names))


def weights(config: Config) -> dict[str, float]:
    """Returns the weight of each member; raises StaleError without a choice."""
    return {name: member["weight"] for name, member in _members(config).items()}


def with_members(config: Config) -> Config:
    """Returns the configuration with those members among its variants that are not in it.

    It is the same where `best` is not wanted.
    """
    if BEST not in config.align.models:
        return config
    variants = {}
    for name, member in _members(config).items():
        if name not in config.align.models:
            settings = {key: member[key] for key in VariantConfig.model_fields}
            variants[name] = VariantConfig.model_validate(settings)
    return with_variants(config, variants)


def with_variants(config: Config, variants: Mapping[str, VariantConfig]) -> Config:
    """Returns the configuration with further variants."""
    update = {"variants": {**config.align.variants, **variants}}
    return config.model_copy(update={"align": config.align.model_copy(update=update)})


def _members(config: Config) -> dict[str, dict[str, Any]]:
    path = artifacts.folder(config, "choose") / CHOICE
    if not path.is_file():
        raise StaleError(f"{path} is missing; run `larr choose` with the same configuration")
    members: dict[str, dict[str, Any]] = artifacts.read_json(path)["members"]
    return members
