"""The map: cities and their districts. Arrays as in `effects.py`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from larr_lab import knowledge
from larr_lab.city.effects import Array
from larr_lab.settings import CityConfig

DISTRICTS = (
    *("Old Town", "Railway Station", "University Town", "High-Tech Zone", "New District"),
    *("Riverside", "Financial Street", "Garden District", "Lakeside", "Drum Tower", "South Gate"),
    *("North Gate", "Stadium", "Temple Street", "Harbour Road", "Industrial Park"),
)
KM_PER_DEGREE = 111.2
"""Kilometres in a degree of latitude."""


@dataclass(frozen=True)
class Geography:
    """Cities and districts; positions in a city are km east (x) and north (y) of its centre."""

    cities: pl.DataFrame
    """The rows of cities.csv that the country has."""
    regions: pl.DataFrame
    """regions.csv; `region_C` points into its rows."""
    region_C: Array
    weight_C: Array
    """Share of the places and users."""
    area_names: list[str]
    area_city_N: Array
    first_area_C: Array
    """First district of a city, with the number of districts at the end: C + 1 numbers."""
    area_x_N: Array
    area_y_N: Array

    @property
    def region_names(self) -> list[str]:
        """Returns the names of all regions."""
        names: list[str] = self.regions["region"].to_list()
        return names

    @property
    def distances(self) -> Array:
        """Returns the distances between cities in degrees of latitude, shape (C, C).

        A degree of longitude is 0.85 of one of latitude near 32 degrees north, the middle of the
        map. That is exact enough for weather fronts and journeys.
        """
        lat_C, lon_C = self.cities["lat"].to_numpy(), self.cities["lon"].to_numpy()
        return np.hypot(lat_C[:, None] - lat_C, 0.85 * (lon_C[:, None] - lon_C))

    def coordinates(self, city_R: Array, x_R: Array, y_R: Array) -> tuple[Array, Array]:
        """Returns the latitude and longitude of points in cities, rounded to a metre."""
        lat_C, lon_C = self.cities["lat"].to_numpy(), self.cities["lon"].to_numpy()
        km_per_degree_R = KM_PER_DEGREE * np.cos(np.radians(lat_C[city_R]))
        lat_R = lat_C[city_R] + y_R / KM_PER_DEGREE
        lon_R = lon_C[city_R] + x_R / km_per_degree_R
        return np.round(lat_R, 5), np.round(lon_R, 5)

    def any_area(self, city_R: Array, uniform_R: Array) -> Array:
        """Returns a district of each city; the early, central ones are the more frequent."""
        first_R = self.first_area_C[city_R]
        areas_R = self.first_area_C[city_R + 1] - first_R
        return first_R + (uniform_R**1.4 * areas_R).astype(np.int64)


def make_geography(config: CityConfig, rng: np.random.Generator) -> Geography:
    """Chooses cities and lays out their districts: three to eight, wider in a large city."""
    regions = knowledge.regions()
    chosen = _chosen_cities(config)
    population_C = chosen["population_millions"].to_numpy().astype(np.float64)
    areas_C = np.clip(np.round(1.5 + 1.3 * np.log2(1 + population_C)), 3, 8).astype(np.int64)
    first_area_C = np.concatenate([[0], np.cumsum(areas_C)])
    area_city_N = np.repeat(np.arange(chosen.height), areas_C)
    rank_N = np.arange(area_city_N.size) - first_area_C[area_city_N]
    names = []
    for areas in areas_C.tolist():  # every city has an Old Town, its first district
        others = 1 + rng.permutation(len(DISTRICTS) - 1)[: areas - 1]
        names += [DISTRICTS[0], *(DISTRICTS[number] for number in others)]
    # The golden angle, 2.4 radians, spreads the districts evenly around the centre.
    radius_N = 1.1 * rank_N**0.6 * (0.7 + 0.12 * np.log2(1 + population_C[area_city_N]))
    angle_N = rng.uniform(0, 2 * np.pi, area_city_N.size) + 2.4 * rank_N
    weight_C = population_C**0.8  # below 1, so that small cities have enough places to rank
    region_names = regions["region"].to_list()
    return Geography(
        cities=chosen,
        regions=regions,
        region_C=np.array([region_names.index(name) for name in chosen["region"]]),
        weight_C=weight_C / weight_C.sum(),
        area_names=names,
        area_city_N=area_city_N,
        first_area_C=first_area_C,
        area_x_N=(radius_N * np.cos(angle_N)).astype(np.float32),
        area_y_N=(radius_N * np.sin(angle_N)).astype(np.float32),
    )


def _chosen_cities(config: CityConfig) -> pl.DataFrame:
    """Returns as many cities as the places suffice for, every region's largest first."""
    count = max(1, config.places // (3 * config.candidates))
    population = pl.col("population_millions")
    ranked = knowledge.cities().with_columns(
        rank=population.rank("ordinal", descending=True).over("region")
    )
    order = ["rank", "population_millions"]
    return ranked.sort(order, descending=[False, True]).head(count).drop("rank")
