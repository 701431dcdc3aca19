"""The bootstrap equals a naive twin that copies the rows of the users drawn."""

from __future__ import annotations

import math
import time

import numpy as np
import polars as pl
import pytest

from larr import metrics
from larr.evaluation.bootstrap import KEYS, RESAMPLES_AT_ONCE, STREAM, bootstrap, interval, pool
from larr.metrics import Auc, Ratio


def draws_of(seed: int, users: int, resamples: int) -> list[np.ndarray]:
    generator = np.random.default_rng((seed, STREAM))
    return [generator.integers(0, users, users) for _ in range(resamples)]


def table(draws: dict[str, np.ndarray], estimate: float = 0.7, seed: int = 1) -> pl.DataFrame:
    """The table of a seed, with the draws of each ranker."""
    keys = [("all", "", "", ranker, "ctr_auc") for ranker in draws]
    return pl.DataFrame(keys, schema=KEYS, orient="row").with_columns(
        seed=pl.lit(seed, pl.Int64), estimate=estimate, draws=pl.Series(np.stack([*draws.values()]))
    )


def constant(value: float, seed: int = 1) -> pl.DataFrame:
    return table({"a": np.full(400, value)}, value, seed)


def mean_of(pooled: pl.DataFrame, ranker: str = "a") -> dict:
    row = pooled.filter(pl.col("seed").is_null(), pl.col("ranker") == ranker).to_dicts()[0]
    return row | {"draws": np.array(row["draws"])}


def test_each_draw_equals_the_metric_of_the_copied_rows() -> None:
    rng = np.random.default_rng(0)
    users, resamples = 30, RESAMPLES_AT_ONCE + 3
    user = np.concatenate([np.arange(users), rng.integers(0, users, 400)])
    label, score = rng.random(len(user)) < 0.3, rng.integers(0, 20, len(user)) / 20
    statistics = [Auc.of(label, score, user), metrics.gauc(label, score, user)]
    estimates, draws = bootstrap(statistics, users, resamples, seed=5)
    assert estimates[0] == pytest.approx(metrics.auc(label, score), abs=1e-12)
    for number, drawn in enumerate(draws_of(5, users, resamples)):
        copied = np.concatenate([np.flatnonzero(user == one) for one in drawn])
        # a user drawn twice counts twice, and its copies are different users
        copy = np.concatenate([np.full((user == one).sum(), i) for i, one in enumerate(drawn)])
        expected = metrics.auc(label[copied], score[copied])
        assert draws[0, number] == pytest.approx(expected, abs=1e-12)
        expected = metrics.gauc(label[copied], score[copied], copy).under(np.ones((users, 1)))[0]
        assert draws[1, number] == pytest.approx(expected, abs=1e-12)


def test_all_rankers_share_the_draws() -> None:
    rng = np.random.default_rng(1)
    user, label = rng.integers(0, 40, 500), rng.random(500) < 0.3
    statistic = Auc.of(label, rng.random(500), user)
    _, draws = bootstrap([statistic, statistic], 40, 50, seed=1)
    np.testing.assert_array_equal(draws[0], draws[1])
    np.testing.assert_array_equal(draws[1:], bootstrap([statistic], 40, 50, seed=1)[1])


def test_the_interval_has_its_nominal_coverage() -> None:
    """Users differ in how well they are predicted, so drawing rows would give narrow intervals."""
    rng, hits, truth = np.random.default_rng(2), 0, 0.7
    for seed in range(100):
        quality = rng.beta(7, 3, 200)
        won = (rng.random((200, 20)) < quality[:, None]).sum(axis=1).astype(float)
        _, draws = bootstrap([Ratio(won, np.full(200, 20.0))], 200, 200, seed)
        low, high = interval(draws)
        hits += low[0] <= truth <= high[0]
    assert 87 <= hits <= 100


def test_speed_of_two_tasks_and_500_resamples() -> None:
    rng = np.random.default_rng(3)
    user = rng.integers(0, 15_000, 125_000)
    statistics = []
    for share in (0.1, 0.01):
        label = rng.random(len(user)) < share
        statistics.append(Auc.of(label, rng.random(len(user), np.float32) + 0.3 * label, user))
    started = time.process_time()
    bootstrap(statistics, 15_000, 500, seed=1)
    assert time.process_time() - started < 3  # 0.15 s on an idle core


def test_pooling_adds_the_variance_between_seeds() -> None:
    """Three seeds without variance within: a draw is the mean of three picks of three values."""
    pooled = pool([constant(value, seed) for seed, value in enumerate((0.70, 0.73, 0.76))])
    assert pooled["seed"].to_list() == [0, 1, 2, None]
    assert pooled["estimate"].to_list() == pytest.approx([0.70, 0.73, 0.76, 0.73])
    possible = {
        round((a + b + c) / 3, 9) for a in (70, 73, 76) for b in (70, 73, 76) for c in (70, 73, 76)
    }
    draws = mean_of(pooled)["draws"]
    assert {round(100 * draw, 9) for draw in draws} <= possible
    # the variance of one pick of {0.70, 0.73, 0.76} is 0.0006, of a mean of three 0.0002
    assert draws.var() == pytest.approx(0.0002, rel=0.2)


def test_pooling_keeps_rankers_paired() -> None:
    seeds = []
    for seed in range(3):
        draws = np.random.default_rng(seed).random(300)
        seeds.append(table({"a": draws, "b": draws + 0.1}, seed=seed))
    pooled = pool(seeds)
    difference = mean_of(pooled, "b")["draws"] - mean_of(pooled, "a")["draws"]
    np.testing.assert_allclose(difference, 0.1)


def test_a_metric_missing_in_one_seed_is_the_mean_of_the_others() -> None:
    pooled = pool([constant(0.7, 1), constant(0.8, 2), table({"b": np.ones(400)}, seed=3)])
    assert mean_of(pooled)["estimate"] == pytest.approx(0.75)
    lacking = pooled.filter(pl.col("seed") == 3, pl.col("ranker") == "a")
    assert np.isnan(lacking["estimate"].to_numpy()).all()


def test_pooling_one_seed_changes_nothing() -> None:
    draws = np.random.default_rng(0).random(20)
    pooled = pool([table({"a": draws})])
    assert mean_of(pooled)["estimate"] == 0.7
    np.testing.assert_array_equal(mean_of(pooled)["draws"], draws)


def test_seeds_with_the_same_users_add_no_users() -> None:
    draws = np.random.default_rng(0).normal(0.7, 0.01, 400)
    seeds = [table({"a": draws}, seed=seed) for seed in range(5)]
    others, same = (mean_of(pool(seeds, same))["draws"].std() for same in (False, True))
    assert same == pytest.approx(draws.std(), rel=0.15)
    assert others == pytest.approx(draws.std() / 5**0.5, rel=0.15)


def test_an_interval_needs_a_value_in_most_draws() -> None:
    draws = np.stack([np.linspace(0, 1, 1001)] * 3)
    draws[1, :600] = np.nan
    draws[2, 0] = np.nan
    low, high = interval(draws)
    assert (low[0], high[0]) == pytest.approx((0.025, 0.975))
    assert math.isnan(low[1])
    assert math.isnan(high[1])
    assert (low[2], high[2]) == pytest.approx((0.026, 0.975), abs=1e-3)
