"""The places shown, and the probabilities of clicks and orders. Arrays as in `effects.py`.

An older ranker chooses the places shown from those nearby.

The logits of a click, and of an order after it, are sums of parts. A pilot of requests in the same
world scales each part to its share of the variance and finds the intercept. The parts and shares
are assumptions, because no public log has the columns to fit them. They follow common reports on
food delivery: taste matters most, then the moment; people look at the first positions, nearby
places and ratings; at the checkout the price matters more, and only there do waiting time and fee
matter.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from larr_lab.city.days import HEAVY_RAIN, RAIN, SNOW, WINDY
from larr_lab.city.draws import hash_uniform
from larr_lab.city.effects import ATTRIBUTES, BREAKFAST, EFFECTS, KINDS, LUNCH, SLOTS, Array, matrix
from larr_lab.city.requests import Scenes, draw_scenes
from larr_lab.city.world import World

RECALL = 160
"""Places that the platform considers for one request."""
NEW_DAYS, NEW_BOOST = 7, 0.6
"""Days for which a place counts as new, and the score added to it in that time."""
KM_BY_ROAD = 1.3
"""Road distance over straight-line distance, a typical ratio in street grids."""

CLICK_RATE, ORDER_RATE = 0.07, 0.17
"""Mean rate of clicks per impression, and of orders per click."""
CLICK_SD, ORDER_SD = 1.2, 0.9
"""Standard deviation of the logits over impressions, if their parts were independent.

With 1.2 the true probabilities have an AUC of .80, the limit of any ranker.
"""
CLICK_SHARES = {
    "taste": 0.37,
    "scene": 0.23,
    "position": 0.12,
    "distance": 0.07,
    "quality": 0.06,
    "affinity": 0.06,
    "intent": 0.05,
    "price": 0.04,
}
ORDER_SHARES = {
    "taste": 0.26,
    "scene": 0.15,
    "price": 0.19,
    "wait": 0.11,
    "intent": 0.06,
    "fee": 0.09,
    "quality": 0.08,
    "affinity": 0.06,
}
"""Share of each part in the variance of the logit of a click, and of an order after a click."""

LOCAL_WEIGHT = 2.5
"""A traveller's liking for a standard deviation more of local dishes on the menu."""
SLOT_INTENT = (0.15, 0.30, -0.35, 0.15, -0.15)
"""Readiness to click at each meal: people are hungry at noon and browse in the afternoon."""
BAD_WEATHER_INTENT = 0.3
"""Additional readiness in rain and snow, when people stay in."""
PERSONAL_INTENT = 0.25
"""Standard deviation of the readiness between people."""
PEAK_MINUTES = (0.0, 6.0, 0.0, 5.0, 0.0)
"""Additional minutes of waiting at busy meals."""
PILOT_REQUESTS = 6_000
"""Requests of the pilot, over all days of the log."""


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


class Offer(NamedTuple):
    """Delivery details of the places shown, shape (R, K) each."""

    distance_km_RK: Array
    minutes_RK: Array
    fee_yuan_RK: Array


class Logit:
    """A sum of parts, with the intercept and scales fitted to the pilot."""

    def __init__(
        self,
        pilot: dict[str, Array],
        shares: dict[str, float],
        sd: float,
        rate: float,
        weight_I: Array,
    ) -> None:
        """Scales the parts to these shares of the variance, and the mean probability to `rate`."""
        weight_I = weight_I / weight_I.sum()
        self.means = {name: float(weight_I @ pilot[name]) for name in shares}
        self.scales = {}
        for name, share in shares.items():
            spread = float(np.sqrt(weight_I @ (pilot[name] - self.means[name]) ** 2))
            self.scales[name] = sd * share**0.5 / max(spread, 1e-6)
        low, high = -12.0, 6.0
        for _ in range(40):  # bisection: the mean rises with the intercept
            self.intercept = (low + high) / 2
            mean = float(weight_I @ sigmoid(self(pilot)))
            low, high = (self.intercept, high) if mean < rate else (low, self.intercept)

    def __call__(self, parts: dict[str, Array]) -> Array:
        """Returns the logit of each row."""
        total = np.full(np.shape(parts["taste"]), self.intercept, np.float64)
        for name, scale in self.scales.items():
            total += scale * (parts[name] - self.means[name])
        return total


class Model:
    """The logits of a click, and of an order after a click."""

    def __init__(self, world: World) -> None:
        """Fits both logits to a pilot of requests on all days of the log."""
        self.world = world
        rng = np.random.default_rng([world.seed, 1])
        weight_D = world.days.weight_D[world.days.history_days :]
        count_D = np.round(PILOT_REQUESTS * weight_D / weight_D.sum()).astype(int)
        columns: dict[str, list[Array]] = {}
        for day, requests in enumerate(count_D.tolist(), world.days.history_days):
            scenes = draw_scenes(world, day, requests, rng)
            place_RK = expose(world, scenes, world.config.candidates, rng)
            parts = logit_parts(world, scenes, place_RK, make_offer(world, scenes, place_RK, rng))
            for name, value_RK in parts.items():
                columns.setdefault(name, []).append(value_RK[place_RK >= 0])
        pilot = {name: np.concatenate(values) for name, values in columns.items()}
        every_I = np.ones(pilot["taste"].size)
        self.click = Logit(pilot, CLICK_SHARES, CLICK_SD, CLICK_RATE, every_I)
        # Orders follow clicks: each row is weighted by its probability of a click.
        click_I = sigmoid(self.click(pilot))
        self.order = Logit(pilot, ORDER_SHARES, ORDER_SD, ORDER_RATE, click_I)

    def probabilities(
        self, scenes: Scenes, place_RK: Array, offer: Offer, *, all_first: bool = False
    ) -> tuple[Array, Array]:
        """Returns the probability of a click, and of a click with an order, for places shown.

        With `all_first` as if each were shown at the first position.
        """
        parts = logit_parts(self.world, scenes, place_RK, offer)
        if all_first:
            parts["position"] = np.zeros(place_RK.shape)
        click_RK = sigmoid(self.click(parts))
        return click_RK, click_RK * sigmoid(self.order(parts))


def sigmoid(logit: Array) -> Array:
    """Returns probabilities.

    scipy.special.expit differs in the last bit of 2 % of the values, which would change worlds with
    published figures.
    """
    return 1 / (1 + np.exp(-logit))


def make_offer(world: World, scenes: Scenes, place_RK: Array, rng: np.random.Generator) -> Offer:
    """Returns the distance by road, the promised minutes and the delivery fee.

    A courier needs 3.2 minutes per kilometre, longer in rain; beyond 2.5 km the fee rises.
    """
    places = world.places
    weather_R = scenes.weather_R
    km_RK = np.round(kilometres(world, scenes, place_RK), 2)
    slow_R = 1 + 0.2 * (weather_R == RAIN) + 0.4 * (weather_R >= HEAVY_RAIN)
    minutes_RK = places.prepare_minutes_P[place_RK] + 5 + (3.2 * slow_R)[:, None] * km_RK
    minutes_RK += np.array(PEAK_MINUTES)[scenes.slot_R][:, None]
    minutes_RK += 2.5 * rng.standard_normal(km_RK.shape, dtype=np.float32)
    fee_RK = places.fee_yuan_P[place_RK] + np.maximum(km_RK - 2.5, 0) * 0.7
    fee_RK += (weather_R >= HEAVY_RAIN)[:, None] * 1.0
    return Offer(
        distance_km_RK=km_RK,
        minutes_RK=np.maximum(np.round(minutes_RK), 10),
        fee_yuan_RK=np.round(fee_RK * 2) / 2,
    )


def logit_parts(world: World, scenes: Scenes, place_RK: Array, offer: Offer) -> dict[str, Array]:
    """Returns the unscaled parts of both logits by name, shape (R, K) each."""
    places, users, weather_R = world.places, world.users, scenes.weather_R
    attributes_RKA = places.attributes_PA[place_RK]

    # taste: the person's likes, and the habit at that meal.
    taste_RA = users.taste_UA[scenes.user_R]
    habit_R = users.habit_US[scenes.user_R, scenes.slot_R]
    strength_R = users.habit_strength_US[scenes.user_R, scenes.slot_R]
    taste_RA[np.arange(scenes.count), habit_R] += strength_R
    taste_RK = np.einsum("ra,rka->rk", taste_RA, attributes_RKA)

    # distance: a kilometre matters more in bad weather, when couriers are late, and before work.
    wet_R = 0.3 * (weather_R == RAIN) + 0.7 * (weather_R == HEAVY_RAIN) + 0.5 * (weather_R == SNOW)
    hurry_R = 0.2 * (scenes.slot_R == BREAKFAST) + 0.1 * (scenes.slot_R == LUNCH)

    # affinity: a preference of this person for this place that no column explains; only a ranker
    # that memorises pairs can learn it. A sum of two uniform numbers is closer to a normal one.
    affinity_RK = hash_uniform(scenes.user_R[:, None], place_RK, world.seed * 10 + 7)
    affinity_RK = affinity_RK + hash_uniform(scenes.user_R[:, None], place_RK, world.seed * 10 + 8)

    # position: the odds of a click fall with a power of the position, as in logs of ranked lists.
    # Orders have no such part, because after a click the user sees only the place.
    position_1K = np.arange(1, place_RK.shape[1] + 1)[None, :]

    # quality: as revealed by reviews, and by the displayed rating.
    quality_P = 0.7 * places.quality_P + 0.3 * (places.rating_P - 4.35) / 0.22

    # intent: how hungry the person is, the same for all places of a request.
    intent_R = np.array(SLOT_INTENT)[scenes.slot_R] + BAD_WEATHER_INTENT * (weather_R >= RAIN)
    intent_R += PERSONAL_INTENT * users.propensity_U[scenes.user_R]

    # price: a price above the budget deters; so does, a quarter as much, a suspiciously low one,
    # below two thirds of the budget (exp(-0.4)).
    gap_RK = _price_gap(world, scenes, place_RK)

    # wait: matters most in the lunch break, 70 % as much at other meals.
    patience_R = 0.7 + 0.3 * (scenes.slot_R == LUNCH)
    return {
        "taste": taste_RK,
        "scene": _scene_part(world, scenes, place_RK, attributes_RKA),
        "position": np.broadcast_to(-np.log(position_1K), place_RK.shape),
        "distance": -offer.distance_km_RK * (1 + wet_R + hurry_R)[:, None],
        "quality": quality_P[place_RK],
        "affinity": affinity_RK,
        "intent": np.broadcast_to(intent_R[:, None], place_RK.shape),
        "price": -np.maximum(gap_RK, 0) - 0.25 * np.maximum(-gap_RK - 0.4, 0),
        "wait": -offer.minutes_RK * patience_R[:, None],
        "fee": -offer.fee_yuan_RK,
    }


def _scene_part(world: World, scenes: Scenes, place_RK: Array, attributes_RKA: Array) -> Array:
    """Returns the fit of places to the scene, less the mean of open places, and to travellers.

    Without that mean the part would raise or lower all places of a request by almost the same
    amount: in the morning all open places serve breakfast.
    """
    plain, places = len(ATTRIBUTES), world.places
    wish_RA = scene_strengths(scenes) @ matrix(EFFECTS["scene"])
    wanted_RK = np.einsum("ra,rka->rk", wish_RA, attributes_RKA[:, :, :plain])
    usual_RA = places.usual_SA[scenes.slot_R, :plain]
    wanted_RK -= np.einsum("ra,ra->r", wish_RA, usual_RA)[:, None]
    wanted_RK += LOCAL_WEIGHT * scenes.away_R[:, None] * places.local_P[place_RK]
    return wanted_RK


def scene_strengths(scenes: Scenes) -> Array:
    """Returns the strength of each entry in `[scene]` of effects.toml for each request, (R, E).

    Heat grows above 18 C and chill below 13 C, both up to a limit.
    """
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
    return np.stack([strength[name] for name in EFFECTS["scene"]], axis=1).astype(np.float32)


def _price_gap(world: World, scenes: Scenes, place_RK: Array) -> Array:
    """Returns the log of the price relative to the usual price and the user's budget.

    The usual log price is 60 % the mean of the category and 40 % the mean of all places: people
    compare hotpot with hotpot, but an expensive category stays expensive.
    """
    places = world.places
    log_P = np.log(places.price_yuan_P)
    count_T = np.bincount(places.category_P)
    usual_T = np.bincount(places.category_P, log_P) / np.maximum(count_T, 1)
    gap_P = log_P - 0.6 * usual_T[places.category_P] - 0.4 * log_P.mean()
    return gap_P[place_RK] - world.users.budget_U[scenes.user_R][:, None]
