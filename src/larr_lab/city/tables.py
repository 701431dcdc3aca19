"""The tables of the data contract, from the world and its requests. Arrays as in `effects.py`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl

from larr_lab.city.choice import Model, Offer, logit_parts, make_model, make_offer
from larr_lab.city.days import WEATHERS
from larr_lab.city.effects import KINDS, Array
from larr_lab.city.exposure import expose
from larr_lab.city.people import AGE_BANDS, GENDERS
from larr_lab.city.requests import Scenes, draw_scenes
from larr_lab.city.texts import nicknames, place_texts
from larr_lab.city.world import World, make_world
from larr_lab.settings import CityConfig

REQUESTS_AT_A_TIME = 8192
"""Bounds the memory, whatever the size of a day."""
ORDERS_A_USER_A_DAY = 11 / 56
US_PER_DAY = 86_400_000_000


@dataclass(frozen=True)
class Country:
    """The world, its latent model, and columns of names to gather from."""

    world: World
    model: Model
    place_ids: pl.Series
    user_ids: pl.Series
    city_names: pl.Series
    region_of_city: pl.Series
    area_names: pl.Series


def make_country(config: CityConfig, seed: int) -> Country:
    """Draws the world and fits its latent model."""
    world = make_world(config, seed)
    land = world.geography
    return Country(
        world=world,
        model=make_model(world),
        place_ids=_identifiers("p", config.places, 5),
        user_ids=_identifiers("u", config.users, 6),
        city_names=land.cities["city"],
        region_of_city=pl.Series(land.region_names).gather(land.region_C),
        area_names=pl.Series(land.area_names),
    )


def _identifiers(letter: str, count: int, width: int) -> pl.Series:
    width = max(width, len(str(count - 1)))
    numbers = pl.Series(range(count)).cast(pl.String).str.zfill(width)
    return letter + numbers


def place_table(country: Country) -> pl.DataFrame:
    """Returns the contract's `places`."""
    world, places = country.world, country.world.places
    lat_P, lon_P = world.geography.coordinates(places.city_P, places.x_P, places.y_P)
    texts = place_texts(world, np.random.default_rng([world.seed, 2]))
    return pl.DataFrame(
        {
            "poi_id": country.place_ids,
            "name": texts["name"],
            "city": country.city_names.gather(places.city_P),
            "region": country.region_of_city.gather(places.city_P),
            "area": country.area_names.gather(places.area_P),
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


def user_table(country: Country) -> pl.DataFrame:
    """Returns the contract's `users`."""
    world, users = country.world, country.world.users
    return pl.DataFrame(
        {
            "user_id": country.user_ids,
            "nickname": nicknames(world, np.random.default_rng([world.seed, 3])),
            "gender": pl.Series(GENDERS).gather(users.gender_U),
            "age_band": pl.Series(AGE_BANDS).gather(users.age_U),
            "home_city": country.city_names.gather(users.city_U),
            "home_region": country.region_of_city.gather(users.city_U),
            "joined": _moments(world, users.joined_day_U),
        }
    )


def _moments(world: World, day: Array) -> pl.Series:
    """Returns points in time, in whole seconds, of days since the first day of the history."""
    micro = np.floor(day * US_PER_DAY / 1e6).astype(np.int64) * 1_000_000
    return pl.Series(world.days.midnight(0) + micro.astype("timedelta64[us]"))


def rows_of_days(world: World) -> Array:
    """Returns the impressions of each day of the log; they sum to the configured number."""
    weight_D = world.days.weight_D[world.days.history_days :]
    edge_D = np.round(world.config.impressions * weight_D.cumsum() / weight_D.sum())
    return np.diff(edge_D, prepend=0).astype(np.int64)


def impressions(country: Country, number: int, rows: int) -> Iterator[pl.DataFrame]:
    """Yields the contract's `impressions` of one day of the log, in chunks of requests.

    A day has a random stream, so it does not depend on the days before.
    """
    world = country.world
    rng = np.random.default_rng([world.seed, 4, number])
    requests = -(-rows // world.config.candidates)
    scenes = draw_scenes(world, world.days.history_days + number, requests, rng)
    for start in range(0, max(requests, 1), REQUESTS_AT_A_TIME):
        part = scenes.part(slice(start, start + REQUESTS_AT_A_TIME))
        place_RK = expose(world, part, rng)
        if start + part.count == requests:  # the last request shows what is missing of `rows`
            place_RK[-1:, rows - (requests - 1) * world.config.candidates :] = -1
        offer = make_offer(world, part, place_RK, rng)
        click_RK, order_RK = country.model.probabilities(logit_parts(world, part, place_RK, offer))
        # One number decides both, so an order is always a click.
        luck_RK = rng.random(place_RK.shape)
        shown = np.nonzero(place_RK >= 0)
        ids = pl.Series(range(start, start + part.count), dtype=pl.Int64)
        request_R = f"r{number:02d}-" + ids.cast(pl.String).str.zfill(7)
        yield offered(country, part, place_RK, offer).with_columns(
            request_id=request_R.gather(shown[0]),
            click=(luck_RK < click_RK)[shown],
            order=(luck_RK < order_RK)[shown],
            probability_click=click_RK[shown],
            probability_order=order_RK[shown],
        )


def offered(country: Country, scenes: Scenes, place_RK: Array, offer: Offer) -> pl.DataFrame:
    """Returns a row for each place of each request (none for -1), as a client would send it."""
    row_I, column_I = shown = np.nonzero(place_RK >= 0)
    return pl.DataFrame(
        {
            "user_id": country.user_ids.gather(scenes.user_R[row_I]),
            "poi_id": country.place_ids.gather(place_RK[shown]),
            "time": scenes.time_R[row_I],
            **_scene_columns(country, scenes, row_I),
            "distance_km": np.round(offer.distance_km_RK[shown].astype(np.float64), 2),
            "delivery_minutes": offer.minutes_RK[shown].astype(np.int16),
            "delivery_fee_yuan": offer.fee_yuan_RK[shown].astype(np.float64),
            "position": (column_I + 1).astype(np.int16),
        }
    )


def _scene_columns(country: Country, scenes: Scenes, row_I: Array) -> dict[str, object]:
    """Returns the columns of the scene for rows of requests."""
    city_I = scenes.city_R[row_I]
    land = country.world.geography
    lat_R, lon_R = land.coordinates(scenes.city_R, scenes.x_R, scenes.y_R)
    return {
        "city": country.city_names.gather(city_I),
        "region": country.region_of_city.gather(city_I),
        "area": country.area_names.gather(scenes.area_R[row_I]),
        "lat": lat_R[row_I],
        "lon": lon_R[row_I],
        "place_kind": pl.Series(KINDS).gather(scenes.kind_R[row_I]),
        "away": scenes.away_R[row_I],
        "weather": pl.Series(WEATHERS).gather(scenes.weather_R[row_I]),
        "temperature_c": scenes.temperature_R[row_I].astype(np.float64),
    }


def orders(country: Country, day: int) -> Iterator[pl.DataFrame]:
    """Yields the contract's `orders` of one day of the history, in chunks: one of each request."""
    world = country.world
    rng = np.random.default_rng([world.seed, 5, day])
    weight_D = world.days.weight_D[: world.config.history_days]
    mean = ORDERS_A_USER_A_DAY * world.users.count
    count = int(np.round(mean * weight_D[day] / weight_D.mean()))
    scenes = draw_scenes(world, day, count, rng)
    for start in range(0, max(count, 1), REQUESTS_AT_A_TIME):
        part = scenes.part(slice(start, start + REQUESTS_AT_A_TIME))
        place_R = _ordered(country, part, rng)
        row_I = np.flatnonzero(place_R >= 0)
        columns = _scene_columns(country, part, row_I)
        yield pl.DataFrame(
            {
                "user_id": country.user_ids.gather(part.user_R[row_I]),
                "poi_id": country.place_ids.gather(place_R[row_I]),
                "time": part.time_R[row_I],
                **{name: column for name, column in columns.items() if name not in ("lat", "lon")},
            }
        )


def _ordered(country: Country, scenes: Scenes, rng: np.random.Generator) -> Array:
    """Returns one of the places shown, by its probability of an order; -1 where none is shown.

    Exponential times divided by their rates: the first to end is a draw in proportion to the rates.
    """
    place_RK = expose(country.world, scenes, rng)
    offer = make_offer(country.world, scenes, place_RK, rng)
    parts = logit_parts(country.world, scenes, place_RK, offer)
    _, order_RK = country.model.probabilities(parts)
    race_RK = rng.standard_exponential(order_RK.shape) / order_RK
    race_RK[place_RK < 0] = np.inf
    first_R1 = race_RK.argmin(axis=1, keepdims=True)
    return np.take_along_axis(place_RK, first_R1, axis=1)[:, 0]
