"""All metrics, compared with scikit-learn, a naive twin, or values computed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import log_loss, roc_auc_score

from larr import metrics
from larr.errors import LarrError


def pairs_auc(label: list[int], score: list[float], weight: list[float]) -> float:
    """The definition: the share of correctly ranked pairs; ties count half."""
    won = total = 0.0
    for one, high, first in zip(label, score, weight, strict=True):
        for other, low, second in zip(label, score, weight, strict=True):
            if one == 1 and other == 0:
                total += first * second
                won += first * second * ((high > low) + 0.5 * (high == low))
    return won / total if total else math.nan


rows = st.lists(
    st.tuples(
        st.integers(0, 1),
        st.sampled_from([-1.5, -0.0, 0.0, 0.1, 0.25, 0.5, 0.75, 2.0]),
        st.integers(0, 3),
        st.integers(0, 4),
    ),
    min_size=1,
    max_size=40,
)


def gauc(label: np.ndarray, score: np.ndarray, user: np.ndarray) -> float:
    users = int(user.max()) + 1 if len(user) else 0
    return float(metrics.gauc(label, score, user).under(np.ones((users, 1)))[0])


@given(rows)
@settings(deadline=None, max_examples=100)
def test_weighted_auc_is_the_share_of_pairs_won(data) -> None:
    label, score, weight, _ = map(list, zip(*data, strict=True))
    weights = np.array([weight, [1] * len(weight)]).T
    user = np.arange(len(label))
    found = metrics.Auc.of(np.array(label), np.array(score), user).under(weights.astype(float))
    expected = [pairs_auc(label, score, weight), pairs_auc(label, score, [1] * len(weight))]
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@given(rows)
@settings(deadline=None, max_examples=100)
def test_gauc_is_the_weighted_mean_auc_of_users(data) -> None:
    label, score, _, user = (np.array(column) for column in zip(*data, strict=True))
    found = metrics.gauc(label, score, user)
    for number in range(user.max() + 1):
        is_user = user == number
        expected = pairs_auc(list(label[is_user]), list(score[is_user]), [1] * is_user.sum())
        weight = 0 if np.isnan(expected) else is_user.sum()
        assert found.denominator_U[number] == weight
        assert found.numerator_U[number] == pytest.approx(weight and weight * expected)


def test_auc_equals_scikit_learn_with_and_without_ties() -> None:
    rng = np.random.default_rng(0)
    label = rng.random(5_000) < 0.2
    for score in (rng.random(5_000, np.float32), rng.integers(0, 7, 5_000) / 7):
        assert metrics.auc(label, score) == pytest.approx(roc_auc_score(label, score), abs=1e-12)


def test_auc_by_hand() -> None:
    # the positive 0.5 beats 0.1 and ties with 0.5: (1 + 1/2) of 2 pairs; 0.9 wins both
    assert metrics.auc(np.array([1, 0, 0, 1]), np.array([0.5, 0.5, 0.1, 0.9])) == 3.5 / 4


@pytest.mark.parametrize("label", [[], [0, 0], [1, 1]])
def test_auc_of_one_class_is_nan(label) -> None:
    assert math.isnan(metrics.auc(np.array(label), np.ones(len(label))))
    assert math.isnan(gauc(np.array(label, int), np.ones(len(label)), np.zeros(len(label), int)))


def test_gauc_by_hand_drops_users_of_one_class_from_both_sums() -> None:
    user = np.array([0, 0, 0, 1, 1, 2, 2, 2])
    label = np.array([1, 0, 0, 0, 1, 0, 0, 0])
    score = np.array([0.5, 0.1, 0.9, 0.2, 0.8, 0.9, 0.1, 0.5])
    # user 0: AUC 1/2 over 3 impressions; user 1: AUC 1 over 2; user 2 has no click
    assert gauc(label, score, user) == pytest.approx((3 * 0.5 + 2 * 1.0) / 5)


def test_gauc_of_many_rows_equals_a_loop_over_users() -> None:
    rng = np.random.default_rng(1)
    user = rng.integers(0, 20_000, 200_000)
    label, score = rng.random(200_000) < 0.1, rng.random(200_000, np.float32)
    few = user < 200
    won = total = 0.0
    for number in range(200):
        is_user = user == number
        if 0 < label[is_user].sum() < is_user.sum():
            won += is_user.sum() * roc_auc_score(label[is_user], score[is_user])
            total += is_user.sum()
    assert gauc(label[few], score[few], user[few]) == pytest.approx(won / total, abs=1e-12)


def test_log_loss_equals_scikit_learn_and_is_finite_at_0_and_1() -> None:
    rng = np.random.default_rng(2)
    label, probability = rng.random(1_000) < 0.3, rng.random(1_000)
    assert metrics.log_loss(label, probability) == pytest.approx(log_loss(label, probability))
    assert metrics.log_loss(np.array([1]), np.array([0.0])) == pytest.approx(-math.log(1e-7))
    assert metrics.log_loss(np.array([1, 0]), np.array([0.25, 0.5])) == pytest.approx(
        (math.log(4) + math.log(2)) / 2
    )


def test_calibration_by_hand() -> None:
    label = np.array([0, 1, 0, 1, 1, 1])
    probability = np.array([0.1, 0.1, 0.1, 0.9, 0.5, 0.7])
    result = metrics.calibration(label, probability, bins=2)
    first, second = result["bins"]
    assert first == {"impressions": 3, "predicted": pytest.approx(0.1), "observed": 1 / 3}
    assert second == {"impressions": 3, "predicted": pytest.approx(0.7), "observed": 1.0}
    assert result["error"] == pytest.approx(0.5 * (1 / 3 - 0.1) + 0.5 * 0.3)
    assert result["observed_over_expected"] == pytest.approx(4 / 2.4)


def test_equal_predictions_share_a_bin_whatever_their_order() -> None:
    label, constant = np.array([1, 0, 0, 0]), np.full(4, 0.25)
    for order in ([0, 1, 2, 3], [3, 2, 1, 0]):
        bins = metrics.calibration(label[order], constant, bins=4)["bins"]
        assert bins == [{"impressions": 4, "predicted": 0.25, "observed": 0.25}] + [None] * 3


def test_true_probabilities_are_calibrated() -> None:
    rng = np.random.default_rng(3)
    probability = rng.random(100_000)
    assert metrics.calibration(rng.random(100_000) < probability, probability)["error"] < 0.007


def test_gains_of_the_paper() -> None:
    assert metrics.gain_percent(0.8030, 0.7983) == pytest.approx(0.589, abs=5e-4)
    assert metrics.rela_impr_percent(0.8030, 0.7983) == pytest.approx(1.58, abs=5e-3)


def test_gains_over_zero_are_nan() -> None:
    assert np.isnan(metrics.gain_percent(0.5, 0.0))
    assert np.isnan(metrics.rela_impr_percent(np.array([0.6, 0.6]), np.array([0.5, 0.4]))).all()


def test_nan_scores_are_refused() -> None:
    broken = np.array([0.1, np.nan])
    for metric in (metrics.auc, metrics.log_loss, metrics.calibration):
        with pytest.raises(LarrError, match="1 of 2 scores are NaN"):
            metric(np.array([0, 1]), broken)
    with pytest.raises(LarrError, match="NaN"):
        gauc(np.array([0, 1]), broken, np.array([0, 0]))
