"""A simulated live test: the better ranker wins, and estimates are close to the truth."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from larr.config import Config
from larr.data.batches import Batch
from larr.errors import ConfigError
from larr.settings import load_config
from larr_lab.city.world import World
from larr_lab.studies import ab_test as module
from larr_lab.studies.ab_test import SHOWN, Market, at_any_time, false_alarms, score
from tests.conftest import ROOT

REQUESTS = 800
TRUTH, NOISE = "larr", "ple"


@pytest.fixture(scope="module")
def market(city: Config) -> Market:
    return Market(city.dataset.city, city.seed, requests=REQUESTS, candidates=25)


def scores_of(market: Market) -> dict[str, np.ndarray]:
    alone = market.alone()
    truth = np.stack([alone.click_RK, alone.order_RK], axis=2)
    noise = np.random.default_rng(0).uniform(0.01, 0.2, truth.shape)
    return {TRUTH: truth, NOISE: noise}


def test_the_market_is_the_world_of_the_log(city: Config, market: Market) -> None:
    logged = World(city.dataset.city, city.seed)
    assert market.place_RM.shape == (REQUESTS, 25)
    for part in ("users", "places"):
        mine, theirs = vars(getattr(market.world, part)), vars(getattr(logged, part))
        for name, values in theirs.items():
            assert np.array_equal(mine[name], values), f"{part}.{name}"


def test_lower_places_get_fewer_clicks(market: Market) -> None:
    complete_R = market.place_RM.min(axis=1) >= 0
    as_given = np.broadcast_to(np.arange(market.place_RM.shape[1]), market.place_RM.shape)
    first, alone = market.outcome(as_given), market.alone()
    assert first.click_RK.shape == (REQUESTS, SHOWN)
    assert np.allclose(first.click_RK[:, 0], alone.click_RK[:, 0])
    assert (first.click_RK[complete_R, 1:] < alone.click_RK[complete_R, 1:SHOWN]).all()
    assert (alone.order_RK <= alone.click_RK).all()


def test_candidates_have_the_columns_of_the_contract(market: Market) -> None:
    rows = market.rows()
    assert rows.height == (market.place_RM >= 0).sum()
    assert rows["position"].min() == 1
    assert {"user_id", "poi_id", "time", "weather", "distance_km"} <= set(rows.columns)


def test_the_better_ranker_wins(
    city: Config, market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "REQUESTS", REQUESTS)
    monkeypatch.setattr(module.artifacts, "require", lambda *_: None)
    monkeypatch.setattr(module, "Market", lambda *_: market)
    monkeypatch.setattr(module, "score", lambda *_: scores_of(market))
    monkeypatch.setattr(module, "AA_TESTS", 20)
    results = module.ab_test(city)
    for metric in module.METRICS:
        assert results["truth"][metric]["percent"] > 10
        assert min(results["truth"][metric]["draws"]) > 0
        wide = results["ab"][metric]
        assert wide["low"] < wide["fixed_low"] < wide["percent"] < wide["fixed_high"]
    assert results["aa"]["ctr"]["low"] < 0 < results["aa"]["ctr"]["high"]
    policy = results["off_policy"]
    for estimate in ("ips", "snips", "dr"):
        off = abs(policy[estimate]["value"] - policy["truth"]["value"])
        assert off < 4 * policy[estimate]["error"], estimate
    assert policy["truth"]["value"] > policy["logged"]["value"]


def test_repeated_looks_raise_no_false_alarms() -> None:
    assert at_any_time(10_000) > 1.96
    random = np.random.default_rng(1)
    clicks_R = random.poisson(0.8, 3000).astype(float)
    totals = dict.fromkeys(module.METRICS, clicks_R) | {"shown": np.full(3000, 10.0)}
    alarms = false_alarms(totals, np.arange(3000) % 900, random)
    assert alarms["at_any_time"] <= 0.05 < alarms["fixed"]


def test_data_without_truth_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.artifacts, "require", lambda *_: None)
    with pytest.raises(ConfigError, match="got tables"):
        module.ab_test(load_config(ROOT / "configs" / "coupon.toml"))


def test_a_candidate_is_scored_as_if_shown_first(
    city: Config, market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def probabilities(ranker: None, batch: Batch) -> np.ndarray:
        seen.append(batch)
        return np.full((batch.rows, 2), 0.5, np.float32)

    monkeypatch.setattr(module, "load_ranker", lambda *_: SimpleNamespace(figures={}))
    monkeypatch.setattr(module, "probabilities", probabilities)
    scores = score(city, market, (NOISE,))
    assert (scores[NOISE][market.place_RM >= 0] == 0.5).all()
    assert (scores[NOISE][market.place_RM < 0] == 0).all()
    position = city.features.categories.index("position")
    assert len({int(value) for batch in seen for value in batch.categories[:, position]}) == 1
