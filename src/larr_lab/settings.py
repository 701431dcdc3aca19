"""The laboratory's sections of the configuration."""

from __future__ import annotations

from datetime import date
from typing import Any, Self, cast

from pydantic import Field, RootModel, model_validator

from larr.sections import Positive, Section


class CityConfig(Section):
    """The built-in simulated country (`larr_lab.city`)."""

    places: Positive = 4_000
    """Places open at some time of the log."""
    users: Positive = 20_000
    """Users."""
    impressions: Positive = 1_000_000
    """Impressions of all days together, test day included."""
    train_days: Positive = 7
    """Days to train on; the day after them is the test day. Paper: section 4.1."""
    history_days: Positive = 56
    """Days of earlier orders before the log (orders only, no impressions)."""
    start: date = date(2024, 4, 1)
    """First day of the log. Paper: April 1st, 2024."""
    candidates: Positive = 10
    """Places shown in one request."""


class StudyConfig(Section):
    """A table or a figure of `larr experiments`: rankers side by side."""

    title: str
    """The heading of the study."""
    models: list[str] = Field(min_length=1)
    """Names as in `align.models`."""
    over: str | list[str] = "ple"
    """The ranker that all of them are compared with, or one for each."""
    axis: str = ""
    """The title of the horizontal axis, for a figure."""
    at: list[float] = []
    """The position of each model on the axis."""

    @model_validator(mode="after")
    def _one_value_for_each_model(self) -> Self:
        for name, values in (("at", self.at), ("over", self.over)):
            if values and isinstance(values, list) and len(values) != len(self.models):
                raise ValueError(f"{name}: {len(values)} entries for {len(self.models)} models")
        return self

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Returns each model with the one that it is compared with."""
        over = [self.over] * len(self.models) if isinstance(self.over, str) else self.over
        return list(zip(self.models, over, strict=True))


class StudiesConfig(RootModel[dict[str, StudyConfig]]):
    """Studies that `larr experiments` runs in addition to its own analyses."""

    root: dict[str, StudyConfig] = {}


def city_settings(config: Any) -> CityConfig:
    """`[dataset.city]` of a configuration."""
    return cast(CityConfig, config.dataset.city)


def studies_of(config: Any) -> dict[str, StudyConfig]:
    """Returns `[studies]` of a configuration."""
    return cast(StudiesConfig, config.studies).root
