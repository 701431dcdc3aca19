"""A live test on the city, simulated: two rankers rank the same candidates for different users.

The city knows how likely each click is, so that the estimates of a test, and those made from
logged data alone, can be held against the truth.

Shapes: R requests, M candidates, K places shown, U users of the requests.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from larr import artifacts
from larr.config import Config
from larr.data.featurise import Featuriser
from larr.errors import ConfigError
from larr.evaluation.findings import BASE, LARR
from larr.metrics import gain_percent
from larr.progress import track
from larr.rankers.predict import load_ranker, probabilities, undo_sampling
from larr.serve.live import arm_position
from larr_lab.city.market import SHOWN, Market, Outcome
from larr_lab.settings import city_settings

REQUESTS, CANDIDATES = 24_000, 40
REQUESTS_AT_A_TIME = 500
LEVEL, RESAMPLES = 0.95, 500
AA_TESTS, LOOKS = 200, 20
METRICS = ("ctr", "orders", "gmv")
Json = dict[str, Any]
Floats = npt.NDArray[np.floating[Any]]
Ints = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True)
class Totals:
    """What each request brought, an array [R] for each of `METRICS`, and what was shown."""

    brought: dict[str, Floats]
    shown_R: Floats

    @classmethod
    def expected(cls, outcome: Outcome) -> Totals:
        """The expected clicks, orders and yuan."""
        return cls._of(outcome, outcome.click_RK, outcome.order_RK)

    @classmethod
    def drawn(cls, outcome: Outcome, random: np.random.Generator) -> Totals:
        """Clicks, orders and yuan as they happen to be; an order needs its click."""
        luck_RK = random.random(outcome.click_RK.shape)
        return cls._of(outcome, luck_RK < outcome.click_RK, luck_RK < outcome.order_RK)

    @classmethod
    def _of(cls, outcome: Outcome, clicks_RK: Any, orders_RK: Any) -> Totals:
        brought = {
            "ctr": clicks_RK.sum(axis=1).astype(np.float64),
            "orders": orders_RK.sum(axis=1).astype(np.float64),
            "gmv": (orders_RK * outcome.price_yuan_RK).sum(axis=1),
        }
        return cls(brought, (outcome.price_yuan_RK > 0).sum(axis=1).astype(np.float64))


def ab_test(config: Config) -> Json:
    """LARR against PLE: an A/A test, an A/B test, the truth, and estimates from logged data."""
    artifacts.require(config, "prepare", "embed", "align")
    if config.dataset.kind != "city":
        raise ConfigError(
            f"ab-test needs the city's true clicks; dataset.kind is {config.dataset.kind}"
        )
    market = Market.open(city_settings(config), config.seed, REQUESTS, CANDIDATES)
    scores = score(config, market, (BASE, LARR))
    there_RM = market.place_RM >= 0
    outcomes = {}
    for name, probability_RMT in scores.items():
        wanted_RM = np.where(there_RM, probability_RMT.prod(axis=2), -1.0)
        outcomes[name] = market.outcome(np.argsort(-wanted_RM, axis=1, kind="stable"))
    user_R = market.users.rank("dense").to_numpy().astype(np.int64) - 1
    random = np.random.default_rng([config.seed, 7])
    drawn = {name: Totals.drawn(outcome, random) for name, outcome in outcomes.items()}
    arm_U = buckets(market.users.unique().sort(), f"larr {config.seed}")
    return {
        "requests": REQUESTS,
        "users": len(arm_U),
        "shown": SHOWN,
        "candidates": CANDIDATES,
        "truth": truth(
            {name: Totals.expected(one) for name, one in outcomes.items()}, user_R, random
        ),
        "aa": lifts(drawn[BASE], drawn[BASE], user_R, arm_U),
        "ab": lifts(drawn[BASE], drawn[LARR], user_R, arm_U),
        "false_alarms": false_alarms(drawn[BASE], user_R, random),
        "off_policy": off_policy(scores, market, random),
    }


def score(config: Config, market: Market, models: tuple[str, ...]) -> dict[str, Floats]:
    """The probabilities [R, M, T] that each model gives; all candidates as if shown first."""
    data = artifacts.folder(config, "prepare")
    featuriser = Featuriser.load(config, data)
    rankers = {name: load_ranker(config, name) for name in models}
    shape = (*market.place_RM.shape, featuriser.tasks)
    scores = {name: np.zeros(shape) for name in models}
    request_N, candidate_N = np.nonzero(market.place_RM >= 0)
    rows = market.rows().with_columns(position=pl.lit(1, pl.Int16))
    size = REQUESTS_AT_A_TIME * CANDIDATES
    with track("candidates", rows.height, "rows") as advance:
        for start in range(0, rows.height, size):
            part = slice(start, start + size)
            batch = featuriser.batch(rows[part])
            for name, ranker in rankers.items():
                given = undo_sampling(probabilities(ranker, batch), config.dataset.sampling_rate)
                scores[name][request_N[part], candidate_N[part]] = given
            advance(batch.rows)
    return scores


def buckets(users: pl.Series, salt: str) -> npt.NDArray[np.bool_]:
    """Which users are in the second arm: by a hash, so that a user always sees the same one."""
    return np.array([arm_position(user, salt) >= 0.5 for user in users])


def truth(expected: dict[str, Totals], user_R: Ints, random: np.random.Generator) -> Json:
    """The lift that all users would see, in %, and its draws under resampled users."""
    told = {}
    users = int(user_R.max()) + 1
    weight_BU = random.multinomial(users, np.full(users, 1 / users), size=RESAMPLES)
    for metric in METRICS:
        sums = [np.bincount(user_R, expected[name].brought[metric], users) for name in (LARR, BASE)]
        draws_B = gain_percent(weight_BU @ sums[0], weight_BU @ sums[1])
        percent = float(gain_percent(sums[0].sum(), sums[1].sum()))
        told[metric] = {"percent": percent, "draws": draws_B.tolist()}
    return told


def lifts(first: Totals, second: Totals, user_R: Ints, arm_U: npt.NDArray[np.bool_]) -> Json:
    """The second arm over the first as a test sees it, with intervals that hold at any time."""
    arm_R = arm_U[user_R]
    return {
        metric: _lift(
            _by_user(first, metric, user_R, ~arm_R), _by_user(second, metric, user_R, arm_R)
        )
        for metric in METRICS
    }


def _by_user(totals: Totals, metric: str, user_R: Ints, in_R: npt.NDArray[np.bool_]) -> Floats:
    """What each user of an arm brought and was shown, [2, U]."""
    users = user_R[in_R]
    pair = (totals.brought[metric], totals.shown_R)
    sums_2U: Floats = np.stack([np.bincount(users, values[in_R]) for values in pair])
    return sums_2U[:, sums_2U[1] > 0]


def _lift(first_2U: Floats, second_2U: Floats) -> Json:
    rates, variances = [], []
    for brought_U, shown_U in (first_2U, second_2U):
        rate = brought_U.sum() / shown_U.sum()
        rates.append(rate)
        variances.append(((brought_U - rate * shown_U) ** 2).sum() / shown_U.sum() ** 2 / rate**2)
    ratio = rates[1] / rates[0]
    deviation = ratio * float(np.sqrt(sum(variances)))
    wide = deviation * at_any_time(first_2U.shape[1] + second_2U.shape[1])
    percent = 100 * (ratio - 1)
    return {
        "percent": float(percent),
        "low": float(percent - 100 * wide),
        "high": float(percent + 100 * wide),
        "fixed_low": float(percent - 196 * deviation),
        "fixed_high": float(percent + 196 * deviation),
    }


def at_any_time(users: int, planned: int | None = None) -> float:
    """Standard deviations of an interval that holds at every look, however often one looks.

    The normal mixture of Robbins, asymptotic for means (Waudby-Smith et al., arXiv 2103.06476),
    tightest at `planned` users.
    """
    alpha = 1 - LEVEL
    rho2 = (-2 * np.log(alpha) + np.log(-2 * np.log(alpha) + 1)) / (planned or users)
    grown = users * rho2 + 1
    return float(np.sqrt(grown / (users * rho2) * np.log(grown / alpha**2)))


def false_alarms(totals: Totals, user_R: Ints, random: np.random.Generator) -> Json:
    """The share of A/A tests, looked at `LOOKS` times, that are ever called a difference."""
    users = int(user_R.max()) + 1
    edges = np.linspace(0, users, LOOKS + 1).astype(int)[1:]
    everyone = np.ones(len(user_R), np.bool_)
    total_2U = _by_user(totals, "ctr", user_R, everyone)
    alarms = {"fixed": 0, "at_any_time": 0}
    for _ in range(AA_TESTS):
        order_U, arm_U = random.permutation(users), random.random(users) < 1 / 2
        wrong = dict.fromkeys(alarms, False)
        for edge in edges:
            seen_U = order_U[:edge]
            in_U = arm_U[seen_U]
            lift = _lift(total_2U[:, seen_U[~in_U]], total_2U[:, seen_U[in_U]])
            deviation = (lift["fixed_high"] - lift["percent"]) / 1.96
            z = abs(lift["percent"]) / deviation
            wrong["fixed"] |= z > 1.96
            wrong["at_any_time"] |= z > at_any_time(edge, users)
        for kind, alarm in wrong.items():
            alarms[kind] += alarm
    return {kind: count / AA_TESTS for kind, count in alarms.items()} | {
        "tests": AA_TESTS,
        "looks": LOOKS,
    }


def off_policy(scores: dict[str, Floats], market: Market, random: np.random.Generator) -> Json:
    """Clicks on the first place under LARR's choice, estimated from a log of PLE's choices.

    The log draws the first place with PLE's propensities and keeps them; inverse propensity
    (IPS), self-normalised (SNIPS) and doubly robust (DR) estimates stand beside the truth.
    """
    there_RM = market.place_RM >= 0
    click_RM = market.alone().click_RK
    logged_RM, wanted_RM = (_policy(scores[name][:, :, 0], there_RM) for name in (BASE, LARR))
    at_R = (logged_RM.cumsum(axis=1) < random.random((len(logged_RM), 1))).sum(axis=1)
    at_R1 = np.minimum(at_R, there_RM.sum(axis=1) - 1)[:, None]

    def taken(values_RM: Floats) -> Floats:
        return np.take_along_axis(values_RM, at_R1, axis=1)[:, 0]

    clicked_R = random.random(len(at_R)) < taken(click_RM)
    weight_R = taken(wanted_RM) / taken(logged_RM)
    model_RM = scores[BASE][:, :, 0]
    direct_R = (wanted_RM * model_RM).sum(axis=1)
    robust_R = direct_R + weight_R * (clicked_R - taken(model_RM))
    estimates = {
        "ips": weight_R * clicked_R,
        "dr": robust_R,
        "direct": direct_R,
    }
    told = {
        name: {"value": float(one.mean()), "error": float(one.std() / np.sqrt(len(one)))}
        for name, one in estimates.items()
    }
    snips = float((weight_R * clicked_R).sum() / weight_R.sum())
    spread_R = weight_R * (clicked_R - snips) / weight_R.mean()
    told["snips"] = {"value": snips, "error": float(spread_R.std() / np.sqrt(len(spread_R)))}
    told["truth"] = {"value": float((wanted_RM * click_RM).sum(axis=1).mean()), "error": 0.0}
    told["logged"] = {"value": float((logged_RM * click_RM).sum(axis=1).mean()), "error": 0.0}
    return told


def _policy(probability_RM: Floats, there_RM: npt.NDArray[np.bool_]) -> Floats:
    """Chances proportional to the square of the odds of a click."""
    odds_RM = (probability_RM / (1 - probability_RM)) ** 2 * there_RM
    chances: Floats = odds_RM / odds_RM.sum(axis=1, keepdims=True)
    return chances
