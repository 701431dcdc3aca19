"""A simulated live test on the city: two rankers rank the same candidates for different users.

The city knows the probability of each click, so estimates from a test, and from logged data alone,
can be compared with the truth.

Shapes: R requests, M candidates, K places shown, T tasks, U users of the requests, B resamples.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np
import polars as pl

from larr import artifacts
from larr.config import Config
from larr.data.batches import Batch
from larr.data.features import undo_sampling
from larr.errors import ConfigError
from larr.evaluation.bootstrap import LEVEL
from larr.evaluation.findings import BASE, LARR, Json
from larr.metrics import Array, gain_percent
from larr.progress import track
from larr.rankers.predict import load_ranker, probabilities
from larr.serve.features import Reader
from larr.serve.live import arm_position
from larr_lab.city.choice import Model, Offer, expose, make_offer
from larr_lab.city.requests import draw_scenes
from larr_lab.city.tables import offered
from larr_lab.city.world import World
from larr_lab.settings import CityConfig, city_settings

REQUESTS, CANDIDATES, SHOWN = 24_000, 40, 10
STREAM = 6
REQUESTS_AT_A_TIME = 500
RESAMPLES = 500
AA_TESTS, LOOKS = 200, 20
METRICS = ("ctr", "orders", "gmv")
NORMAL_QUANTILE = 1.96  # two-sided, at LEVEL
Totals = dict[str, Array]
"""The total of each of METRICS for each request, [R]; "shown" is the number of places shown."""


class Outcome(NamedTuple):
    """The response to the places shown, shape (R, K); zero where none is shown."""

    click_RK: Array
    """Probability of a click."""
    order_RK: Array
    """Probability of a click and an order."""
    price_yuan_RK: Array


class Market:
    """Requests of the day after the training days, each with candidates to be ranked."""

    def __init__(self, config: CityConfig, seed: int, requests: int, candidates: int) -> None:
        """Draws requests; the older ranker's best places are their candidates."""
        self.world = world = World(config, seed)
        self.model = Model(world)
        rng = np.random.default_rng([seed, STREAM])
        day = world.days.history_days + config.train_days
        self.scenes = draw_scenes(world, day, requests, rng)
        self.place_RM = expose(world, self.scenes, candidates, rng)
        """-1 where a request has fewer candidates."""
        self.offer = make_offer(world, self.scenes, self.place_RM, rng)
        self.users = world.user_ids.gather(self.scenes.user_R)
        """The user of each request."""

    def rows(self) -> pl.DataFrame:
        """Returns a row for each candidate, request by request, as a client would send it."""
        return offered(self.world, self.scenes, self.place_RM, self.offer)

    def outcome(self, rank_RM: Array) -> Outcome:
        """Returns the outcome of showing the first `SHOWN` candidates in this order."""
        arrays = (self.place_RM, *self.offer)
        place_RK, *seen = (np.take_along_axis(each, rank_RM[:, :SHOWN], axis=1) for each in arrays)
        return self._outcome(place_RK, Offer(*seen))

    def alone(self) -> Outcome:
        """Returns the outcome of showing each candidate first, shape (R, M)."""
        return self._outcome(self.place_RM, self.offer, all_first=True)

    def _outcome(self, place_RK: Array, offer: Offer, *, all_first: bool = False) -> Outcome:
        click_RK, order_RK = self.model.probabilities(
            self.scenes, place_RK, offer, all_first=all_first
        )
        exists_RK = place_RK >= 0
        price_RK = self.world.places.price_yuan_P[place_RK]
        return Outcome(click_RK * exists_RK, order_RK * exists_RK, price_RK * exists_RK)


def ab_test(config: Config) -> Json:
    """Compares LARR with PLE: the truth, an A/A test, an A/B test, estimates from logged data.

    Raises ConfigError for data other than the city.
    """
    artifacts.require(config, "prepare", "embed", "align")
    if config.dataset.kind != "city":
        raise ConfigError(
            f"ab-test requires the true probabilities of dataset.kind = city, got "
            f"{config.dataset.kind}"
        )
    market = Market(city_settings(config), config.seed, REQUESTS, CANDIDATES)
    scores = score(config, market, (BASE, LARR))
    outcomes = {}
    for name, score_RMT in scores.items():
        # rank by the product of both probabilities, padding last
        value_RM = np.where(market.place_RM >= 0, score_RMT.prod(axis=2), -1.0)
        outcomes[name] = market.outcome(np.argsort(-value_RM, axis=1, kind="stable"))
    user_R = market.users.rank("dense").to_numpy().astype(np.int64) - 1
    # Arms depend on a hash of the user, as in serving, so that no user changes arms.
    test = f"larr {config.seed}"
    arm_U = np.array([arm_position(user, test) >= 0.5 for user in market.users.unique().sort()])
    random = np.random.default_rng([config.seed, 7])
    drawn = {}
    for name, outcome in outcomes.items():
        uniform_RK = random.random(outcome.click_RK.shape)  # one draw: orders require clicks
        drawn[name] = totals(outcome, uniform_RK < outcome.click_RK, uniform_RK < outcome.order_RK)
    expected = {
        name: totals(outcome, outcome.click_RK, outcome.order_RK)
        for name, outcome in outcomes.items()
    }
    return {
        "requests": REQUESTS,
        "users": len(arm_U),
        "shown": SHOWN,
        "candidates": CANDIDATES,
        "truth": truth(expected, user_R, random),
        "aa": lifts(drawn[BASE], drawn[BASE], user_R, arm_U),
        "ab": lifts(drawn[BASE], drawn[LARR], user_R, arm_U),
        "false_alarms": false_alarms(drawn[BASE], user_R, random),
        "off_policy": off_policy(scores, market, random),
    }


def score(config: Config, market: Market, rankers: tuple[str, ...]) -> dict[str, Array]:
    """Returns the probabilities of each ranker, [R, M, T], with every candidate at position 1."""
    reader = Reader(config, artifacts.folder(config, "prepare"))
    loaded = {name: load_ranker(config, name) for name in rankers}
    scores = {
        name: np.zeros((*market.place_RM.shape, len(reader.features.tasks))) for name in rankers
    }
    request_N, candidate_N = np.nonzero(market.place_RM >= 0)
    first = pl.lit(1, pl.Int16)
    rows = market.rows().with_columns(position=first, request_id=pl.Series(request_N))
    requests = np.arange(0, len(market.place_RM) + REQUESTS_AT_A_TIME, REQUESTS_AT_A_TIME)
    with track("candidates", rows.height, "rows") as advance:
        for start, stop in pairwise(np.searchsorted(request_N, requests).tolist()):
            part = slice(start, stop)
            for name, ranker in loaded.items():
                batch = Batch.without_labels(reader.table(rows[part], ranker.figures))
                probability_NT = probabilities(ranker, batch)
                scores[name][request_N[part], candidate_N[part]] = undo_sampling(
                    probability_NT, config.dataset.sampling_rate
                )
            advance(batch.rows)
    return scores


def totals(outcome: Outcome, click_RK: Array, order_RK: Array) -> Totals:
    """Returns the totals of the requests for clicks and orders, expected or drawn."""
    return {
        "ctr": click_RK.sum(axis=1).astype(np.float64),
        "orders": order_RK.sum(axis=1).astype(np.float64),
        "gmv": (order_RK * outcome.price_yuan_RK).sum(axis=1),
        "shown": (outcome.price_yuan_RK > 0).sum(axis=1).astype(np.float64),
    }


def truth(expected: dict[str, Totals], user_R: Array, random: np.random.Generator) -> Json:
    """Returns the lift over all users in %, and its draws under resampled users."""
    users = int(user_R.max()) + 1
    weight_BU = random.multinomial(users, np.full(users, 1 / users), size=RESAMPLES)
    result = {}
    for metric in METRICS:
        larr_U, base_U = (
            np.bincount(user_R, expected[name][metric], users) for name in (LARR, BASE)
        )
        result[metric] = {
            "percent": float(gain_percent(larr_U.sum(), base_U.sum())),
            "draws": gain_percent(weight_BU @ larr_U, weight_BU @ base_U).tolist(),
        }
    return result


def lifts(first: Totals, second: Totals, user_R: Array, arm_U: Array) -> Json:
    """Returns the lift of the second arm over the first in a test, with both kinds of interval."""
    arm_R = arm_U[user_R]
    return {
        metric: _lift(
            _by_user(first, metric, user_R, ~arm_R), _by_user(second, metric, user_R, arm_R)
        )
        for metric in METRICS
    }


def _by_user(total: Totals, metric: str, user_R: Array, arm_R: Array) -> Array:
    """Returns the total and the places shown for each user with a request in `arm_R`, [2, U]."""
    sums_2U: Array = np.stack(
        [np.bincount(user_R[arm_R], total[name][arm_R]) for name in (metric, "shown")]
    )
    return sums_2U[:, sums_2U[1] > 0]


def _lift(first_2U: Array, second_2U: Array) -> Json:
    """Returns the ratio of two rates minus 1, in %, with its intervals.

    Each rate is a ratio of sums over users. Its variance comes from the users' deviations from it
    (delta method), because the impressions of one user are not independent.
    """
    rates, variances = [], []
    for total_U, shown_U in (first_2U, second_2U):
        rate = total_U.sum() / shown_U.sum()
        rates.append(rate)
        variances.append(((total_U - rate * shown_U) ** 2).sum() / shown_U.sum() ** 2 / rate**2)
    ratio = rates[1] / rates[0]
    deviation = 100 * ratio * float(np.sqrt(sum(variances)))
    percent = 100 * (ratio - 1)
    wide = deviation * at_any_time(first_2U.shape[1] + second_2U.shape[1])
    return {
        "percent": float(percent),
        "low": float(percent - wide),
        "high": float(percent + wide),
        "fixed_low": float(percent - NORMAL_QUANTILE * deviation),
        "fixed_high": float(percent + NORMAL_QUANTILE * deviation),
    }


def at_any_time(users: int, planned: int | None = None) -> float:
    """Returns the half-width, in standard deviations, of an interval valid at any time.

    Robbins' normal mixture, asymptotic for means (Waudby-Smith et al., arXiv 2103.06476), tightest
    at `planned` users.
    """
    alpha = 1 - LEVEL
    rho2 = (-2 * np.log(alpha) + np.log(-2 * np.log(alpha) + 1)) / (planned or users)
    grown = users * rho2 + 1
    return float(np.sqrt(grown / (users * rho2) * np.log(grown / alpha**2)))


def false_alarms(total: Totals, user_R: Array, random: np.random.Generator) -> Json:
    """Returns the share of A/A tests that show a difference in at least one of `LOOKS` looks."""
    users = int(user_R.max()) + 1
    edges = np.linspace(0, users, LOOKS + 1).astype(int)[1:]
    total_2U = _by_user(total, "ctr", user_R, np.ones(len(user_R), np.bool_))
    alarms = {"fixed": 0, "at_any_time": 0}
    for _ in range(AA_TESTS):
        order_U, arm_U = random.permutation(users), random.random(users) < 1 / 2
        alarmed = dict.fromkeys(alarms, False)
        for edge in edges:
            seen_U = order_U[:edge]
            is_b_U = arm_U[seen_U]
            lift = _lift(total_2U[:, seen_U[~is_b_U]], total_2U[:, seen_U[is_b_U]])
            deviation = (lift["fixed_high"] - lift["percent"]) / NORMAL_QUANTILE
            z = abs(lift["percent"]) / deviation
            alarmed["fixed"] |= z > NORMAL_QUANTILE
            alarmed["at_any_time"] |= z > at_any_time(edge, users)
        for kind in alarms:
            alarms[kind] += alarmed[kind]
    shares = {kind: count / AA_TESTS for kind, count in alarms.items()}
    return shares | {"tests": AA_TESTS, "looks": LOOKS}


def off_policy(scores: dict[str, Array], market: Market, random: np.random.Generator) -> Json:
    """Returns estimates of the clicks on the first place under LARR's policy, and the truth.

    The log draws the first place by PLE's policy and records the propensities. The estimates are
    inverse propensity (IPS), self-normalised (SNIPS) and doubly robust (DR).
    """
    exists_RM = market.place_RM >= 0
    click_RM = market.alone().click_RK

    def policy(probability_RM: Array) -> Array:
        """Returns propensities proportional to the squared odds of a click."""
        weight_RM = (probability_RM / (1 - probability_RM)) ** 2 * exists_RM
        propensity_RM: Array = weight_RM / weight_RM.sum(axis=1, keepdims=True)
        return propensity_RM

    logged_RM, wanted_RM = (policy(scores[name][:, :, 0]) for name in (BASE, LARR))
    chosen_R = (logged_RM.cumsum(axis=1) < random.random((len(logged_RM), 1))).sum(axis=1)
    # rounding can leave the sum of propensities just below 1, and the draw above it
    chosen_R1 = np.minimum(chosen_R, exists_RM.sum(axis=1) - 1)[:, None]

    def chosen(value_RM: Array) -> Array:
        return np.take_along_axis(value_RM, chosen_R1, axis=1)[:, 0]

    clicked_R = random.random(len(chosen_R)) < chosen(click_RM)
    weight_R = chosen(wanted_RM) / chosen(logged_RM)
    model_RM = scores[BASE][:, :, 0]
    direct_R = (wanted_RM * model_RM).sum(axis=1)
    robust_R = direct_R + weight_R * (clicked_R - chosen(model_RM))
    snips = (weight_R * clicked_R).sum() / weight_R.sum()
    snips_R = weight_R * (clicked_R - snips) / weight_R.mean()

    def estimate(value_R: Array, value: float | None = None) -> Json:
        mean = value_R.mean() if value is None else value
        return {"value": float(mean), "error": float(value_R.std() / np.sqrt(len(value_R)))}

    def exact(propensity_RM: Array) -> Json:
        return {"value": float((propensity_RM * click_RM).sum(axis=1).mean()), "error": 0.0}

    return {
        "ips": estimate(weight_R * clicked_R),
        "dr": estimate(robust_R),
        "direct": estimate(direct_R),
        "snips": estimate(snips_R, snips),
        "truth": exact(wanted_RM),
        "logged": exact(logged_RM),
    }
