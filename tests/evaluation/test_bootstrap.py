"""The bootstrap against a naive twin that copies the rows of the users drawn."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from larr import metrics
from larr.evaluation.bootstrap import (
    RESAMPLES_AT_ONCE,
    STREAM,
    Estimates,
    Key,
    Ranking,
    Ratio,
    bootstrap,
    interval,
    pool,
)


def key(model: str, metric: str = "ctr_auc") -> Key:
    return Key("all", "", "", model, metric)


def draws_of(seed: int, users: int, resamples: int) -> list[np.ndarray]:
    generator = np.random.default_rng((seed, STREAM))
    return [generator.integers(0, users, users) for _ in range(resamples)]


rows = st.lists(
    st.tuples(st.integers(0, 1), st.sampled_from([0.0, 0.2, 0.5, 0.7]), st.integers(0, 3)),
    max_size=40,
)


@given(rows, st.lists(st.integers(0, 5), min_size=4, max_size=4))
@settings(deadline=None, max_examples=300)
def test_ranking_is_the_auc_under_weights_of_users(data, weight) -> None:
    label, score, user = (np.array([row[i] for row in data]) for i in range(3))
    user, weight = user.astype(int), np.array(weight)
    weights = torch.from_numpy(np.stack([weight, np.ones(4)], axis=1).astype(np.float32))
    expected = metrics.weighted_auc(label, score, weights.numpy()[user])
    np.testing.assert_allclose(Ranking.of(label, score, user).under(weights), expected, rtol=1e-12)


def test_every_draw_equals_the_metric_of_the_copied_rows() -> None:
    rng = np.random.default_rng(0)
    users, resamples = 30, RESAMPLES_AT_ONCE + 3
    user = np.concatenate([np.arange(users), rng.integers(0, users, 400)])
    label, score = rng.random(len(user)) < 0.3, rng.integers(0, 20, len(user)) / 20
    auc, impressions = metrics.auc_by_user(label, score, user)
    weight = np.where(np.isfinite(auc), impressions, 0.0)
    statistics = {
        key("a"): Ranking.of(label, score, user),
        key("a", "ctr_gauc"): Ratio(np.nan_to_num(auc) * weight, weight),
    }
    found = bootstrap(statistics, users, resamples, seed=5)
    assert found.value[key("a")] == pytest.approx(metrics.auc(label, score), abs=1e-12)
    assert found.value[key("a", "ctr_gauc")] == pytest.approx(metrics.gauc(label, score, user))
    for number, drawn in enumerate(draws_of(5, users, resamples)):
        copied = np.concatenate([np.flatnonzero(user == one) for one in drawn])
        # a user drawn twice counts twice and its copies are users of their own
        own = np.concatenate([np.full((user == one).sum(), i) for i, one in enumerate(drawn)])
        expected = metrics.auc(label[copied], score[copied])
        assert found.draws[key("a")][number] == pytest.approx(expected, abs=1e-12)
        expected = metrics.gauc(label[copied], score[copied], own)
        assert found.draws[key("a", "ctr_gauc")][number] == pytest.approx(expected, abs=1e-12)


def test_the_same_draws_serve_every_model() -> None:
    rng = np.random.default_rng(1)
    user, label = rng.integers(0, 40, 500), rng.random(500) < 0.3
    score = rng.random(500)
    same = {name: Ranking.of(label, score, user) for name in ("a", "b")}
    found = bootstrap({key(name): one for name, one in same.items()}, 40, 50, seed=1)
    np.testing.assert_array_equal(found.draws[key("a")], found.draws[key("b")])
    again = bootstrap({key("b"): same["b"]}, 40, 50, seed=1)
    np.testing.assert_array_equal(found.draws[key("b")], again.draws[key("b")])


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    """Users differ in how well they are predicted, so rows drawn alone would be too sure."""
    rng, hits, truth = np.random.default_rng(2), 0, 0.7
    for seed in range(100):
        quality = rng.beta(7, 3, 200)
        won = (rng.random((200, 20)) < quality[:, None]).sum(axis=1).astype(float)
        found = bootstrap({key("a"): Ratio(won, np.full(200, 20.0))}, 200, 200, seed)
        low, high = interval(found.draws[key("a")])
        hits += low <= truth <= high
    assert 87 <= hits <= 100


def test_speed_of_nine_models_two_tasks_and_500_resamples() -> None:
    rng = np.random.default_rng(3)
    user = rng.integers(0, 15_000, 125_000)
    statistics = {}
    for model in range(9):
        for share in (0.1, 0.01):
            label = rng.random(len(user)) < share
            ranking = Ranking.of(label, rng.random(len(user), np.float32) + 0.3 * label, user)
            statistics[key(f"{model} {share}")] = ranking
    started = time.process_time()
    bootstrap(statistics, 15_000, 500, seed=1)
    assert time.process_time() - started < 30  # 1.2 s on an idle core


def test_draws_are_kept_without_pickle(tmp_path) -> None:
    rng = np.random.default_rng(4)
    made = Estimates(
        {key("a"): 0.7, Key("slices", "city", "Xi'an/é", "a", "ctr_auc"): math.nan},
        {key("a"): rng.random(5), Key("slices", "city", "Xi'an/é", "a", "ctr_auc"): rng.random(5)},
        {},
    )
    made.save(tmp_path / "draws.npz")
    read = Estimates.load(tmp_path / "draws.npz")
    assert list(read.value) == list(made.value)
    assert read.value[key("a")] == 0.7
    assert read.by_seed[key("a")] == [0.7]
    for one in made.draws:
        np.testing.assert_array_equal(read.draws[one], made.draws[one])
    made.save(tmp_path / "again.npz")
    assert (tmp_path / "again.npz").read_bytes() == (tmp_path / "draws.npz").read_bytes()


def constant(value: float, model: str = "a") -> Estimates:
    one = key(model)
    return Estimates({one: value}, {one: np.full(400, value)}, {one: [value]})


def test_pooling_adds_the_spread_of_the_seeds() -> None:
    """Three seeds without any spread within: the draws are means of three picks of three values."""
    pooled = pool([constant(value) for value in (0.70, 0.73, 0.76)])
    assert pooled.value[key("a")] == pytest.approx(0.73)
    assert pooled.by_seed[key("a")] == [0.70, 0.73, 0.76]
    possible = {
        round((a + b + c) / 3, 9) for a in (70, 73, 76) for b in (70, 73, 76) for c in (70, 73, 76)
    }
    assert {round(100 * draw, 9) for draw in pooled.draws[key("a")]} <= possible
    # the variance of one pick of {0.70, 0.73, 0.76} is 0.0006, of a mean of three 0.0002
    assert pooled.draws[key("a")].var() == pytest.approx(0.0002, rel=0.2)


def test_pooling_keeps_models_paired() -> None:
    seeds = []
    for number in range(3):
        draws = np.random.default_rng(number).random(300)
        seeds.append(
            Estimates(
                {key("a"): 0.5, key("b"): 0.6},
                {key("a"): draws, key("b"): draws + 0.1},
                {key("a"): [0.5], key("b"): [0.6]},
            )
        )
    pooled = pool(seeds)
    np.testing.assert_allclose(pooled.draws[key("b")] - pooled.draws[key("a")], 0.1)


def test_a_figure_that_a_seed_lacks_is_the_mean_of_the_others() -> None:
    pooled = pool([constant(0.7), constant(0.8), Estimates({}, {key("b"): np.ones(400)}, {})])
    assert pooled.value[key("a")] == pytest.approx(0.75)
    assert math.isnan(pooled.by_seed[key("a")][2])


def test_one_seed_is_left_as_it_is() -> None:
    one = constant(0.7)
    assert pool([one]) is one


def test_interval_is_told_only_where_most_draws_have_a_value() -> None:
    draws = np.linspace(0, 1, 1001)
    assert interval(draws) == pytest.approx((0.025, 0.975))
    draws[:600] = np.nan
    assert all(math.isnan(bound) for bound in interval(draws))


def test_the_same_users_are_no_more_people_with_more_seeds() -> None:
    draws = np.random.default_rng(0).normal(0.7, 0.01, 400)
    seed = Estimates({key("a"): 0.7}, {key("a"): draws}, {key("a"): [0.7]})
    own, same = (pool([seed] * 5, same_users=same).draws[key("a")].std() for same in (False, True))
    assert same == pytest.approx(draws.std(), rel=0.15)
    assert own == pytest.approx(draws.std() / 5**0.5, rel=0.15)
