"""The country: cities and their districts, the calendar, the weather.

Array names: C cities, N districts (areas), D days, B blocks of three hours, S meal slots.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np
import polars as pl

from larr_lab.city.effects import HOLIDAYS, Bools, Floats, Ints
from larr_lab.settings import CityConfig

BLOCK_HOURS = 3
BLOCKS = 24 // BLOCK_HOURS
WEATHERS = ("sunny", "cloudy", "windy", "rain", "heavy rain", "snow")
SUNNY, CLOUDY, WINDY, RAIN, HEAVY_RAIN, SNOW = range(6)
DISTRICTS = (
    "Old Town",
    "Railway Station",
    "University Town",
    "High-Tech Zone",
    "New District",
    "Riverside",
    "Financial Street",
    "Garden District",
    "Lakeside",
    "Drum Tower",
    "South Gate",
    "North Gate",
    "Stadium",
    "Temple Street",
    "Harbour Road",
    "Industrial Park",
)
KM_PER_DEGREE = 111.2


@dataclass(frozen=True)
class Geography:
    """Cities and districts; positions in a city are km east (x) and north (y) of its centre."""

    cities: pl.DataFrame
    """Rows of cities.csv, one for a city."""
    regions_of_china: pl.DataFrame
    """regions.csv; `region_C` points into its rows."""
    region_C: Ints
    weight_C: Floats
    """Share of places and users."""
    area_names: list[str]
    area_city_N: Ints
    first_area_C: Ints
    """First district of a city, with the number of districts at the end: C + 1 numbers."""
    area_x_N: Floats
    area_y_N: Floats

    @property
    def regions(self) -> list[str]:
        """Names of all regions."""
        names: list[str] = self.regions_of_china["region"].to_list()
        return names

    def latitude(self, city_R: Ints, y_R: Floats) -> Floats:
        """Degrees north."""
        lat_C = self.cities["lat"].to_numpy()
        lat_R: Floats = lat_C[city_R] + y_R / KM_PER_DEGREE
        return lat_R

    def longitude(self, city_R: Ints, x_R: Floats) -> Floats:
        """Degrees east."""
        lat_C, lon_C = self.cities["lat"].to_numpy(), self.cities["lon"].to_numpy()
        km_per_degree_R = KM_PER_DEGREE * np.cos(np.radians(lat_C[city_R]))
        lon_R: Floats = lon_C[city_R] + x_R / km_per_degree_R
        return lon_R

    def any_area(self, city_R: Ints, uniform_R: Floats) -> Ints:
        """A district of each city, the early (central) ones more often."""
        first_R = self.first_area_C[city_R]
        areas_R = self.first_area_C[city_R + 1] - first_R
        return first_R + (uniform_R**1.4 * areas_R).astype(np.int64)


@dataclass(frozen=True)
class Calendar:
    """Days from the first day of the history to the test day."""

    dates: list[date]
    history_days: int
    free_D: Bools
    """Weekends and holidays."""
    holiday_D: Bools
    block_D: Ints
    """Days are cut into blocks of up to four days, a holiday being one: trips last a block."""

    def midnight(self, day: int) -> np.datetime64:
        """The beginning of a day."""
        return np.datetime64(self.dates[day], "us")


@dataclass(frozen=True)
class Weather:
    """What it is like in each city, day and block of three hours."""

    kind_CDB: Ints
    temperature_CDB: Floats


def chosen_cities(config: CityConfig, table: pl.DataFrame) -> pl.DataFrame:
    """As many cities as there are places for, every region's largest first."""
    count = max(1, config.places // (3 * config.candidates))
    ranked = table.with_columns(
        rank=pl.col("population_millions").rank("ordinal", descending=True).over("region")
    )
    order = ["rank", "population_millions"]
    return ranked.sort(order, descending=[False, True]).head(count).drop("rank")


def geography(
    config: CityConfig, cities: pl.DataFrame, regions: pl.DataFrame, rng: np.random.Generator
) -> Geography:
    """Lays out districts: three to eight in a city, further out where the city is large."""
    chosen = chosen_cities(config, cities)
    population_C = chosen["population_millions"].to_numpy().astype(np.float64)
    areas_C = np.clip(np.round(1.5 + 1.3 * np.log2(1 + population_C)), 3, 8).astype(np.int64)
    first_area_C = np.concatenate([[0], np.cumsum(areas_C)])
    area_city_N = np.repeat(np.arange(chosen.height), areas_C)
    rank_N = np.arange(area_city_N.size) - first_area_C[area_city_N]
    names = [DISTRICTS[i] for n in areas_C for i in _district_order(int(n), rng)]
    radius_N = 1.1 * rank_N**0.6 * (0.7 + 0.12 * np.log2(1 + population_C[area_city_N]))
    angle_N = rng.uniform(0, 2 * np.pi, area_city_N.size) + 2.4 * rank_N
    weight_C = population_C**0.8
    names_of_regions = regions["region"].to_list()
    return Geography(
        cities=chosen,
        regions_of_china=regions,
        region_C=np.array([names_of_regions.index(name) for name in chosen["region"]]),
        weight_C=weight_C / weight_C.sum(),
        area_names=names,
        area_city_N=area_city_N,
        first_area_C=first_area_C,
        area_x_N=(radius_N * np.cos(angle_N)).astype(np.float32),
        area_y_N=(radius_N * np.sin(angle_N)).astype(np.float32),
    )


def _district_order(count: int, rng: np.random.Generator) -> list[int]:
    others = 1 + rng.permutation(len(DISTRICTS) - 1)[: count - 1]
    return [0, *others.tolist()]


def calendar(config: CityConfig) -> Calendar:
    """The days of the history, of training and of the test."""
    days = config.history_days + config.train_days + 1
    first = config.start - timedelta(days=config.history_days)
    dates = [first + timedelta(days=day) for day in range(days)]
    holiday = [any(begin <= day <= end for begin, end in HOLIDAYS) for day in dates]
    block = [0]
    for day in range(1, days):
        length = day - block.index(block[-1])
        turns = holiday[day] != holiday[day - 1]
        block.append(block[-1] + int(turns or (not holiday[day] and length >= 4)))
    return Calendar(
        dates=dates,
        history_days=config.history_days,
        free_D=np.array([h or d.weekday() >= 5 for h, d in zip(holiday, dates, strict=True)]),
        holiday_D=np.array(holiday),
        block_D=np.array(block),
    )


def weather(world: Geography, days: Calendar, rng: np.random.Generator) -> Weather:
    """Climate of the season plus fronts that last a day or two and are shared by near cities."""
    cities, blocks = world.cities.height, len(days.dates) * BLOCKS
    wet_CT = _fronts(world, blocks, 0.90, rng)
    warm_CT = _fronts(world, blocks, 0.97, rng)
    gust_CT = _fronts(world, blocks, 0.85, rng)
    block_T = np.arange(blocks) % BLOCKS
    mean_CT = np.repeat(_seasonal(world, days, "temp"), BLOCKS, axis=1)
    rain_share_CT = np.repeat(_seasonal(world, days, "rain"), BLOCKS, axis=1) / 30 * 0.55
    rank_CT = _normal_cdf(-wet_CT)
    raining_CT = rank_CT < rain_share_CT
    daily_T = -np.cos((block_T * BLOCK_HOURS + 1.5 - 3.0) / 24 * 2 * np.pi)
    swing_CT = np.where(rank_CT < 2.2 * rain_share_CT, 2.0, 5.0)
    sd_C1 = 1.5 + 0.09 * np.maximum(world.cities["lat"].to_numpy() - 22, 0)[:, None]
    temperature_CT = mean_CT + sd_C1 * warm_CT + swing_CT * daily_T
    temperature_CT -= 2.0 * (raining_CT - rain_share_CT)
    kind_CT = np.full((cities, blocks), SUNNY, np.int8)
    kind_CT[rank_CT < rain_share_CT + 0.35] = CLOUDY
    kind_CT[gust_CT > 1.5] = WINDY
    kind_CT[raining_CT] = RAIN
    kind_CT[rank_CT < 0.22 * rain_share_CT] = HEAVY_RAIN
    kind_CT[raining_CT & (temperature_CT < 1.0)] = SNOW
    shape = (cities, len(days.dates), BLOCKS)
    return Weather(
        kind_CDB=kind_CT.reshape(shape),
        temperature_CDB=np.round(temperature_CT).astype(np.float32).reshape(shape),
    )


def _seasonal(world: Geography, days: Calendar, prefix: str) -> Floats:
    months_CM = world.cities.select([f"{prefix}_{m}" for m in range(1, 13)]).to_numpy()
    middle_M = np.arange(12) + 0.5
    now_D = np.array([day.month - 1 + (day.day - 0.5) / 30.5 for day in days.dates])
    rows = [np.interp(now_D, middle_M, means_M, period=12) for means_M in months_CM]
    return np.array(rows)


def _fronts(world: Geography, blocks: int, persistence: float, rng: np.random.Generator) -> Floats:
    lat_C = world.cities["lat"].to_numpy()
    lon_C = world.cities["lon"].to_numpy()
    far_CC = np.hypot(lat_C[:, None] - lat_C, 0.85 * (lon_C[:, None] - lon_C)) * KM_PER_DEGREE
    near_CC = 0.85 * np.exp(-far_CC / 500) + 0.15 * np.eye(lat_C.size)
    shock_CT = np.linalg.cholesky(near_CC) @ rng.standard_normal((lat_C.size, blocks))
    state_CT = np.empty_like(shock_CT)
    state_CT[:, 0] = shock_CT[:, 0]
    fresh = np.sqrt(1 - persistence**2)
    for t in range(1, blocks):
        state_CT[:, t] = persistence * state_CT[:, t - 1] + fresh * shock_CT[:, t]
    return state_CT


def _normal_cdf(value: Floats) -> Floats:
    return 1 / (1 + np.exp(-1.5976 * value - 0.070566 * value**3))
