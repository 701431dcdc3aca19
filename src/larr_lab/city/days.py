"""The days: calendar and weather. Arrays as in `effects.py`."""

from __future__ import annotations

from datetime import timedelta

import numpy as np

from larr_lab import knowledge
from larr_lab.city.effects import Array
from larr_lab.city.geography import KM_PER_DEGREE, Geography
from larr_lab.settings import CityConfig

BLOCK_HOURS = 3
BLOCKS = 24 // BLOCK_HOURS
WEATHERS = ("sunny", "cloudy", "windy", "rain", "heavy rain", "snow")
SUNNY, CLOUDY, WINDY, RAIN, HEAVY_RAIN, SNOW = range(6)
WEEKDAY_WEIGHTS = (0.95, 0.95, 0.97, 1.0, 1.08, 1.12, 1.08)
"""Relative number of requests by day of the week, Monday first."""
HOLIDAY_WEIGHT = 0.97
"""Additional factor on holidays, when families cook."""
LONGEST_BLOCK = 4
"""Maximum length of a block of ordinary days."""


class Calendar:
    """The days of the history, the training period and the test."""

    def __init__(self, config: CityConfig) -> None:
        self.history_days = config.history_days
        first = config.start - timedelta(days=config.history_days)
        days = range(config.history_days + config.train_days + 1)
        self.dates = [first + timedelta(days=day) for day in days]
        holidays = [row[:2] for row in knowledge.holidays().iter_rows()]
        is_holiday = [any(begin <= day <= end for begin, end in holidays) for day in self.dates]
        self.holiday_D = np.array(is_holiday)
        self.free_D = self.holiday_D | np.array([day.weekday() >= 5 for day in self.dates])
        """Weekends and holidays."""
        block = [0]
        for day in days[1:]:
            length = day - block.index(block[-1])
            turns = is_holiday[day] != is_holiday[day - 1]
            ends = turns or (not is_holiday[day] and length >= LONGEST_BLOCK)
            block.append(block[-1] + int(ends))
        self.block_D = np.array(block)
        """Block of each day: up to four ordinary days, or one holiday. A trip lasts one block."""
        weekday_D = np.array([WEEKDAY_WEIGHTS[day.weekday()] for day in self.dates])
        self.weight_D = weekday_D * np.where(self.holiday_D, HOLIDAY_WEIGHT, 1.0)
        """Number of requests relative to an ordinary Thursday."""

    def midnight(self, day: int) -> np.datetime64:
        """Returns the beginning of a day."""
        return np.datetime64(self.dates[day], "us")


class Weather:
    """The weather of each block of hours in each city."""

    def __init__(self, land: Geography, days: Calendar, rng: np.random.Generator) -> None:
        """Draws the weather from the seasonal climate and fronts that last a day or two.

        T is days times blocks.
        """
        shape = (land.cities.height, len(days.dates), BLOCKS)
        blocks = len(days.dates) * BLOCKS
        dry_CT = -_fronts(land, blocks, 0.90, rng)
        warm_CT = _fronts(land, blocks, 0.97, rng)
        gust_CT = _fronts(land, blocks, 0.85, rng)
        mean_CT = np.repeat(_climate(land, days, "temp"), BLOCKS, axis=1)
        # It rains in 0.55 of the blocks of a wet day: months have about the wet days of cities.csv.
        rain_share_CT = np.repeat(_climate(land, days, "rain"), BLOCKS, axis=1) / 30 * 0.55
        # The normal distribution function with an error below 0.0002 (Page, 1977). scipy's exact
        # one would change the weather of every seed with published figures.
        rank_CT = 1 / (1 + np.exp(-1.5976 * dry_CT - 0.070566 * dry_CT**3))
        raining_CT = rank_CT < rain_share_CT
        # Coldest at 3:00, warmest at 15:00; clouds more than halve the difference of day and night.
        block_T = np.arange(blocks) % BLOCKS
        daily_T = -np.cos((block_T * BLOCK_HOURS + 1.5 - 3.0) / 24 * 2 * np.pi)
        swing_CT = np.where(rank_CT < 2.2 * rain_share_CT, 2.0, 5.0)
        # Temperatures vary more from week to week in the north (1.5 C in Hainan, 3.6 C in Harbin).
        sd_C1 = 1.5 + 0.09 * np.maximum(land.lat_C - 22, 0)[:, None]
        temperature_CT = mean_CT + sd_C1 * warm_CT + swing_CT * daily_T
        # Rain cools the air; the climate's mean is kept.
        temperature_CT -= 2.0 * (raining_CT - rain_share_CT)
        self.temperature_CDB = np.round(temperature_CT).astype(np.float32).reshape(shape)
        """Degrees Celsius."""
        kind_CT = np.full(rank_CT.shape, SUNNY, np.int8)
        kind_CT[rank_CT < rain_share_CT + 0.35] = CLOUDY
        kind_CT[gust_CT > 1.5] = WINDY
        kind_CT[raining_CT] = RAIN
        kind_CT[rank_CT < 0.22 * rain_share_CT] = HEAVY_RAIN
        kind_CT[raining_CT & (temperature_CT < 1.0)] = SNOW
        self.kind_CDB = kind_CT.reshape(shape)
        """Indices of `WEATHERS`."""


def _climate(land: Geography, days: Calendar, prefix: str) -> Array:
    """Returns a monthly column of cities.csv interpolated to days, shape (C, D)."""
    months_CM = land.cities.select([f"{prefix}_{month}" for month in range(1, 13)]).to_numpy()
    middle_M = np.arange(12) + 0.5
    now_D = np.array([day.month - 1 + (day.day - 0.5) / 30.5 for day in days.dates])
    return np.array([np.interp(now_D, middle_M, means_M, period=12) for means_M in months_CM])


def _fronts(land: Geography, blocks: int, persistence: float, rng: np.random.Generator) -> Array:
    """Returns standard normal series, autoregressive in time and correlated within about 500 km."""
    near_CC = 0.85 * np.exp(-land.distance_CC * KM_PER_DEGREE / 500) + 0.15 * np.eye(
        len(land.cities)
    )
    shock_CT = np.linalg.cholesky(near_CC) @ rng.standard_normal((len(near_CC), blocks))
    state_CT = np.empty_like(shock_CT)
    state_CT[:, 0] = shock_CT[:, 0]
    innovation = np.sqrt(1 - persistence**2)  # keeps the variance at 1
    for block in range(1, blocks):
        state_CT[:, block] = persistence * state_CT[:, block - 1] + innovation * shock_CT[:, block]
    return state_CT
