"""Requests: who opens the app when and where, in which weather, and what the platform shows.

Array names: R requests, S meal slots, K places shown, M places recalled, E features of a scene,
A attributes and origins, T categories.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np

from larr_lab import knowledge
from larr_lab.city.effects import (
    ATTRIBUTES,
    KINDS,
    SCENE_EFFECTS,
    SLOT_HOURS,
    SLOT_PEAKS,
    SLOT_SPREADS_HOURS,
    SLOT_WEIGHTS,
    SLOT_WEIGHTS_FREE,
    SLOTS,
    Bools,
    Floats,
    Ints,
    matrix,
)
from larr_lab.city.kitchen import Kitchen, make_kitchen
from larr_lab.city.people import (
    OFFICE,
    SCHOOL,
    Trips,
    Users,
    hash_uniform,
    make_trips,
    make_users,
)
from larr_lab.city.places import Places, make_places
from larr_lab.city.world import (
    BLOCK_HOURS,
    HEAVY_RAIN,
    RAIN,
    SNOW,
    WINDY,
    Calendar,
    Geography,
    Weather,
    calendar,
    geography,
    weather,
)
from larr_lab.settings import CityConfig

RECALL = 160
"""Places that the platform looks at for one request."""
DAY_WEIGHTS = (0.95, 0.95, 0.97, 1.0, 1.08, 1.12, 1.08)
"""Requests by the day of the week, Monday first."""
NEW_DAYS = 7
NEW_BOOST = 0.6
"""What the old ranker adds to the score of a place in its first days."""
ROAD = 1.3
"""Kilometres by road for one as the crow flies."""
US_PER_HOUR = 3_600_000_000
AWAY_KINDS = ("hotel", "station", "scenic spot", "office", "mall", "hospital")
AWAY_SHARES = (0.58, 0.11, 0.15, 0.10, 0.05, 0.01)
OUT_KINDS = ("mall", "hospital", "station", "school")
OUT_SHARES = (0.48, 0.22, 0.22, 0.08)
AT_WORK = (0.30, 0.80, 0.80, 0.22, 0.05)
"""Chance of being at the office or school in each meal slot of a working day."""


@dataclass(frozen=True)
class World:
    """Everything that is fixed before the first request."""

    config: CityConfig
    seed: int
    geography: Geography
    days: Calendar
    weather: Weather
    kitchen: Kitchen
    places: Places
    users: Users
    trips: Trips


@dataclass(frozen=True)
class Scenes:
    """Requests in the order of time; an array of length R for each field."""

    user_R: Ints
    time_R: np.ndarray[tuple[int], np.dtype[np.datetime64]]
    day_R: Floats
    """Days since the first day of the history, with the fraction of the day."""
    slot_R: Ints
    city_R: Ints
    area_R: Ints
    x_R: Floats
    y_R: Floats
    kind_R: Ints
    away_R: Bools
    free_R: Bools
    weather_R: Ints
    temperature_R: Floats

    @property
    def count(self) -> int:
        """Number of requests."""
        return int(self.user_R.size)

    def part(self, rows: slice | Ints) -> Scenes:
        """Some of the requests."""
        return replace(self, **{f.name: getattr(self, f.name)[rows] for f in fields(self)})


def make_world(config: CityConfig, seed: int) -> World:
    """Draws the country, its places and its people."""
    streams = [np.random.default_rng([seed, 0, stream]) for stream in range(4)]
    land = geography(config, knowledge.cities(), knowledge.regions(), streams[0])
    days = calendar(config)
    kitchen = make_kitchen(knowledge.dishes(), land)
    return World(
        config=config,
        seed=seed,
        geography=land,
        days=days,
        weather=weather(land, days, streams[1]),
        kitchen=kitchen,
        places=make_places(config, land, days, kitchen, streams[2]),
        users=make_users(config, land, days, kitchen.origins, streams[3]),
        trips=make_trips(land, seed * 10 + 1),
    )


def day_weights(world: World) -> Floats:
    """How busy each day is: weekends more, holidays a little less."""
    weekday = [DAY_WEIGHTS[day.weekday()] for day in world.days.dates]
    return np.array(weekday) * np.where(world.days.holiday_D, 0.97, 1.0)


def draw_scenes(world: World, day: int, requests: int, rng: np.random.Generator) -> Scenes:
    """The requests of one day, sorted by time."""
    users, free = world.users, bool(world.days.free_D[day])
    user_R = _askers(users, day, requests, rng)
    slot_R = _slots(users, user_R, free, rng)
    hour_R = _hours(slot_R, rng)
    late_R = users.joined_day_U[user_R] > day + hour_R / 24
    user_R[late_R] = _askers(users, day, int(late_R.sum()), rng, before=True)
    order_R = np.argsort(hour_R, kind="stable")
    user_R, slot_R, hour_R = user_R[order_R], slot_R[order_R], hour_R[order_R]
    city_R, family_R = world.trips.city(users, world.days, day, user_R)
    away_R = city_R != users.city_U[user_R]
    kind_R = _kinds(users.role_U[user_R], slot_R, away_R & ~family_R, free, rng)
    area_R, x_R, y_R = _positions(world, day, user_R, city_R, kind_R, rng=rng)
    block_R = np.minimum(hour_R, 23.9).astype(np.int64) // BLOCK_HOURS
    micro_R = (hour_R * US_PER_HOUR).astype(np.int64) // 1_000_000 * 1_000_000
    return Scenes(
        user_R=user_R,
        time_R=world.days.midnight(day) + micro_R.astype("timedelta64[us]"),
        day_R=day + hour_R / 24,
        slot_R=slot_R,
        city_R=city_R,
        area_R=area_R,
        x_R=x_R,
        y_R=y_R,
        kind_R=kind_R,
        away_R=away_R,
        free_R=np.full(requests, free),
        weather_R=world.weather.kind_CDB[city_R, day, block_R],
        temperature_R=world.weather.temperature_CDB[city_R, day, block_R],
    )


def _askers(
    users: Users, day: int, requests: int, rng: np.random.Generator, *, before: bool = False
) -> Ints:
    """Users by their activity; those who joined today are three times as active."""
    weight_U = users.activity_U * (users.joined_day_U < day + (0 if before else 1))
    weight_U *= np.where(users.joined_day_U >= day, 3.0, 1.0)
    cumulative_U = weight_U.cumsum()
    draw_R = rng.random(requests) * cumulative_U[-1]
    user_R: Ints = np.minimum(np.searchsorted(cumulative_U, draw_R, side="right"), users.count - 1)
    return user_R


def _slots(users: Users, user_R: Ints, free: bool, rng: np.random.Generator) -> Ints:
    common_S = np.array(SLOT_WEIGHTS_FREE if free else SLOT_WEIGHTS, np.float32)
    cumulative_RS = (users.slot_weight_US[user_R] * common_S).cumsum(axis=1)
    draw_R1 = (rng.random(user_R.size) * cumulative_RS[:, -1])[:, None]
    slot_R: Ints = np.minimum((cumulative_RS <= draw_R1).sum(axis=1), len(SLOTS) - 1)
    return slot_R


def _hours(slot_R: Ints, rng: np.random.Generator) -> Floats:
    """Hours of the date; the small hours belong to the same date's beginning."""
    first_S, last_S = np.array(SLOT_HOURS).T
    peak_S, spread_S = np.array(SLOT_PEAKS), np.array(SLOT_SPREADS_HOURS)
    draw_R = peak_S[slot_R] + spread_S[slot_R] * rng.standard_normal(slot_R.size)
    width_R = (last_S - first_S)[slot_R]
    hour_R: Floats = first_S[slot_R] + np.mod(draw_R - first_S[slot_R], width_R)
    return np.mod(hour_R, 24.0)


def _kinds(
    role_R: Ints, slot_R: Ints, guest_R: Bools, free: bool, rng: np.random.Generator
) -> Ints:
    work_R = rng.random(role_R.size) < np.array(AT_WORK)[slot_R] * (0.12 if free else 1.0)
    kind_R = np.full(role_R.size, KINDS.index("home"))
    kind_R[work_R & (role_R == OFFICE)] = KINDS.index("office")
    kind_R[work_R & (role_R == SCHOOL)] = KINDS.index("school")
    out_R = rng.random(role_R.size) < (0.10 if free else 0.06)
    kind_R[out_R] = _choice(OUT_KINDS, OUT_SHARES, int(out_R.sum()), rng)
    kind_R[guest_R] = _choice(AWAY_KINDS, AWAY_SHARES, int(guest_R.sum()), rng)
    return kind_R


def _choice(
    names: tuple[str, ...], shares: tuple[float, ...], count: int, rng: np.random.Generator
) -> Ints:
    return rng.choice([KINDS.index(name) for name in names], count, p=shares)


def _positions(
    world: World,
    day: int,
    user_R: Ints,
    city_R: Ints,
    kind_R: Ints,
    *,
    rng: np.random.Generator,
) -> tuple[Ints, Floats, Floats]:
    """District and kilometres from the centre; a traveller sleeps in one place for a trip."""
    land, users, block = world.geography, world.users, int(world.days.block_D[day])
    where_R = hash_uniform(user_R, block, world.seed * 10 + 5)
    away_R = city_R != users.city_U[user_R]
    out_R = ~np.isin(kind_R, [KINDS.index(name) for name in ("home", "hotel")])
    where_R = np.where(out_R, rng.random(user_R.size), where_R)
    area_R = land.any_area(city_R, where_R)
    noise_R2 = 0.6 * rng.standard_normal((user_R.size, 2))
    x_R = land.area_x_N[area_R] + noise_R2[:, 0]
    y_R = land.area_y_N[area_R] + noise_R2[:, 1]
    home_R = ~away_R & (kind_R == KINDS.index("home"))
    work_R = (
        ~away_R
        & ((kind_R == KINDS.index("office")) | (kind_R == KINDS.index("school")))
        & (users.role_U[user_R] > 0)
    )
    area_R = np.where(home_R, users.area_U[user_R], area_R)
    area_R = np.where(work_R, users.work_area_U[user_R], area_R)
    x_R = np.where(home_R, users.x_U[user_R], np.where(work_R, users.work_x_U[user_R], x_R))
    y_R = np.where(home_R, users.y_U[user_R], np.where(work_R, users.work_y_U[user_R], y_R))
    return area_R, x_R.astype(np.float32), y_R.astype(np.float32)


def scene_features(scenes: Scenes) -> Floats:
    """The strength of each entry of `SCENE_EFFECTS` in each request, shape (R, E)."""
    slot = {name: (scenes.slot_R == i).astype(np.float32) for i, name in enumerate(SLOTS)}
    kind = {name: (scenes.kind_R == i).astype(np.float32) for i, name in enumerate(KINDS)}
    heat_R = np.clip((scenes.temperature_R - 18) / 10, 0, 1.6)
    chill_R = np.clip((13 - scenes.temperature_R) / 11, 0, 2.0)
    weather_R, free_R = scenes.weather_R, scenes.free_R.astype(np.float32)
    strength = slot | {
        "heat": heat_R,
        "chill": chill_R,
        "heat in the afternoon": heat_R * slot["afternoon"],
        "chill in the evening": chill_R * (slot["dinner"] + slot["late night"]),
        "rain": (weather_R == RAIN) + 1.0 * (weather_R == HEAVY_RAIN),
        "heavy rain": weather_R == HEAVY_RAIN,
        "snow": weather_R == SNOW,
        "windy": weather_R == WINDY,
        "hospital": kind["hospital"],
        "office at lunch": kind["office"] * slot["lunch"],
        "office in the afternoon": kind["office"] * slot["afternoon"],
        "school": kind["school"],
        "station": kind["station"],
        "hotel at night": kind["hotel"] * slot["late night"],
        "mall": kind["mall"],
        "weekend dinner": free_R * slot["dinner"],
        "weekend morning": free_R * slot["breakfast"],
    }
    return np.stack([strength[name] for name in SCENE_EFFECTS], axis=1).astype(np.float32)


def kilometres(world: World, scenes: Scenes, place_RK: Ints) -> Floats:
    """Distance by road."""
    east_RK = world.places.x_P[place_RK] - scenes.x_R[:, None]
    north_RK = world.places.y_P[place_RK] - scenes.y_R[:, None]
    return np.maximum(ROAD * np.hypot(east_RK, north_RK), np.float32(0.1))


def expose(world: World, scenes: Scenes, rng: np.random.Generator) -> Ints:
    """The places that the platform shows, best first; -1 where it has no more. Shape (R, K).

    The ranker is an older one: it knows how popular a place is, how far, roughly which
    categories the user and the hour like, and errs. A new place is pushed for a week.
    """
    places = world.places
    place_RM = _recall(world, scenes, rng)
    score_RM = 0.9 * places.popularity_P[place_RM]
    score_RM -= 0.45 * kilometres(world, scenes, place_RM)
    score_RM += np.take_along_axis(
        _category_guess(world, scenes), places.category_P[place_RM], axis=1
    )
    score_RM += 0.9 * rng.standard_normal(score_RM.shape, dtype=np.float32)
    closed_RM = ~places.open_PS[place_RM, scenes.slot_R[:, None]]
    age_RM = scenes.day_R[:, None] - places.opened_day_P[place_RM]
    closed_RM |= age_RM < 0
    score_RM[age_RM < NEW_DAYS] += NEW_BOOST
    score_RM[closed_RM | (place_RM < 0)] = -np.inf
    shown = min(world.config.candidates, score_RM.shape[1])
    top_RK = np.argpartition(-score_RM, shown - 1, axis=1)[:, :shown]
    top_score_RK = np.take_along_axis(score_RM, top_RK, axis=1)
    order_RK = np.argsort(-top_score_RK, axis=1, kind="stable")
    best_RK = np.take_along_axis(np.take_along_axis(place_RM, top_RK, axis=1), order_RK, axis=1)
    found_RK = np.isfinite(np.take_along_axis(top_score_RK, order_RK, axis=1))
    return np.where(found_RK, best_RK, -1)


def _recall(world: World, scenes: Scenes, rng: np.random.Generator) -> Ints:
    pool_NM = world.places.pool_NM
    size_R = (pool_NM >= 0).sum(axis=1)[scenes.area_R]
    offset_R = np.where(size_R > RECALL, rng.integers(0, 2**31, scenes.count) % size_R, 0)
    column_RM = offset_R[:, None] + np.arange(min(RECALL, pool_NM.shape[1]))
    big_R1 = (size_R > RECALL)[:, None]
    column_RM = np.where(big_R1, column_RM % size_R[:, None], column_RM)
    place_RM: Ints = pool_NM[scenes.area_R[:, None], column_RM]
    return place_RM


def _category_guess(world: World, scenes: Scenes) -> Floats:
    """What the old ranker thinks of each category for the user at that hour, shape (R, T)."""
    mean_TA = world.places.typical_TA
    taste_RT = world.users.taste_UA[scenes.user_R] @ mean_TA.T
    slots_SA = matrix({name: SCENE_EFFECTS[name] for name in SLOTS})
    hour_ST = slots_SA @ mean_TA[:, : len(ATTRIBUTES)].T
    guess_RT: Floats = 0.14 * taste_RT + 0.16 * hour_ST[scenes.slot_R]
    return guess_RT
