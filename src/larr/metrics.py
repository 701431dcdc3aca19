"""Metrics of scores against labels; equal scores count half, and each metric needs one sort.

N: impressions, U: users, B: weightings of the impressions, G: groups of equal scores, K: bins.
Labels are 0 or 1; scores are read as float32. Decision 25.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from larr.errors import LarrError

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]
TASKS = {"click": "ctr", "order": "ctcvr"}
"""A label -> the name of its metrics; CTCVR is over all impressions. Decision 25."""
LOWEST_PROBABILITY = 1e-7


class UserAuc(NamedTuple):
    """The AUC of each user, NaN where the user has one class only, and the user's impressions."""

    auc_U: Floats
    impressions_U: npt.NDArray[np.int64]


class Bin(NamedTuple):
    """Impressions of near predictions: their number, mean prediction and share of positives."""

    impressions: int
    predicted: float
    observed: float


def auc(label_N: Array, score_N: Array) -> float:
    """The chance that a positive scores above a negative; NaN if one class is missing."""
    return float(weighted_auc(label_N, score_N, np.ones((len(label_N), 1)))[0])


def weighted_auc(label_N: Array, score_N: Array, weight_NB: Array) -> Floats:
    """The AUC [B] under each column of weights of the impressions; NaN without both classes."""
    check_scores(score_N)
    if not len(score_N):
        return np.full(weight_NB.shape[1], np.nan)
    order_N = np.argsort(score_N, kind="stable")
    sorted_N = np.asarray(score_N, np.float32)[order_N]
    start_G = np.flatnonzero(np.concatenate([[True], sorted_N[1:] != sorted_N[:-1]]))
    weight_NB = np.asarray(weight_NB, np.float64)[order_N]
    positive_N1 = np.asarray(label_N, bool)[order_N, None]
    positive_GB = np.add.reduceat(weight_NB * positive_N1, start_G)
    negative_GB = np.add.reduceat(weight_NB * ~positive_N1, start_G)
    below_GB = np.cumsum(negative_GB, axis=0) - negative_GB / 2
    wins_B = (positive_GB * below_GB).sum(axis=0)
    return ratio(wins_B, positive_GB.sum(axis=0) * negative_GB.sum(axis=0))


def auc_by_user(label_N: Array, score_N: Array, user_N: Array) -> UserAuc:
    """The AUC within each user; `user_N` holds numbers from 0 to U-1, each below 2^31."""
    check_scores(score_N)
    users = int(user_N.max()) + 1 if len(user_N) else 0
    key_N = (user_N.astype(np.uint64) << 33) | (_sortable(score_N) << 1) | label_N.astype(np.uint64)
    key_N.sort()
    positive_N = (key_N & 1).astype(bool)
    user_N = (key_N >> 33).astype(np.int64)
    below_N = np.concatenate([[0], np.cumsum(~positive_N)])
    group_N = key_N >> 1
    is_start_N = np.concatenate([[True], group_N[1:] != group_N[:-1]])[: len(key_N)]
    start_N = np.maximum.accumulate(np.where(is_start_N, np.arange(len(key_N)), 0))
    impressions_U = np.bincount(user_N, minlength=users)
    positives_U = np.bincount(user_N[positive_N], minlength=users)
    first_U = np.cumsum(impressions_U) - impressions_U
    wins_N = (below_N[:-1] + below_N[start_N])[positive_N] / 2 - below_N[first_U][
        user_N[positive_N]
    ]
    wins_U = np.bincount(user_N[positive_N], weights=wins_N, minlength=users)
    return UserAuc(ratio(wins_U, positives_U * (impressions_U - positives_U)), impressions_U)


def gauc(label_N: Array, score_N: Array, user_N: Array) -> float:
    """The mean AUC of the users, weighted by impressions; one-class users are in neither sum."""
    auc_U, impressions_U = auc_by_user(label_N, score_N, user_N)
    left_U = np.isfinite(auc_U)
    return float(ratio((auc_U[left_U] * impressions_U[left_U]).sum(), impressions_U[left_U].sum()))


def log_losses(label_N: Array, probability_N: Array) -> Floats:
    """The binary cross-entropy of each impression, in nats; probabilities are kept off 0 and 1."""
    check_scores(probability_N)
    clipped_N = np.clip(
        np.asarray(probability_N, np.float64), LOWEST_PROBABILITY, 1 - LOWEST_PROBABILITY
    )
    return -np.log(np.where(np.asarray(label_N, bool), clipped_N, 1 - clipped_N))


def log_loss(label_N: Array, probability_N: Array) -> float:
    """The mean binary cross-entropy, in nats."""
    return float(log_losses(label_N, probability_N).mean())


def calibration(label_N: Array, probability_N: Array, bins: int = 10) -> list[Bin | None]:
    """The reliability table: bins of equal count by prediction; None for an empty one.

    Equal predictions share a bin, so a model of few distinct predictions leaves bins empty.
    """
    check_scores(probability_N)
    order_N = np.argsort(probability_N, kind="stable")
    sorted_N = np.asarray(probability_N, np.float64)[order_N]
    first_N = np.searchsorted(sorted_N, sorted_N)
    bin_N = first_N * bins // max(len(sorted_N), 1)
    count_K = np.bincount(bin_N, minlength=bins)
    predicted_K = np.bincount(bin_N, weights=sorted_N, minlength=bins)
    observed_K = np.bincount(bin_N, weights=np.asarray(label_N)[order_N], minlength=bins)
    return [
        Bin(int(count), float(predicted / count), float(observed / count)) if count else None
        for count, predicted, observed in zip(count_K, predicted_K, observed_K, strict=True)
    ]


def calibration_error(table: list[Bin | None]) -> float:
    """The mean distance of predicted and observed shares over the bins, weighted by impressions."""
    filled = [row for row in table if row is not None]
    off = sum(row.impressions * abs(row.predicted - row.observed) for row in filled)
    return float(ratio(off, sum(row.impressions for row in filled)))


def gain_percent(value: Array | float, base: Array | float) -> Floats:
    """The ratio of two metrics minus 1, in %. Paper: +0.589 % is this ratio of AUCs."""
    return 100 * (ratio(value, base) - 1)


def rela_impr_percent(value: Array | float, base: Array | float) -> Floats:
    """RelaImpr: the ratio of (AUC - 0.5) minus 1, in %; NaN if the base is at 0.5 or below."""
    above_base = np.asarray(base, np.float64) - 0.5
    return 100 * (ratio(np.asarray(value) - 0.5, np.where(above_base > 0, above_base, np.nan)) - 1)


def ratio(numerator: Array | float, denominator: Array | float) -> Floats:
    """A division whose result is NaN where the denominator is zero."""
    denominator = np.asarray(denominator, np.float64)
    return np.asarray(numerator, np.float64) / np.where(denominator == 0, np.nan, denominator)


def check_scores(score_N: Array) -> None:
    """Raises LarrError if a score is NaN: it has no place in a ranking."""
    broken = int(np.isnan(score_N).sum())
    if broken:
        raise LarrError(
            f"{broken} of {len(score_N)} scores are NaN; the model diverged in training: "
            "lower its learning rate and run `larr align` again"
        )


def _sortable(score_N: Array) -> npt.NDArray[np.uint64]:
    """Whole numbers in the order of the scores; -0 and 0 give the same one."""
    bits_N = (np.asarray(score_N, np.float32) + np.float32(0)).view(np.uint32)
    is_negative_N = bits_N >> 31 == 1
    return np.where(is_negative_N, ~bits_N, bits_N | np.uint32(1 << 31)).astype(np.uint64)
