"""Requests: the user, time, location and weather of each visit. Arrays as in `effects.py`."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np

from larr_lab.city.days import BLOCK_HOURS
from larr_lab.city.draws import hash_uniform, weighted_index
from larr_lab.city.effects import KINDS, Array
from larr_lab.city.people import NO_WORK, OFFICE, SCHOOL, Users
from larr_lab.city.world import World

# For each meal, breakfast first. Two thirds of the orders are for lunch and dinner; on free days
# people get up late, which moves requests from breakfast to the afternoon.
SLOT_HOURS = ((6.0, 10.0), (10.5, 14.0), (14.0, 17.0), (17.0, 20.5), (20.5, 25.5))
"""First and last hour; hours from 24 on are the early hours of the same date."""
SLOT_PEAKS = (7.9, 12.0, 15.3, 18.5, 22.0)
SLOT_SPREADS_HOURS = (0.9, 0.8, 0.8, 0.9, 1.1)
SLOT_SHARES = (0.10, 0.36, 0.11, 0.31, 0.12)
SLOT_SHARES_FREE = (0.06, 0.31, 0.16, 0.32, 0.15)
"""Share of the requests on a working day, and on a weekend or holiday."""
AT_WORK = (0.30, 0.80, 0.80, 0.22, 0.05)
"""Probability of being at the office or school on a working day."""
AT_WORK_FREE = 0.12
"""Factor on `AT_WORK` on a free day."""
OUT, OUT_FREE = 0.06, 0.10
"""Probability of being neither at home nor at work, on a working day and on a free day."""
OUT_KINDS = {"mall": 0.48, "hospital": 0.22, "station": 0.22, "school": 0.08}
AWAY_KINDS = {
    "hotel": 0.58,
    "station": 0.11,
    "scenic spot": 0.15,
    "office": 0.10,
    "mall": 0.05,
    "hospital": 0.01,
}
"""Locations of users who are out, and of travellers who do not visit relatives."""
NEWCOMER_ACTIVITY = 3.0
"""Factor on the activity of a user on the day of joining."""
US_PER_HOUR = 3_600_000_000
HOME, HOTEL, AT_OFFICE, AT_SCHOOL = (
    KINDS.index(kind) for kind in ("home", "hotel", "office", "school")
)


@dataclass(frozen=True)
class Scenes:
    """Requests in time order; each field is an array of length R."""

    user_R: Array
    time_R: Array
    """numpy.datetime64."""
    day_R: Array
    """Days since the first day of the history, with the fraction of the day."""
    slot_R: Array
    city_R: Array
    area_R: Array
    x_R: Array
    y_R: Array
    kind_R: Array
    away_R: Array
    free_R: Array
    weather_R: Array
    temperature_R: Array

    @property
    def count(self) -> int:
        """Number of requests."""
        return int(self.user_R.size)

    def part(self, rows: slice | Array) -> Scenes:
        """Returns the selected requests."""
        return replace(self, **{f.name: getattr(self, f.name)[rows] for f in fields(self)})


def draw_scenes(world: World, day: int, requests: int, rng: np.random.Generator) -> Scenes:
    """Draws the requests of one day, sorted by time."""
    users, free = world.users, bool(world.days.free_D[day])
    user_R = _active_users(users, day, requests, rng)
    shares_S = np.array(SLOT_SHARES_FREE if free else SLOT_SHARES, np.float32)
    cumulative_RS = (users.slot_weight_US[user_R] * shares_S).cumsum(axis=1)
    slot_R = weighted_index(cumulative_RS, rng.random(requests))
    hour_R = _hours(slot_R, rng)
    # Replace users whose request would precede their joining by users who joined before that day.
    early_R = users.joined_day_U[user_R] > day + hour_R / 24
    user_R[early_R] = _active_users(users, day, int(early_R.sum()), rng, joined_before=True)
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


def _active_users(
    users: Users,
    day: int,
    requests: int,
    rng: np.random.Generator,
    *,
    joined_before: bool = False,
) -> Array:
    """Draws users in proportion to their activity, among those who joined by the end of the day."""
    weight_U = users.activity_U * (users.joined_day_U < day + (0 if joined_before else 1))
    weight_U *= np.where(users.joined_day_U >= day, NEWCOMER_ACTIVITY, 1.0)
    cumulative_U = weight_U.cumsum()
    draw_R = rng.random(requests) * cumulative_U[-1]
    return np.minimum(np.searchsorted(cumulative_U, draw_R, side="right"), users.count - 1)


def _hours(slot_R: Array, rng: np.random.Generator) -> Array:
    """Returns hours of the date, 0 to 24; what falls outside a meal's hours wraps around."""
    first_S, last_S = np.array(SLOT_HOURS).T
    peak_S, spread_S = np.array(SLOT_PEAKS), np.array(SLOT_SPREADS_HOURS)
    draw_R = peak_S[slot_R] + spread_S[slot_R] * rng.standard_normal(slot_R.size)
    width_R = (last_S - first_S)[slot_R]
    hour_R = first_S[slot_R] + np.mod(draw_R - first_S[slot_R], width_R)
    return np.mod(hour_R, 24.0)


def _kinds(
    role_R: Array, slot_R: Array, guest_R: Array, free: bool, rng: np.random.Generator
) -> Array:
    """Returns the kind of place of each request; `guest_R`: travellers not visiting relatives."""
    factor = AT_WORK_FREE if free else 1.0
    work_R = rng.random(role_R.size) < np.array(AT_WORK)[slot_R] * factor
    kind_R = np.full(role_R.size, HOME)
    kind_R[work_R & (role_R == OFFICE)] = AT_OFFICE
    kind_R[work_R & (role_R == SCHOOL)] = AT_SCHOOL
    out_R = rng.random(role_R.size) < (OUT_FREE if free else OUT)
    for rows_R, shares in ((out_R, OUT_KINDS), (guest_R, AWAY_KINDS)):
        numbers = [KINDS.index(name) for name in shares]
        kind_R[rows_R] = rng.choice(numbers, int(rows_R.sum()), p=list(shares.values()))
    return kind_R


def _positions(
    world: World,
    day: int,
    user_R: Array,
    city_R: Array,
    kind_R: Array,
    *,
    rng: np.random.Generator,
) -> tuple[Array, Array, Array]:
    """Returns the district and the kilometres from the centre (x, y).

    At home and at work this is the user's address. Travellers keep one hotel for a trip: a hash of
    user and block determines its district. Elsewhere the district is random.
    """
    land, users, block = world.geography, world.users, int(world.days.block_D[day])
    away_R = city_R != users.city_U[user_R]
    hotel_R = hash_uniform(user_R, block, world.seed * 10 + 5)
    anywhere_R = rng.random(user_R.size)
    area_R = land.any_area(city_R, np.where(np.isin(kind_R, [HOME, HOTEL]), hotel_R, anywhere_R))
    noise_R2 = 0.6 * rng.standard_normal((user_R.size, 2))
    x_R = land.area_x_N[area_R] + noise_R2[:, 0]
    y_R = land.area_y_N[area_R] + noise_R2[:, 1]
    has_work_R = users.role_U[user_R] != NO_WORK
    home_R = ~away_R & (kind_R == HOME)
    work_R = ~away_R & np.isin(kind_R, [AT_OFFICE, AT_SCHOOL]) & has_work_R
    home = (users.area_U, users.x_U, users.y_U)
    work = (users.work_area_U, users.work_x_U, users.work_y_U)
    for rows_R, (area_U, x_U, y_U) in ((home_R, home), (work_R, work)):
        who = user_R[rows_R]
        area_R[rows_R], x_R[rows_R], y_R[rows_R] = area_U[who], x_U[who], y_U[who]
    return area_R, x_R.astype(np.float32), y_R.astype(np.float32)
