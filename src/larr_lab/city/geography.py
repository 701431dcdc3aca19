"""The map: cities and their districts. Arrays as in `effects.py`."""

from __future__ import annotations

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


class Geography:
    """Cities and districts; positions in a city are km east (x) and north (y) of its centre."""

    def __init__(self, config: CityConfig, rng: np.random.Generator) -> None:
        """Chooses cities and lays out their districts: three to eight, wider in a large city."""
        self.regions = knowledge.regions()
        self.region_names: list[str] = self.regions["region"].to_list()
        # As many cities as there are enough places for; the largest of each region come first.
        population = pl.col("population_millions")
        rank = population.rank("ordinal", descending=True).over("region")
        count = max(1, config.places // (3 * config.candidates))
        self.cities = knowledge.cities().sort(rank, population, descending=[False, True])[:count]
        self.lat_C, self.lon_C = self.cities.select("lat", "lon").to_numpy().T
        # Near 32 degrees north, the middle of the map, a degree of longitude is 0.85 degrees of
        # latitude: exact enough for weather fronts and journeys.
        east_CC = 0.85 * (self.lon_C[:, None] - self.lon_C)
        self.distance_CC = np.hypot(self.lat_C[:, None] - self.lat_C, east_CC)
        """In degrees of latitude."""
        self.region_C = np.array([self.region_names.index(name) for name in self.cities["region"]])
        population_C = self.cities["population_millions"].to_numpy().astype(np.float64)
        weight_C = population_C**0.8  # below 1, so that small cities have enough places to rank
        self.weight_C = weight_C / weight_C.sum()
        """Share of the places and users."""
        areas_C = np.clip(np.round(1.5 + 1.3 * np.log2(1 + population_C)), 3, 8).astype(np.int64)
        self.first_area_C = np.concatenate([[0], np.cumsum(areas_C)])
        """First district of each city, then the number of districts: C + 1 numbers."""
        self.area_city_N = np.repeat(np.arange(self.cities.height), areas_C)
        self.area_names: list[str] = []
        for areas in areas_C.tolist():  # every city has an Old Town, its first district
            others = 1 + rng.permutation(len(DISTRICTS) - 1)[: areas - 1]
            self.area_names += [DISTRICTS[0], *(DISTRICTS[number] for number in others)]
        # The golden angle, 2.4 radians, spreads the districts evenly around the centre.
        rank_N = np.arange(self.area_city_N.size) - self.first_area_C[self.area_city_N]
        width_N = 0.7 + 0.12 * np.log2(1 + population_C[self.area_city_N])
        radius_N = 1.1 * rank_N**0.6 * width_N
        angle_N = rng.uniform(0, 2 * np.pi, rank_N.size) + 2.4 * rank_N
        self.area_x_N = (radius_N * np.cos(angle_N)).astype(np.float32)
        self.area_y_N = (radius_N * np.sin(angle_N)).astype(np.float32)

    def coordinates(self, city_R: Array, x_R: Array, y_R: Array) -> tuple[Array, Array]:
        """Returns the latitude and longitude of points in cities, rounded to a metre."""
        km_per_degree_R = KM_PER_DEGREE * np.cos(np.radians(self.lat_C[city_R]))
        lat_R = self.lat_C[city_R] + y_R / KM_PER_DEGREE
        lon_R = self.lon_C[city_R] + x_R / km_per_degree_R
        return np.round(lat_R, 5), np.round(lon_R, 5)

    def any_area(self, city_R: Array, uniform_R: Array) -> Array:
        """Returns a district of each city; the first, central ones are more frequent."""
        first_R = self.first_area_C[city_R]
        areas_R = self.first_area_C[city_R + 1] - first_R
        return first_R + (uniform_R**1.4 * areas_R).astype(np.int64)
