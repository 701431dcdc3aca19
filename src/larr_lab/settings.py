"""The configuration sections of larr_lab."""

from __future__ import annotations

from datetime import date
from typing import Any, Self, cast

from pydantic import Field, RootModel, model_validator

from larr.sections import Positive, Section


class CityConfig(Section):
    """The built-in simulated country (`larr_lab.city`)."""

    places: Positive = 4_000
    """Number of places, including those that open during the log."""
    users: Positive = 20_000
    """Number of users."""
    impressions: Positive = 1_000_000
    """Number of impressions over all days, including the test day."""
    train_days: Positive = 7
    """Number of training days; the next day is the test day. Paper: section 4.1."""
    history_days: Positive = 56
    """Number of days before the log, with orders but no impressions."""
    start: date = date(2024, 4, 1)
    """First day of the log. Paper: April 1st, 2024."""
    candidates: Positive = 10
    """Places shown in one request."""


class StudyConfig(Section):
    """A comparison of rankers in `larr experiments`: a table or a figure."""

    title: str
    """The heading of the study."""
    models: list[str] = Field(min_length=1)
    """The rankers to compare, named as in `align.models`."""
    over: str | list[str] = "ple"
    """The baseline of all rankers, or a list with one baseline for each."""
    axis: str = ""
    """The title of the horizontal axis of a figure."""
    at: list[float] = []
    """The position of each ranker on the axis."""

    @model_validator(mode="after")
    def _one_value_for_each_model(self) -> Self:
        for name, values in (("at", self.at), ("over", self.over)):
            if values and isinstance(values, list) and len(values) != len(self.models):
                raise ValueError(f"{name}: {len(values)} entries for {len(self.models)} models")
        return self

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Returns each ranker with its baseline."""
        over = [self.over] * len(self.models) if isinstance(self.over, str) else self.over
        return list(zip(self.models, over, strict=True))


class StudiesConfig(RootModel[dict[str, StudyConfig]]):
    """The studies of `larr experiments`, beside its built-in analyses."""

    root: dict[str, StudyConfig] = {}


def city_settings(config: Any) -> CityConfig:
    """Returns `[dataset.city]` of a configuration."""
    return cast(CityConfig, config.dataset.city)


def declared_studies(config: Any) -> dict[str, StudyConfig]:
    """Returns `[studies]` of a configuration."""
    return cast(StudiesConfig, config.studies).root
