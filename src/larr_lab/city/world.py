"""The simulated world before the first request."""

from __future__ import annotations

import numpy as np
import polars as pl

from larr_lab.city.days import Calendar, Weather
from larr_lab.city.geography import Geography
from larr_lab.city.people import Trips, Users
from larr_lab.city.places import Kitchen, Places
from larr_lab.settings import CityConfig


class World:
    """The country with its places and people."""

    def __init__(self, config: CityConfig, seed: int) -> None:
        """Draws the country, its places and its people.

        Each part has its own random stream, so that adding users, for example, leaves the places
        unchanged.
        """
        streams = [np.random.default_rng([seed, 0, stream]) for stream in range(4)]
        self.config, self.seed = config, seed
        self.geography = land = Geography(config, streams[0])
        self.days = Calendar(config)
        self.kitchen = Kitchen(land)
        self.weather = Weather(land, self.days, streams[1])
        self.places = Places(config, land, self.days, self.kitchen, streams[2])
        self.users = Users(config, land, self.days, self.kitchen.origins, streams[3])
        self.trips = Trips(land, seed * 10 + 1)
        self.place_ids = _identifiers("p", config.places, 5)
        self.user_ids = _identifiers("u", config.users, 6)


def _identifiers(letter: str, count: int, width: int) -> pl.Series:
    width = max(width, len(str(count - 1)))
    return letter + pl.Series(range(count)).cast(pl.String).str.zfill(width)
