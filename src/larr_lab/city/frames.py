"""The tables of the data contract, from the world and requests. Arrays as in `behaviour.py`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl

from larr_lab.city.behaviour import Scenes, World, day_weights, draw_scenes, expose
from larr_lab.city.choice import Model, Offer, logit_parts, make_offer
from larr_lab.city.effects import KINDS, Floats, Ints
from larr_lab.city.people import AGE_BANDS, GENDERS
from larr_lab.city.texts import nicknames, place_texts
from larr_lab.city.world import WEATHERS

REQUESTS_AT_A_TIME = 8192
ORDERS_A_USER_A_DAY = 11 / 56
US_PER_DAY = 86_400_000_000


class Names:
    """Columns of strings to gather from: identifiers and the names of codes."""

    def __init__(self, world: World) -> None:
        land = world.geography
        regions = pl.Series(land.regions)
        self.place = _identifiers("p", world.places.count, 5)
        self.user = _identifiers("u", world.users.count, 6)
        self.city = land.cities["city"]
        self.region = regions.gather(land.region_C)
        self.area = pl.Series(land.area_names)
        self.kind = pl.Series(KINDS)
        self.weather = pl.Series(WEATHERS)


def _identifiers(letter: str, count: int, width: int) -> pl.Series:
    width = max(width, len(str(count - 1)))
    numbers = pl.Series(range(count)).cast(pl.String).str.zfill(width)
    return letter + numbers


@dataclass(frozen=True)
class Country:
    """The world, its latent model, and the names of things."""

    world: World
    model: Model
    names: Names


def place_table(country: Country) -> pl.DataFrame:
    """The contract's `places`."""
    world, names = country.world, country.names
    places, land = world.places, world.geography
    texts = place_texts(world, np.random.default_rng([world.seed, 2]))
    return pl.DataFrame(
        {
            "poi_id": names.place,
            "name": texts["name"],
            "city": names.city.gather(places.city_P),
            "region": names.region.gather(places.city_P),
            "area": names.area.gather(places.area_P),
            "lat": np.round(land.latitude(places.city_P, places.y_P), 5),
            "lon": np.round(land.longitude(places.city_P, places.x_P), 5),
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
    """The contract's `users`."""
    world, names = country.world, country.names
    users = world.users
    return pl.DataFrame(
        {
            "user_id": names.user,
            "nickname": nicknames(world, np.random.default_rng([world.seed, 3])),
            "gender": pl.Series(GENDERS).gather(users.gender_U),
            "age_band": pl.Series(AGE_BANDS).gather(users.age_U),
            "home_city": names.city.gather(users.city_U),
            "home_region": names.region.gather(users.city_U),
            "joined": _moments(world, users.joined_day_U),
        }
    )


def _moments(world: World, day: Floats) -> pl.Series:
    micro = np.floor(day * US_PER_DAY / 1e6).astype(np.int64) * 1_000_000
    return pl.Series(world.days.midnight(0) + micro.astype("timedelta64[us]"))


def rows_of_days(world: World) -> Ints:
    """Impressions of each day of the log; they sum to the configured number."""
    weight_D = day_weights(world)[world.days.history_days :]
    edge_D = np.round(world.config.impressions * weight_D.cumsum() / weight_D.sum())
    rows_D: Ints = np.diff(edge_D, prepend=0).astype(np.int64)
    return rows_D


def impressions(country: Country, number: int, rows: int) -> Iterator[pl.DataFrame]:
    """The contract's `impressions` of one day of the log, in chunks of requests."""
    world = country.world
    rng = np.random.default_rng([world.seed, 4, number])
    requests = -(-rows // world.config.candidates)
    scenes = draw_scenes(world, world.days.history_days + number, requests, rng)
    for start in range(0, max(requests, 1), REQUESTS_AT_A_TIME):
        part = scenes.part(slice(start, start + REQUESTS_AT_A_TIME))
        place_RK = expose(world, part, rng)
        if start + part.count == requests:
            place_RK[-1:, rows - (requests - 1) * world.config.candidates :] = -1
        ids = pl.Series(range(start, start + part.count), dtype=pl.Int64)
        request_R = f"r{number:02d}-" + ids.cast(pl.String).str.zfill(7)
        yield _impressions(country, part, place_RK, request_R, rng)


def _impressions(
    country: Country,
    scenes: Scenes,
    place_RK: Ints,
    request_R: pl.Series,
    rng: np.random.Generator,
) -> pl.DataFrame:
    offer = make_offer(country.world, scenes, place_RK, rng)
    parts = logit_parts(country.world, scenes, place_RK, offer)
    click_RK, order_RK = country.model.probabilities(parts)
    luck_RK = rng.random(place_RK.shape)
    shown = np.nonzero(place_RK >= 0)
    return offered(country, scenes, place_RK, offer).with_columns(
        request_id=request_R.gather(shown[0]),
        click=(luck_RK < click_RK)[shown],
        order=(luck_RK < order_RK)[shown],
        probability_click=click_RK[shown],
        probability_order=order_RK[shown],
    )


def offered(country: Country, scenes: Scenes, place_RK: Ints, offer: Offer) -> pl.DataFrame:
    """A row for each place of each request (none for -1): who, what, when, where, which weather."""
    row_I, column_I = shown = np.nonzero(place_RK >= 0)
    return pl.DataFrame(
        {
            "user_id": country.names.user.gather(scenes.user_R[row_I]),
            "poi_id": country.names.place.gather(place_RK[shown]),
            "time": scenes.time_R[row_I],
            **_scene_columns(country, scenes, row_I),
            "distance_km": np.round(offer.distance_km_RK[shown].astype(np.float64), 2),
            "delivery_minutes": offer.minutes_RK[shown].astype(np.int16),
            "delivery_fee_yuan": offer.fee_yuan_RK[shown].astype(np.float64),
            "position": (column_I + 1).astype(np.int16),
        }
    )


def _scene_columns(country: Country, scenes: Scenes, row_I: Ints) -> dict[str, object]:
    city_I, land, names = scenes.city_R[row_I], country.world.geography, country.names
    lat_R = np.round(land.latitude(scenes.city_R, scenes.y_R), 5)
    lon_R = np.round(land.longitude(scenes.city_R, scenes.x_R), 5)
    return {
        "city": names.city.gather(city_I),
        "region": names.region.gather(city_I),
        "area": names.area.gather(scenes.area_R[row_I]),
        "lat": lat_R[row_I],
        "lon": lon_R[row_I],
        "place_kind": names.kind.gather(scenes.kind_R[row_I]),
        "away": scenes.away_R[row_I],
        "weather": names.weather.gather(scenes.weather_R[row_I]),
        "temperature_c": scenes.temperature_R[row_I].astype(np.float64),
    }


def orders(country: Country, day: int) -> Iterator[pl.DataFrame]:
    """The contract's `orders` of one day of the history, in chunks: one place of each request."""
    world = country.world
    rng = np.random.default_rng([world.seed, 5, day])
    weight_D = day_weights(world)[: world.config.history_days]
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
                "user_id": country.names.user.gather(part.user_R[row_I]),
                "poi_id": country.names.place.gather(place_R[row_I]),
                "time": part.time_R[row_I],
                **{name: column for name, column in columns.items() if name not in ("lat", "lon")},
            }
        )


def _ordered(country: Country, scenes: Scenes, rng: np.random.Generator) -> Ints:
    """One of the places shown, by its probability of an order; -1 where nothing is shown."""
    place_RK = expose(country.world, scenes, rng)
    offer = make_offer(country.world, scenes, place_RK, rng)
    parts = logit_parts(country.world, scenes, place_RK, offer)
    _, order_RK = country.model.probabilities(parts)
    race_RK = rng.standard_exponential(order_RK.shape) / order_RK
    race_RK[place_RK < 0] = np.inf
    first_R1 = race_RK.argmin(axis=1, keepdims=True)
    return np.take_along_axis(place_RK, first_R1, axis=1)[:, 0]
