"""The users: origin and home, tastes, meals and trips. Arrays as in `effects.py`."""

from __future__ import annotations

import numpy as np

from larr_lab.city.days import Calendar
from larr_lab.city.draws import hash_uniform, weighted_index
from larr_lab.city.effects import ATTRIBUTES, BREAKFAST, EFFECTS, LATE_NIGHT, SLOTS, Array, matrix
from larr_lab.city.geography import Geography
from larr_lab.settings import CityConfig

GENDERS = ("female", "male")
AGE_BANDS = ("18-24", "25-34", "35-44", "45-54", "55+")
# For each age band, youngest first. The users of a delivery app are mostly young; the young order
# late, the old early; students and pensioners have less to spend.
AGE_SHARES = (0.27, 0.38, 0.20, 0.10, 0.05)
AGE_BUDGET = (-0.18, 0.08, 0.12, 0.02, -0.10)
"""Mean of `Users.budget_U`."""
AGE_AT_HOME = (0.25, 0.2, 0.25, 0.3, 0.75)
"""Share with neither an office nor a school."""
AGE_BREAKFASTS = (0.7, 0.9, 1.1, 1.3, 1.5)
AGE_LATE_NIGHTS = (1.4, 1.2, 0.8, 0.6, 0.3)
"""Factors on the orders at these meals."""
YOUNG_WORKERS = 0.35
"""Share of the 18-24 age band who work instead of studying."""
NO_WORK, OFFICE, SCHOOL = range(3)

NEW_USERS_A_DAY = 0.012
"""Share of the users who join on each day of the log, so that the test has cold users."""
STAYED_SHARE = 0.75
TRAVEL_SHARE = 0.055
"""Share of the users away from home in an ordinary block of days."""
HOLIDAY_TRAVEL = 2.4
"""Factor on `TRAVEL_SHARE` in a holiday."""
GO_HOME = 0.5
"""Share of the holiday travellers raised in another region who visit that region."""

# The raw taste of a user is a sum; over random places 31 % of its variance is due to the regions,
# 19 % to the group and 50 % to the person.
LIKING = 0.28
"""Raw taste for each point of preference in regions.csv."""
GROUP = 0.75
"""Factor on the preferences of gender and age band."""
TASTE_OF_HOME = 0.7
TASTE_OF_RESIDENCE = 0.3
"""Raw taste for dishes from the region of childhood, and from the region of residence."""
STRONG = 1.25
"""Mean raw strength of a strong personal like or dislike."""


class Users:
    """Latent and visible attributes of all users."""

    def __init__(
        self,
        config: CityConfig,
        land: Geography,
        days: Calendar,
        origins: list[str],
        rng: np.random.Generator,
    ) -> None:
        """Draws all users; `origins` of dishes are the last columns of a taste."""
        self.count = count = config.users
        self.city_U = rng.choice(land.weight_C.size, count, p=land.weight_C)
        self.age_U = age_U = rng.choice(len(AGE_BANDS), count, p=AGE_SHARES)
        self.gender_U = rng.integers(0, 2, count)
        # Users who moved may come from any region; 0.01 includes regions without a city here.
        weight_G = np.bincount(land.region_C, land.weight_C, len(land.region_names)) + 0.01
        other_U = rng.choice(weight_G.size, count, p=weight_G / weight_G.sum())
        stays_U = rng.random(count) < STAYED_SHARE
        self.native_region_U = np.where(stays_U, land.region_C[self.city_U], other_U)
        """The region of childhood."""
        self.taste_UA = self._tastes(land, origins, rng)
        """Liking for a standard deviation more of an attribute or origin on the menu."""
        habits = [
            [ATTRIBUTES.index(name) for name in names] for names in EFFECTS["habits"].values()
        ]
        columns = [np.array(names)[rng.integers(0, len(names), count)] for names in habits]
        self.habit_US = np.stack(columns, axis=1)
        """The attribute of the user's habit at each meal."""
        strength_US = np.clip(rng.normal(0.8, 0.5, (count, len(SLOTS))), 0, 2.0)
        self.habit_strength_US = strength_US.astype(np.float32)
        self.area_U = land.any_area(self.city_U, rng.random(count))
        self.work_area_U = land.any_area(self.city_U, rng.random(count))
        role_U = np.where(age_U == 0, SCHOOL, OFFICE)
        role_U[rng.random(count) < np.array(AGE_AT_HOME)[age_U]] = NO_WORK
        role_U[(age_U == 0) & (rng.random(count) < YOUNG_WORKERS)] = OFFICE
        self.role_U = role_U
        """NO_WORK, OFFICE or SCHOOL."""
        self.slot_weight_US = rng.gamma(2.0, 0.5, (count, len(SLOTS))).astype(np.float32)
        """Number of orders at each meal relative to other users."""
        self.slot_weight_US[:, BREAKFAST] *= np.array(AGE_BREAKFASTS, np.float32)[age_U]
        self.slot_weight_US[:, LATE_NIGHT] *= np.array(AGE_LATE_NIGHTS, np.float32)[age_U]

        def scattered(area_x_U: Array, km: float) -> Array:
            return area_x_U + km * rng.standard_normal(count, dtype=np.float32)

        self.x_U = scattered(land.area_x_N[self.area_U], 0.9)
        self.y_U = scattered(land.area_y_N[self.area_U], 0.9)
        """Home address: kilometres east and north of the city's centre."""
        self.work_x_U = scattered(land.area_x_N[self.work_area_U], 0.6)
        self.work_y_U = scattered(land.area_y_N[self.work_area_U], 0.6)
        budget_U = np.array(AGE_BUDGET)[age_U] + rng.normal(0, 0.35, count)
        self.budget_U = budget_U.astype(np.float32)
        """Log of the price that suits the user, relative to the usual price."""
        self.activity_U = rng.lognormal(0, 0.8, count)
        """Number of requests relative to other users."""
        self.propensity_U = rng.standard_normal(count, dtype=np.float32)
        """Readiness to click, standard normal."""
        self.travel_U = rng.gamma(1.0, 1.0, count).astype(np.float32)
        """Factor on the share of days away from home."""
        log_days = config.train_days + 1
        new_U = rng.random(count) < NEW_USERS_A_DAY * log_days
        early_U = days.history_days - rng.exponential(500.0, count)
        late_U = days.history_days + rng.integers(0, log_days, count)
        # Users who join during the log do so between 6:29 and 21:36.
        self.joined_day_U = np.where(new_U, late_U + rng.uniform(0.27, 0.9, count), early_U)
        """Days since the first day of the history; negative for users who joined before it."""

    def _tastes(self, land: Geography, origins: list[str], rng: np.random.Generator) -> Array:
        """Returns raw tastes, (U, A): the sum of personal, group and regional tastes."""
        # Each person has three to five strong likes and dislikes, so that a few orders reveal
        # them, and is nearly indifferent to the rest.
        count, plain = self.count, len(ATTRIBUTES)
        taste_UA = 0.12 * rng.standard_normal((count, plain + len(origins)), dtype=np.float32)
        strong_U = rng.integers(3, 6, count)
        for turn in range(5):
            users_U = np.flatnonzero(strong_U > turn)
            which_U = rng.integers(0, plain + len(origins), users_U.size)
            sign_U = np.where(rng.random(users_U.size) < 0.6, 1.0, -1.0)
            taste_UA[users_U, which_U] += sign_U * rng.normal(STRONG, 0.35, users_U.size)

        people_EA = matrix(EFFECTS["people"])
        group_UA = GROUP * (people_EA[self.gender_U] + people_EA[len(GENDERS) + self.age_U])
        likings_GA = np.zeros((len(land.region_names), plain), np.float32)
        for column in land.regions.columns:
            attribute = "drink" if column == "tea_drinks" else column
            if attribute in ATTRIBUTES:
                liking_G = land.regions[column].to_numpy()
                likings_GA[:, ATTRIBUTES.index(attribute)] = LIKING * liking_G
        taste_UA[:, :plain] += likings_GA[self.native_region_U] + group_UA

        # The first origins are the regions, in the same order.
        users = np.arange(count)
        taste_UA[users, plain + self.native_region_U] += TASTE_OF_HOME
        taste_UA[users, plain + land.region_C[self.city_U]] += TASTE_OF_RESIDENCE
        return taste_UA


class Trips:
    """The city of each user in a block of days, computed by hashing so that nothing is stored."""

    def __init__(self, land: Geography, seed: int) -> None:
        self.seed, self.region_C = seed, land.region_C
        # People prefer large, famous and nearby cities.
        charm_C = (0.2 + land.cities["tourism"].to_numpy() ** 2) * np.sqrt(land.weight_C)
        weight_CC = charm_C * np.exp(-(111 * land.distance_CC) / 700)  # halves in about 500 km
        if land.weight_C.size > 1:
            np.fill_diagonal(weight_CC, 0.0)
        self.destination_CC = weight_CC.cumsum(axis=1)
        """Cumulative weight of the destinations from each city."""
        weight_GC = np.zeros((len(land.region_names), land.weight_C.size))
        weight_GC[land.region_C, np.arange(land.weight_C.size)] = land.weight_C
        self.region_GC = weight_GC.cumsum(axis=1)
        """Cumulative weight of the cities of each region."""

    def city(self, users: Users, days: Calendar, day: int, user_R: Array) -> tuple[Array, Array]:
        """Returns the city of each user, and whether the user visits relatives there."""
        block, holiday = int(days.block_D[day]), bool(days.holiday_D[day])
        share = TRAVEL_SHARE * (HOLIDAY_TRAVEL if holiday else 1.0)
        city_R, family_R = users.city_U[user_R], np.zeros(user_R.size, np.bool_)
        leaves_R = hash_uniform(user_R, block, self.seed) < share * users.travel_U[user_R]
        rows_L = np.flatnonzero(leaves_R)
        user_L = user_R[rows_L]
        home_L, native_L = city_R[rows_L], users.native_region_U[user_L]
        where_L = hash_uniform(user_L, block, self.seed + 1)
        moved_L = (native_L != self.region_C[home_L]) & (self.region_GC[native_L, -1] > 0)
        family_L = moved_L & holiday & (hash_uniform(user_L, block, self.seed + 2) < GO_HOME)
        trip_L = weighted_index(self.destination_CC[home_L], where_L)
        visit_L = weighted_index(self.region_GC[native_L], where_L)
        city_R[rows_L] = np.where(family_L, visit_L, trip_L)
        family_R[rows_L] = family_L
        return city_R, family_R
