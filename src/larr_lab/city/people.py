"""The users: where they grew up and live, what they like, when they order, when they travel.

Array names: U users, A attributes and origins, G origins of dishes, S meal slots, C cities,
R requests, L those away.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from larr_lab.city.effects import (
    ATTRIBUTES,
    PEOPLE_EFFECTS,
    REGION_LIKINGS,
    SLOT_HABITS,
    SLOTS,
    Bools,
    Floats,
    Ints,
    matrix,
)
from larr_lab.city.world import Calendar, Geography
from larr_lab.settings import CityConfig

GENDERS = ("female", "male")
AGE_BANDS = ("18-24", "25-34", "35-44", "45-54", "55+")
AGE_WEIGHTS = (0.27, 0.38, 0.20, 0.10, 0.05)
AGE_BUDGET = (-0.18, 0.08, 0.12, 0.02, -0.10)
NO_WORK, OFFICE, SCHOOL = range(3)
NEW_USERS_A_DAY = 0.012
"""Share of the users that join on each day of the log."""
GREW_UP_WHERE_THEY_LIVE = 0.75
TRAVEL_SHARE = 0.055
"""Share of the users away from home in an ordinary block of days."""
HOLIDAY_TRAVEL = 2.4
"""Factor on it in a holiday."""
GO_HOME = 0.5
"""Holiday travellers who live elsewhere than where they grew up and go there."""
LIKING = 0.28
"""Raw taste of a point of liking in regions.csv."""
GROUP = 0.75
"""Factor on `PEOPLE_EFFECTS`."""
TASTE_OF_HOME = 0.7
TASTE_OF_RESIDENCE = 0.3
"""Raw taste for the dishes of the region where one grew up, and where one lives."""
STRONG = 1.25
"""Raw size of a strong like or dislike of one person."""


@dataclass(frozen=True)
class Users:
    """Latent and visible attributes of all users."""

    gender_U: Ints
    age_U: Ints
    city_U: Ints
    area_U: Ints
    x_U: Floats
    y_U: Floats
    role_U: Ints
    """No work outside, an office, or a school."""
    work_area_U: Ints
    work_x_U: Floats
    work_y_U: Floats
    grown_region_U: Ints
    taste_UA: Floats
    habit_US: Ints
    """The attribute that the user is used to in each meal slot."""
    habit_strength_US: Floats
    slot_weight_US: Floats
    budget_U: Floats
    """Logarithm of the price that the user finds right, over the usual price."""
    activity_U: Floats
    propensity_U: Floats
    travel_U: Floats
    """Factor on the share of days away from home."""
    joined_day_U: Floats
    """Days since the first day of the history; negative for the many who joined before."""

    @property
    def count(self) -> int:
        """Number of users."""
        return int(self.city_U.size)


def make_users(
    config: CityConfig,
    world: Geography,
    days: Calendar,
    origins: list[str],
    rng: np.random.Generator,
) -> Users:
    """Draws all users."""
    count = config.users
    city_U = rng.choice(world.weight_C.size, count, p=world.weight_C)
    age_U = rng.choice(len(AGE_BANDS), count, p=AGE_WEIGHTS)
    gender_U = rng.integers(0, 2, count)
    region_U = _grown_region(world, city_U, rng)
    taste_UA = _personal(count, len(ATTRIBUTES) + len(origins), rng)
    taste_UA[:, : len(ATTRIBUTES)] += _of_childhood(world)[region_U] + _of_group(gender_U, age_U)
    own_G = np.array([origins.index(name) for name in world.regions]) + len(ATTRIBUTES)
    taste_UA[np.arange(count), own_G[region_U]] += TASTE_OF_HOME
    taste_UA[np.arange(count), own_G[world.region_C[city_U]]] += TASTE_OF_RESIDENCE
    habit_US, strength_US = _habits(count, rng)
    area_U = world.any_area(city_U, rng.random(count))
    work_area_U = world.any_area(city_U, rng.random(count))
    role_U = np.where(age_U == 0, SCHOOL, OFFICE)
    role_U[rng.random(count) < np.array([0.25, 0.2, 0.25, 0.3, 0.75])[age_U]] = NO_WORK
    role_U[(age_U == 0) & (rng.random(count) < 0.35)] = OFFICE
    slot_weight_US = rng.gamma(2.0, 0.5, (count, len(SLOTS))).astype(np.float32)
    slot_weight_US[:, 0] *= np.array([0.7, 0.9, 1.1, 1.3, 1.5], np.float32)[age_U]
    slot_weight_US[:, 4] *= np.array([1.4, 1.2, 0.8, 0.6, 0.3], np.float32)[age_U]
    return Users(
        gender_U=gender_U,
        age_U=age_U,
        city_U=city_U,
        area_U=area_U,
        x_U=world.area_x_N[area_U] + _offset(count, 0.9, rng),
        y_U=world.area_y_N[area_U] + _offset(count, 0.9, rng),
        role_U=role_U,
        work_area_U=work_area_U,
        work_x_U=world.area_x_N[work_area_U] + _offset(count, 0.6, rng),
        work_y_U=world.area_y_N[work_area_U] + _offset(count, 0.6, rng),
        grown_region_U=region_U,
        taste_UA=taste_UA,
        habit_US=habit_US,
        habit_strength_US=strength_US,
        slot_weight_US=slot_weight_US,
        budget_U=(np.array(AGE_BUDGET)[age_U] + rng.normal(0, 0.35, count)).astype(np.float32),
        activity_U=rng.lognormal(0, 0.8, count),
        propensity_U=rng.standard_normal(count, dtype=np.float32),
        travel_U=rng.gamma(1.0, 1.0, count).astype(np.float32),
        joined_day_U=_joined(config, days, count, rng),
    )


def _offset(count: int, sd_km: float, rng: np.random.Generator) -> Floats:
    return sd_km * rng.standard_normal(count, dtype=np.float32)


def _joined(config: CityConfig, days: Calendar, count: int, rng: np.random.Generator) -> Floats:
    log_days = config.train_days + 1
    new_U = rng.random(count) < NEW_USERS_A_DAY * log_days
    early_U = days.history_days - rng.exponential(500.0, count)
    late_U = days.history_days + rng.integers(0, log_days, count) + rng.uniform(0.27, 0.9, count)
    return np.where(new_U, late_U, early_U)


def _grown_region(world: Geography, city_U: Ints, rng: np.random.Generator) -> Ints:
    weight_G = np.bincount(world.region_C, world.weight_C, len(world.regions)) + 0.01
    other_U = rng.choice(weight_G.size, city_U.size, p=weight_G / weight_G.sum())
    stays_U = rng.random(city_U.size) < GREW_UP_WHERE_THEY_LIVE
    return np.where(stays_U, world.region_C[city_U], other_U)


def _of_childhood(world: Geography) -> Floats:
    """What people who grew up in a region like, shape (G, A without origins)."""
    likings_GA = np.zeros((len(world.regions), len(ATTRIBUTES)), np.float32)
    for column, attribute in REGION_LIKINGS.items():
        liking_G = world.regions_of_china[column].to_numpy()
        likings_GA[:, ATTRIBUTES.index(attribute)] = LIKING * liking_G
    return likings_GA


def _of_group(gender_U: Ints, age_U: Ints) -> Floats:
    people_EA = matrix(PEOPLE_EFFECTS)
    group_UA: Floats = people_EA[gender_U] + people_EA[len(GENDERS) + age_U]
    return GROUP * group_UA


def _personal(count: int, attributes: int, rng: np.random.Generator) -> Floats:
    """Three to five strong likes and dislikes of each person, little about the rest."""
    taste_UA = 0.12 * rng.standard_normal((count, attributes), dtype=np.float32)
    strong_U = rng.integers(3, 6, count)
    for turn in range(5):
        users_U = np.flatnonzero(strong_U > turn)
        which_U = rng.integers(0, attributes, users_U.size)
        sign_U = np.where(rng.random(users_U.size) < 0.6, 1.0, -1.0)
        taste_UA[users_U, which_U] += sign_U * rng.normal(STRONG, 0.35, users_U.size)
    return taste_UA


def _habits(count: int, rng: np.random.Generator) -> tuple[Ints, Floats]:
    columns = []
    for wishes in SLOT_HABITS:
        numbers = np.array([ATTRIBUTES.index(name) for name in wishes])
        columns.append(numbers[rng.integers(0, numbers.size, count)])
    strength_US = np.clip(rng.normal(0.8, 0.5, (count, len(SLOTS))), 0, 2.0)
    return np.stack(columns, axis=1), strength_US.astype(np.float32)


def hash_uniform(one: Ints, two: Ints | int, salt: int) -> Floats:
    """A number in [0, 1) that depends on nothing but its arguments (splitmix64)."""
    with np.errstate(over="ignore"):
        z = np.asarray(one).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = z + np.asarray(two).astype(np.uint64) * np.uint64(0xD1B54A32D192ED03)
        z = z + np.uint64(salt % 2**63) * np.uint64(0x8CB92BA72F3D8DD7)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    uniform: Floats = (z >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return uniform


@dataclass(frozen=True)
class Trips:
    """Who is where in a block of days; a function of user and block, so nothing is stored."""

    seed: int
    home_CC: Floats
    """Cumulative weight of the destinations from each city."""
    region_GC: Floats
    """Cumulative weight of the cities of each region."""

    def city(self, users: Users, days: Calendar, day: int, user_R: Ints) -> tuple[Ints, Bools]:
        """The city that each user is in, and whether relatives are the reason."""
        block, holiday = int(days.block_D[day]), bool(days.holiday_D[day])
        share = TRAVEL_SHARE * (HOLIDAY_TRAVEL if holiday else 1.0)
        city_R, family_R = users.city_U[user_R], np.zeros(user_R.size, np.bool_)
        leaves_R = hash_uniform(user_R, block, self.seed) < share * users.travel_U[user_R]
        rows_L = np.flatnonzero(leaves_R)
        who_L = user_R[rows_L]
        home_L, grown_L = city_R[rows_L], users.grown_region_U[who_L]
        where_L = hash_uniform(who_L, block, self.seed + 1)
        moved_L = (grown_L != self._region(home_L)) & (self.region_GC[grown_L, -1] > 0)
        family_L = moved_L & holiday & (hash_uniform(who_L, block, self.seed + 2) < GO_HOME)
        there_L = _pick(self.home_CC[home_L], where_L)
        back_L = _pick(self.region_GC[grown_L], where_L)
        city_R[rows_L] = np.where(family_L, back_L, there_L)
        family_R[rows_L] = family_L
        return city_R, family_R

    def _region(self, city_R: Ints) -> Ints:
        inside_GC = np.diff(self.region_GC, axis=1, prepend=0.0) > 0
        region_C: Ints = inside_GC.argmax(axis=0)
        return region_C[city_R]


def make_trips(world: Geography, seed: int) -> Trips:
    """Destinations: large, famous and near cities attract more."""
    lat_C, lon_C = world.cities["lat"].to_numpy(), world.cities["lon"].to_numpy()
    far_km_CC = 111 * np.hypot(lat_C[:, None] - lat_C, 0.85 * (lon_C[:, None] - lon_C))
    charm_C = (0.2 + world.cities["tourism"].to_numpy() ** 2) * np.sqrt(world.weight_C)
    home_CC = charm_C * np.exp(-far_km_CC / 700)
    if world.weight_C.size > 1:
        np.fill_diagonal(home_CC, 0.0)
    region_GC = np.zeros((len(world.regions), world.weight_C.size))
    region_GC[world.region_C, np.arange(world.weight_C.size)] = world.weight_C
    return Trips(seed, home_CC.cumsum(axis=1), region_GC.cumsum(axis=1))


def _pick(cumulative_RC: Floats, uniform_R: Floats) -> Ints:
    target_R1 = (uniform_R * cumulative_RC[:, -1])[:, None]
    index_R: Ints = np.minimum((cumulative_RC <= target_R1).sum(axis=1), cumulative_RC.shape[1] - 1)
    return index_R
