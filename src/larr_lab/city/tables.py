"""The tables of the data contract, from the world and its requests. Arrays as in `effects.py`."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import polars as pl

from larr_lab.city.choice import Model, Offer, expose, make_offer
from larr_lab.city.days import WEATHERS
from larr_lab.city.effects import KINDS, Array
from larr_lab.city.people import AGE_BANDS, GENDERS
from larr_lab.city.requests import Scenes, draw_scenes
from larr_lab.city.texts import nicknames, place_texts
from larr_lab.city.world import World

REQUESTS_AT_A_TIME = 8192
"""Bounds the memory for days of any size."""
ORDERS_A_USER_A_DAY = 11 / 56
US_PER_DAY = 86_400_000_000


def place_table(world: World) -> pl.DataFrame:
    """Returns `places` of the data contract."""
    land, places = world.geography, world.places
    lat_P, lon_P = land.coordinates(places.city_P, places.x_P, places.y_P)
    texts = place_texts(world, np.random.default_rng([world.seed, 2]))
    return pl.DataFrame(
        {
            "poi_id": world.place_ids,
            "name": texts["name"],
            "city": land.cities["city"].gather(places.city_P),
            "region": land.cities["region"].gather(places.city_P),
            "area": pl.Series(land.area_names).gather(places.area_P),
            "lat": lat_P,
            "lon": lon_P,
            "category": pl.Series(world.kitchen.categories).gather(places.category_P),
            "tags": texts["tags"],
            "menu": texts["menu"],
            "intro": texts["intro"],
            "price_yuan": places.price_yuan_P,
            "rating": places.rating_P,
            "chain": texts["chain"],
            "delivery_fee_yuan": places.fee_yuan_P.astype(np.float64),
            "opened": _moments(world, places.opened_day_P),
        }
    )


def user_table(world: World) -> pl.DataFrame:
    """Returns `users` of the data contract."""
    land, users = world.geography, world.users
    return pl.DataFrame(
        {
            "user_id": world.user_ids,
            "nickname": nicknames(world, np.random.default_rng([world.seed, 3])),
            "gender": pl.Series(GENDERS).gather(users.gender_U),
            "age_band": pl.Series(AGE_BANDS).gather(users.age_U),
            "home_city": land.cities["city"].gather(users.city_U),
            "home_region": land.cities["region"].gather(users.city_U),
            "joined": _moments(world, users.joined_day_U),
        }
    )


def _moments(world: World, day: Array) -> pl.Series:
    """Converts days since the first day of the history to times in whole seconds."""
    micro = np.floor(day * US_PER_DAY / 1e6).astype(np.int64) * 1_000_000
    return pl.Series(world.days.midnight(0) + micro.astype("timedelta64[us]"))


def rows_of_days(world: World) -> Array:
    """Returns the number of impressions on each day of the log; the sum is the configured one."""
    weight_D = world.days.weight_D[world.days.history_days :]
    edge_D = np.round(world.config.impressions * weight_D.cumsum() / weight_D.sum())
    return np.diff(edge_D, prepend=0).astype(np.int64)


def impressions(world: World, model: Model, number: int, rows: int) -> Iterator[pl.DataFrame]:
    """Yields `impressions` of the data contract for one day of the log, in chunks of requests.

    Each day has its own random stream, so it does not depend on earlier days.
    """
    rng = np.random.default_rng([world.seed, 4, number])
    requests = -(-rows // world.config.candidates)
    scenes = draw_scenes(world, world.days.history_days + number, requests, rng)
    for start in range(0, max(requests, 1), REQUESTS_AT_A_TIME):
        part = scenes.part(slice(start, start + REQUESTS_AT_A_TIME))
        place_RK = expose(world, part, world.config.candidates, rng)
        if start + part.count == requests:  # the last request shows only the remaining rows
            place_RK[-1:, rows - (requests - 1) * world.config.candidates :] = -1
        offer = make_offer(world, part, place_RK, rng)
        click_RK, order_RK = model.probabilities(part, place_RK, offer)
        # The same number decides click and order, so an order always has a click.
        uniform_RK = rng.random(place_RK.shape)
        shown = np.nonzero(place_RK >= 0)
        ids = pl.Series(range(start, start + part.count), dtype=pl.Int64)
        request_R = f"r{number:02d}-" + ids.cast(pl.String).str.zfill(7)
        yield offered(world, part, place_RK, offer).with_columns(
            request_id=request_R.gather(shown[0]),
            click=(uniform_RK < click_RK)[shown],
            order=(uniform_RK < order_RK)[shown],
            probability_click=click_RK[shown],
            probability_order=order_RK[shown],
        )


def offered(world: World, scenes: Scenes, place_RK: Array, offer: Offer) -> pl.DataFrame:
    """Returns a row for each place of each request, except -1, as a client would send it."""
    row_I, column_I = shown = np.nonzero(place_RK >= 0)
    return pl.DataFrame(
        {
            "user_id": world.user_ids.gather(scenes.user_R[row_I]),
            "poi_id": world.place_ids.gather(place_RK[shown]),
            "time": scenes.time_R[row_I],
            **_scene_columns(world, scenes, row_I),
            "distance_km": np.round(offer.distance_km_RK[shown].astype(np.float64), 2),
            "delivery_minutes": offer.minutes_RK[shown].astype(np.int16),
            "delivery_fee_yuan": offer.fee_yuan_RK[shown].astype(np.float64),
            "position": (column_I + 1).astype(np.int16),
        }
    )


def _scene_columns(world: World, scenes: Scenes, row_I: Array) -> dict[str, object]:
    """Returns the scene columns for rows of requests."""
    city_I = scenes.city_R[row_I]
    land = world.geography
    lat_R, lon_R = land.coordinates(scenes.city_R, scenes.x_R, scenes.y_R)
    return {
        "city": land.cities["city"].gather(city_I),
        "region": land.cities["region"].gather(city_I),
        "area": pl.Series(land.area_names).gather(scenes.area_R[row_I]),
        "lat": lat_R[row_I],
        "lon": lon_R[row_I],
        "place_kind": pl.Series(KINDS).gather(scenes.kind_R[row_I]),
        "away": scenes.away_R[row_I],
        "weather": pl.Series(WEATHERS).gather(scenes.weather_R[row_I]),
        "temperature_c": scenes.temperature_R[row_I].astype(np.float64),
    }


def orders(world: World, model: Model, day: int) -> Iterator[pl.DataFrame]:
    """Yields `orders` of the data contract for one day of the history, in chunks of requests.

    Each request orders from one place shown, drawn in proportion to the probability of an order.
    """
    rng = np.random.default_rng([world.seed, 5, day])
    weight_D = world.days.weight_D[: world.config.history_days]
    mean = ORDERS_A_USER_A_DAY * world.users.count
    count = int(np.round(mean * weight_D[day] / weight_D.mean()))
    scenes = draw_scenes(world, day, count, rng)
    for start in range(0, max(count, 1), REQUESTS_AT_A_TIME):
        part = scenes.part(slice(start, start + REQUESTS_AT_A_TIME))
        place_RK = expose(world, part, world.config.candidates, rng)
        offer = make_offer(world, part, place_RK, rng)
        _, order_RK = model.probabilities(part, place_RK, offer)
        # The minimum of exponential times divided by rates is a draw in proportion to the rates.
        race_RK = rng.standard_exponential(order_RK.shape) / order_RK
        race_RK[place_RK < 0] = np.inf
        place_R = place_RK[np.arange(part.count), race_RK.argmin(axis=1)]
        row_I = np.flatnonzero(place_R >= 0)
        columns = _scene_columns(world, part, row_I)
        del columns["lat"], columns["lon"]
        yield pl.DataFrame(
            {
                "user_id": world.user_ids.gather(part.user_R[row_I]),
                "poi_id": world.place_ids.gather(place_R[row_I]),
                "time": part.time_R[row_I],
                **columns,
            }
        )
