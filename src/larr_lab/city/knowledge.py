"""The tables of real food and cities from which a country is made: regions, cities, dishes."""

from __future__ import annotations

from functools import cache
from importlib import resources

import polars as pl

NATIONAL = "national"
"""The origin of a dish that is at home in the whole of China."""


@cache
def regions() -> pl.DataFrame:
    """The regions of China: cuisine, climate, likings from -2 to 2, and one sentence of habit."""
    return _table("regions.csv")


@cache
def cities() -> pl.DataFrame:
    """The cities: region, place on the map, monthly mean temperature and days of rain or snow."""
    return _table("cities.csv")


@cache
def dishes() -> pl.DataFrame:
    """The dishes and drinks: origin, category, tastes from 0 to 3, flags of 0 or 1, price, note."""
    return _table("dishes.csv")


def _table(file: str) -> pl.DataFrame:
    text = resources.files("larr_lab.city").joinpath("tables", file).read_bytes()
    table = pl.read_csv(text, infer_schema_length=None)
    return table.with_columns(pl.col(pl.String).fill_null(""))
