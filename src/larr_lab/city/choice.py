"""What makes people click, and what makes them order after a click. Arrays as in `effects.py`.

A logit is a sum of parts, each computed raw. A pilot of requests on the same world scales each part
to its share of the variance and finds the intercept. The parts and their shares are assumptions, as
no public log contains all that they would be fitted to. They follow what is generally reported of
food delivery: taste comes first, then the moment; people look at the first positions, at near
places and at ratings; at the checkout the price counts more, and waiting time and fee count at all.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from larr_lab.city.days import HEAVY_RAIN, RAIN, SNOW, WINDY
from larr_lab.city.draws import hash_uniform
from larr_lab.city.effects import ATTRIBUTES, BREAKFAST, EFFECTS, KINDS, LUNCH, SLOTS, Array, matrix
from larr_lab.city.exposure import expose, kilometres
from larr_lab.city.requests import Scenes, draw_scenes
from larr_lab.city.world import World

CLICK_RATE, ORDER_RATE = 0.07, 0.17
"""Clicks of impressions, and orders of clicks, on average."""
CLICK_SD, ORDER_SD = 1.2, 0.9
"""Standard deviation of the logits over shown rows, if their parts were independent.

With 1.2 the true probabilities have an AUC of .80: the limit of every ranker.
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
"""Share of the variance of the logit of a click, and of an order after a click."""

LOCAL_WEIGHT = 2.5
"""What a traveller adds for a standard deviation more of local dishes on the menu."""
SLOT_INTENT = (0.15, 0.30, -0.35, 0.15, -0.15)
"""How much closer to a click people are at each meal: hungry at noon, browsing in the afternoon."""
BAD_WEATHER_INTENT = 0.3
"""The same in rain and snow, when people stay in."""
PERSONAL_INTENT = 0.25
"""Its standard deviation between people."""
PEAK_MINUTES = (0.0, 6.0, 0.0, 5.0, 0.0)
"""Longer waits at the busy meals."""
PILOT_REQUESTS = 6_000
"""Requests of the pilot, of all days of the log."""


class Offer(NamedTuple):
    """What the user sees of a place in this scene, shape (R, K) each."""

    distance_km_RK: Array
    minutes_RK: Array
    fee_yuan_RK: Array


class Logit:
    """A sum of parts, with the intercept and the sizes that the pilot determines."""

    def __init__(
        self,
        pilot: dict[str, Array],
        shares: dict[str, float],
        sd: float,
        rate: float,
        weight_I: Array,
    ) -> None:
        """Gives the parts these shares of the variance, and the probability the mean `rate`."""
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
    """Click, and order after a click."""

    def __init__(self, world: World) -> None:
        """Fits both logits to a pilot: requests of all days of the log."""
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
        # Orders are fitted to clicks: each row counts with its probability of a click.
        click_I = sigmoid(self.click(pilot))
        self.order = Logit(pilot, ORDER_SHARES, ORDER_SD, ORDER_RATE, click_I)

    def probabilities(self, parts: dict[str, Array]) -> tuple[Array, Array]:
        """Returns the probability of a click, and of a click with an order."""
        click_RK = sigmoid(self.click(parts))
        return click_RK, click_RK * sigmoid(self.order(parts))


def sigmoid(logit: Array) -> Array:
    """Returns probabilities.

    scipy.special.expit differs in the last bit of 2 % of the values, which would change worlds
    that have published figures.
    """
    return 1 / (1 + np.exp(-logit))


def make_offer(world: World, scenes: Scenes, place_RK: Array, rng: np.random.Generator) -> Offer:
    """Returns distance by road, promised minutes and delivery fee.

    A courier needs 3.2 minutes for a kilometre, longer in rain; beyond 2.5 km the fee rises.
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
    """Returns the raw parts of both logits by name, shape (R, K) each."""
    places, users, weather_R = world.places, world.users, scenes.weather_R
    attributes_RKA = places.attributes_PA[place_RK]

    # taste: what the person likes, and is used to at that meal.
    taste_RA = users.taste_UA[scenes.user_R]
    habit_R = users.habit_US[scenes.user_R, scenes.slot_R]
    strength_R = users.habit_strength_US[scenes.user_R, scenes.slot_R]
    taste_RA[np.arange(scenes.count), habit_R] += strength_R
    taste_RK = np.einsum("ra,rka->rk", taste_RA, attributes_RKA)

    # distance: a kilometre counts more in bad weather, when couriers are late, and before work.
    wet_R = 0.3 * (weather_R == RAIN) + 0.7 * (weather_R == HEAVY_RAIN) + 0.5 * (weather_R == SNOW)
    hurry_R = 0.2 * (scenes.slot_R == BREAKFAST) + 0.1 * (scenes.slot_R == LUNCH)

    # affinity: why this person prefers this place, which nothing visible explains; only a ranker
    # that remembers pairs can learn it. The sum of two uniform numbers is nearer to a normal one.
    affinity_RK = hash_uniform(scenes.user_R[:, None], place_RK, world.seed * 10 + 7)
    affinity_RK = affinity_RK + hash_uniform(scenes.user_R[:, None], place_RK, world.seed * 10 + 8)

    # position: the odds of a click fall with a power of 1 / position, as in logs of ranked lists.
    # An order after a click has no such part: by then the place itself is on the screen.
    position_1K = np.arange(1, place_RK.shape[1] + 1)[None, :]

    # quality: what reviews reveal of it, and the rating that is displayed.
    quality_P = 0.7 * places.quality_P + 0.3 * (places.rating_P - 4.35) / 0.22

    # intent: how hungry the person is, the same for all places of the screen.
    intent_R = np.array(SLOT_INTENT)[scenes.slot_R] + BAD_WEATHER_INTENT * (weather_R >= RAIN)
    intent_R += PERSONAL_INTENT * users.propensity_U[scenes.user_R]

    # price: too dear deters, and so does, at a quarter of the rate, what is suspiciously cheap:
    # below two thirds of the price that suits (exp(-0.4)).
    gap_RK = _price_gap(world, scenes, place_RK)

    # wait: counts fully in the lunch break, 70 % of that at other meals.
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
    """Returns what the scene asks for, over what is open at that meal, and a traveller's wish.

    Without the reference to the open places the part would mostly raise or lower all places of a
    request alike: in the morning everything that is open is breakfast.
    """
    plain, places = len(ATTRIBUTES), world.places
    wish_RA = scene_strengths(scenes) @ matrix(EFFECTS["scene"])
    wanted_RK = np.einsum("ra,rka->rk", wish_RA, attributes_RKA[:, :, :plain])
    usual_RA = places.usual_SA[scenes.slot_R, :plain]
    wanted_RK -= np.einsum("ra,ra->r", wish_RA, usual_RA)[:, None]
    wanted_RK += LOCAL_WEIGHT * scenes.away_R[:, None] * places.local_P[place_RK]
    return wanted_RK


def scene_strengths(scenes: Scenes) -> Array:
    """Returns the strength of each entry of `[scene]` of effects.toml in each request, (R, E).

    Heat begins at 18 C and chill at 13 C; both grow with the temperature up to a limit.
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
    """Returns the logarithm of the price over what is usual and what suits the user.

    Usual is the mean of the category for 60 % and of all places for 40 %: people compare hotpot
    with hotpot, but an expensive category stays expensive.
    """
    places = world.places
    log_P = np.log(places.price_yuan_P)
    count_T = np.bincount(places.category_P)
    usual_T = np.bincount(places.category_P, log_P) / np.maximum(count_T, 1)
    gap_P = log_P - 0.6 * usual_T[places.category_P] - 0.4 * log_P.mean()
    return gap_P[place_RK] - world.users.budget_U[scenes.user_R][:, None]
