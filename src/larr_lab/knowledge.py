"""Hand-written tables of food and places in China: regions, cities, dishes, holidays.

The simulated country (`larr_lab.city`) and the encyclopedia are built from them.
"""

from __future__ import annotations

import tomllib
from functools import cache
from importlib import resources
from typing import Any

import polars as pl

NATIONAL = "national"
"""The origin in dishes.csv of dishes cooked all over China."""


@cache
def regions() -> pl.DataFrame:
    """Returns the regions: cuisine, climate, preferences from -2 to 2, a sentence on habits."""
    return _csv("regions.csv")


@cache
def cities() -> pl.DataFrame:
    """Returns the cities: region, coordinates, monthly temperatures and wet days."""
    return _csv("cities.csv")


@cache
def dishes() -> pl.DataFrame:
    """Returns the dishes and drinks: origin, category, tastes (0 to 3), flags, price, note."""
    return _csv("dishes.csv")


@cache
def holidays() -> pl.DataFrame:
    """Returns China's public holidays of 2023 to 2025: first day, last day, name."""
    return _csv("holidays.csv").with_columns(pl.col("first", "last").str.to_date())


def toml(package: str, file: str) -> dict[str, Any]:
    """Returns the content of a TOML file in a package."""
    return tomllib.loads(resources.files(package).joinpath(file).read_text(encoding="utf-8"))


def _csv(file: str) -> pl.DataFrame:
    text = resources.files("larr_lab").joinpath("tables", file).read_bytes()
    table = pl.read_csv(text, infer_schema_length=None)
    return table.with_columns(pl.col(pl.String).fill_null(""))
