"""The world: everything that is fixed before the first request."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from larr_lab.city.days import Calendar, Weather, make_calendar, make_weather
from larr_lab.city.geography import Geography, make_geography
from larr_lab.city.kitchen import Kitchen, make_kitchen
from larr_lab.city.people import Trips, Users, make_trips, make_users
from larr_lab.city.places import Places, make_places
from larr_lab.settings import CityConfig


@dataclass(frozen=True)
class World:
    """The country with its places and people."""

    config: CityConfig
    seed: int
    geography: Geography
    days: Calendar
    weather: Weather
    kitchen: Kitchen
    places: Places
    users: Users
    trips: Trips


def make_world(config: CityConfig, seed: int) -> World:
    """Draws the country, its places and its people.

    Each part has a random stream, so that more users, say, leave the places as they are.
    """
    streams = [np.random.default_rng([seed, 0, stream]) for stream in range(4)]
    land = make_geography(config, streams[0])
    days = make_calendar(config)
    kitchen = make_kitchen(land)
    return World(
        config=config,
        seed=seed,
        geography=land,
        days=days,
        weather=make_weather(land, days, streams[1]),
        kitchen=kitchen,
        places=make_places(config, land, days, kitchen, streams[2]),
        users=make_users(config, land, days, kitchen.origins, streams[3]),
        trips=make_trips(land, seed * 10 + 1),
    )
