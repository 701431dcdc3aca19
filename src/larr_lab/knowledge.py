"""What is known of food and places in China: regions, cities and dishes, tables written by hand.

The simulated country (`larr_lab.city`) and the encyclopedia are both built from these tables.
"""

from __future__ import annotations

import tomllib
from functools import cache
from importlib import resources
from typing import Any

import polars as pl

NATIONAL = "national"
"""The origin, in dishes.csv, of a dish that all of China cooks."""


@cache
def regions() -> pl.DataFrame:
    """Returns the regions: cuisine, climate, likings from -2 to 2, and a sentence on habits."""
    return _csv("regions.csv")


@cache
def cities() -> pl.DataFrame:
    """Returns the cities: region, coordinates, and for each month the temperature and wet days."""
    return _csv("cities.csv")


@cache
def dishes() -> pl.DataFrame:
    """Returns the dishes and drinks: origin, category, tastes (0 to 3), flags, price, a note."""
    return _csv("dishes.csv")


@cache
def holidays() -> pl.DataFrame:
    """Returns China's public holidays of 2023 to 2025: first day, last day, name."""
    return _csv("holidays.csv").with_columns(pl.col("first", "last").str.to_date())


def toml(package: str, file: str) -> dict[str, Any]:
    """Returns a TOML file that is shipped in a package."""
    return tomllib.loads(resources.files(package).joinpath(file).read_text(encoding="utf-8"))


def _csv(file: str) -> pl.DataFrame:
    text = resources.files("larr_lab").joinpath("tables", file).read_bytes()
    table = pl.read_csv(text, infer_schema_length=None)
    return table.with_columns(pl.col(pl.String).fill_null(""))
