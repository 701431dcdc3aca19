"""The latent model: what makes people click, and what makes them order after a click.

Each part of a logit is computed raw; a pilot of requests on the same world gives each part the
variance that `effects.py` states and finds the intercepts. Array names as in `behaviour.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from larr_lab.city.behaviour import (
    Scenes,
    World,
    day_weights,
    draw_scenes,
    expose,
    kilometres,
    scene_features,
)
from larr_lab.city.effects import (
    ATTRIBUTES,
    BAD_WEATHER_INTENT,
    CLICK_RATE,
    CLICK_SD,
    CLICK_SHARES,
    LOCAL_WEIGHT,
    ORDER_RATE,
    ORDER_SD,
    ORDER_SHARES,
    PERSONAL_INTENT,
    SCENE_EFFECTS,
    SLOT_INTENT,
    Floats,
    Ints,
    matrix,
)
from larr_lab.city.people import hash_uniform
from larr_lab.city.world import HEAVY_RAIN, RAIN, SNOW

PILOT_REQUESTS = 6_000
PEAK_MINUTES = (0.0, 6.0, 0.0, 5.0, 0.0)
"""Longer waits in the busy meal slots."""


@dataclass(frozen=True)
class Offer:
    """What a row shows besides the place, shape (R, K) each."""

    distance_km_RK: Floats
    minutes_RK: Floats
    fee_yuan_RK: Floats


@dataclass(frozen=True)
class Logit:
    """A sum of parts with the sizes found by the pilot."""

    intercept: float
    means: dict[str, float]
    scales: dict[str, float]

    def __call__(self, parts: dict[str, Floats]) -> Floats:
        """The logit of each row."""
        total: Floats = np.full(np.shape(parts["taste"]), self.intercept, np.float64)
        for name, scale in self.scales.items():
            total += scale * (parts[name] - self.means[name])
        return total


@dataclass(frozen=True)
class Model:
    """Click, and order after a click."""

    click: Logit
    order: Logit

    def probabilities(self, parts: dict[str, Floats]) -> tuple[Floats, Floats]:
        """Of a click, and of a click with an order."""
        click_RK = sigmoid(self.click(parts))
        return click_RK, click_RK * sigmoid(self.order(parts))


def sigmoid(logit: Floats) -> Floats:
    """Probability of a logit."""
    probability: Floats = 1 / (1 + np.exp(-logit))
    return probability


def make_offer(world: World, scenes: Scenes, place_RK: Ints, rng: np.random.Generator) -> Offer:
    """Distance by road, promised minutes and delivery fee."""
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


def logit_parts(world: World, scenes: Scenes, place_RK: Ints, offer: Offer) -> dict[str, Floats]:
    """The raw parts of both logits, shape (R, K) each."""
    places, users = world.places, world.users
    attributes_RKA = places.attributes_PA[place_RK]
    price_RK = _price_gap(world, scenes, place_RK)
    seen_P = 0.7 * places.quality_P + 0.3 * (places.rating_P - 4.35) / 0.22
    luck_RK = hash_uniform(scenes.user_R[:, None], place_RK, world.seed * 10 + 7)
    luck_RK = luck_RK + hash_uniform(scenes.user_R[:, None], place_RK, world.seed * 10 + 8)
    position_1K = np.arange(1, place_RK.shape[1] + 1)[None, :]
    intent_R = np.array(SLOT_INTENT)[scenes.slot_R] + BAD_WEATHER_INTENT * (
        scenes.weather_R >= RAIN
    )
    intent_R += PERSONAL_INTENT * users.propensity_U[scenes.user_R]
    return {
        "taste": _taste(world, scenes, attributes_RKA),
        "scene": _scene(world, scenes, place_RK, attributes_RKA),
        "position": np.broadcast_to(-np.log(position_1K), place_RK.shape),
        "distance": -offer.distance_km_RK * _reluctance(scenes)[:, None],
        "quality": seen_P[place_RK],
        "affinity": luck_RK,
        "intent": np.broadcast_to(intent_R[:, None], place_RK.shape),
        "price": -np.maximum(price_RK, 0) - 0.25 * np.maximum(-price_RK - 0.4, 0),
        "wait": -offer.minutes_RK * (0.7 + 0.3 * (scenes.slot_R == 1))[:, None],
        "fee": -offer.fee_yuan_RK,
    }


def _taste(world: World, scenes: Scenes, attributes_RKA: Floats) -> Floats:
    """What the person likes, and is used to at that meal."""
    users = world.users
    taste_RA = users.taste_UA[scenes.user_R]
    habit_R = users.habit_US[scenes.user_R, scenes.slot_R]
    strength_R = users.habit_strength_US[scenes.user_R, scenes.slot_R]
    taste_RA[np.arange(scenes.count), habit_R] += strength_R
    liking_RK: Floats = np.einsum("ra,rka->rk", taste_RA, attributes_RKA)
    return liking_RK


def _scene(world: World, scenes: Scenes, place_RK: Ints, attributes_RKA: Floats) -> Floats:
    """What the scene asks for, against what is open at that hour; and a traveller's wish."""
    plain, places = len(ATTRIBUTES), world.places
    wish_RA = scene_features(scenes) @ matrix(SCENE_EFFECTS)
    wanted_RK: Floats = np.einsum("ra,rka->rk", wish_RA, attributes_RKA[:, :, :plain])
    usual_RA = places.usual_SA[scenes.slot_R, :plain]
    wanted_RK -= np.einsum("ra,ra->r", wish_RA, usual_RA)[:, None]
    wanted_RK += LOCAL_WEIGHT * scenes.away_R[:, None] * places.local_P[place_RK]
    return wanted_RK


def _reluctance(scenes: Scenes) -> Floats:
    """How much a kilometre counts: more in bad weather and when time is short."""
    weather_R = scenes.weather_R
    wet_R = 0.3 * (weather_R == RAIN) + 0.7 * (weather_R == HEAVY_RAIN) + 0.5 * (weather_R == SNOW)
    factor_R: Floats = 1 + wet_R + 0.2 * (scenes.slot_R == 0) + 0.1 * (scenes.slot_R == 1)
    return factor_R


def _price_gap(world: World, scenes: Scenes, place_RK: Ints) -> Floats:
    """Logarithm of the price over what is usual for the category and right for the person."""
    places = world.places
    log_P = np.log(places.price_yuan_P)
    count_T = np.bincount(places.category_P)
    usual_T = np.bincount(places.category_P, log_P) / np.maximum(count_T, 1)
    gap_P = log_P - 0.6 * usual_T[places.category_P] - 0.4 * log_P.mean()
    gap_RK: Floats = gap_P[place_RK] - world.users.budget_U[scenes.user_R][:, None]
    return gap_RK


def make_model(world: World) -> Model:
    """Runs the pilot: gives each part its variance and finds the intercepts."""
    rng = np.random.default_rng([world.seed, 1])
    weights_D = day_weights(world)[world.days.history_days :]
    counts_D = np.round(PILOT_REQUESTS * weights_D / weights_D.sum()).astype(int)
    columns: dict[str, list[Floats]] = {}
    for day, requests in enumerate(counts_D, world.days.history_days):
        scenes = draw_scenes(world, day, int(requests), rng)
        place_RK = expose(world, scenes, rng)
        parts = logit_parts(world, scenes, place_RK, make_offer(world, scenes, place_RK, rng))
        for name, value_RK in parts.items():
            columns.setdefault(name, []).append(value_RK[place_RK >= 0])
    pilot = {name: np.concatenate(values) for name, values in columns.items()}
    even_I = np.ones(pilot["taste"].size)
    click = _fit(pilot, CLICK_SHARES, CLICK_SD, CLICK_RATE, even_I)
    order = _fit(pilot, ORDER_SHARES, ORDER_SD, ORDER_RATE, sigmoid(click(pilot)))
    return Model(click, order)


def _fit(
    pilot: dict[str, Floats], shares: dict[str, float], sd: float, rate: float, weight_I: Floats
) -> Logit:
    weight_I = weight_I / weight_I.sum()
    means = {name: float(weight_I @ pilot[name]) for name in shares}
    spread = {n: float(np.sqrt(weight_I @ (pilot[n] - means[n]) ** 2)) for n in shares}
    scales = {n: sd * share**0.5 / max(spread[n], 1e-6) for n, share in shares.items()}
    low, high = -12.0, 6.0
    for _ in range(40):
        middle = (low + high) / 2
        mean = float(weight_I @ sigmoid(Logit(middle, means, scales)(pilot)))
        low, high = (middle, high) if mean < rate else (low, middle)
    return Logit(middle, means, scales)
