"""The places shown: an older ranker selects among nearby places. Arrays as in `effects.py`."""

from __future__ import annotations

import numpy as np

from larr_lab.city.effects import ATTRIBUTES, EFFECTS, SLOTS, Array, matrix
from larr_lab.city.requests import Scenes
from larr_lab.city.world import World

RECALL = 160
"""Places that the platform considers for one request."""
NEW_DAYS, NEW_BOOST = 7, 0.6
"""Days for which a place counts as new, and the score added to it in that time."""
KM_BY_ROAD = 1.3
"""Road distance over straight-line distance, a typical ratio in street grids."""


def kilometres(world: World, scenes: Scenes, place_RK: Array) -> Array:
    """Returns the distance by road, at least 100 m."""
    east_RK = world.places.x_P[place_RK] - scenes.x_R[:, None]
    north_RK = world.places.y_P[place_RK] - scenes.y_R[:, None]
    return np.maximum(KM_BY_ROAD * np.hypot(east_RK, north_RK), np.float32(0.1))


def expose(world: World, scenes: Scenes, count: int, rng: np.random.Generator) -> Array:
    """Returns `count` places to show, best first, shape (R, K), padded with -1.

    Simulates an older ranker, so that the log has the selection bias of a real one. It scores
    popularity, distance and, roughly, categories by user and meal, with noise. It ignores weather
    and kind of place, and promotes new places for a week so that users see them.
    """
    places = world.places
    place_RM = _near_places(world, scenes, rng)
    score_RM = 0.9 * places.popularity_P[place_RM]
    score_RM -= 0.45 * kilometres(world, scenes, place_RM)
    # The score of a category: the user's taste for it, and its fit to the meal.
    meals_SA = matrix({name: EFFECTS["scene"][name] for name in SLOTS})
    meal_ST = meals_SA @ places.typical_TA[:, : len(ATTRIBUTES)].T
    taste_RT = world.users.taste_UA[scenes.user_R] @ places.typical_TA.T
    category_RT = 0.14 * taste_RT + 0.16 * meal_ST[scenes.slot_R]
    score_RM += np.take_along_axis(category_RT, places.category_P[place_RM], axis=1)
    score_RM += 0.9 * rng.standard_normal(score_RM.shape, dtype=np.float32)
    age_RM = scenes.day_R[:, None] - places.opened_day_P[place_RM]
    closed_RM = ~places.open_PS[place_RM, scenes.slot_R[:, None]] | (age_RM < 0)
    score_RM[age_RM < NEW_DAYS] += NEW_BOOST
    score_RM[closed_RM | (place_RM < 0)] = -np.inf
    # Select the best K of M by partition, then sort them.
    shown = min(count, score_RM.shape[1])
    top_RK = np.argpartition(-score_RM, shown - 1, axis=1)[:, :shown]
    top_score_RK = np.take_along_axis(score_RM, top_RK, axis=1)
    order_RK = np.argsort(-top_score_RK, axis=1, kind="stable")
    best_RK = np.take_along_axis(np.take_along_axis(place_RM, top_RK, axis=1), order_RK, axis=1)
    is_shown_RK = np.isfinite(np.take_along_axis(top_score_RK, order_RK, axis=1))
    return np.where(is_shown_RK, best_RK, -1)


def _near_places(world: World, scenes: Scenes, rng: np.random.Generator) -> Array:
    """Returns up to `RECALL` places near the district of each request, padded with -1.

    A pool is in random order, so a window with a random start is a random sample.
    """
    pool_NM = world.places.pool_NM
    size_R = (pool_NM >= 0).sum(axis=1)[scenes.area_R]
    start_R = np.where(size_R > RECALL, rng.integers(0, 2**31, scenes.count) % size_R, 0)
    column_RM = start_R[:, None] + np.arange(min(RECALL, pool_NM.shape[1]))
    wraps_R1 = (size_R > RECALL)[:, None]
    column_RM = np.where(wraps_R1, column_RM % size_R[:, None], column_RM)
    return pool_NM[scenes.area_R[:, None], column_RM]
