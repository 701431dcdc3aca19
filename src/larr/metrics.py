"""Metrics of scores against labels, and their registry `METRICS`.

A metric is computed as a statistic, which reads labels and scores once and then returns the value
for many weightings of the users, as the bootstrap requires. Decision 25.

N: impressions, U: users, B: weightings of the users, P: distinct scores of positives, K: bins,
Q: pairs of a user and one of the user's distinct scores.
Labels are 0 or 1, scores are read as float32, users are integers from 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy.sparse import csr_array

from larr.errors import LarrError
from larr.plugins import with_plugins

Array = npt.NDArray[Any]
TASKS = {"click": "ctr", "order": "ctcvr"}
"""Label -> task; CTCVR is computed over all impressions. Decision 25."""
LOWEST_PROBABILITY = 1e-7


class Statistic(Protocol):
    """A value that can be computed for any weights of the users."""

    def under(self, weight_UB: Array) -> Array:
        """Returns the value [B] for each column of weights, NaN if it is undefined."""


@dataclass(frozen=True)
class Ratio:
    """The ratio of two sums over users, such as GAUC or LogLoss."""

    numerator_U: Array
    denominator_U: Array

    def under(self, weight_UB: Array) -> Array:
        """Returns the ratios [B] of the weighted sums."""
        weight_UB = weight_UB[: len(self.numerator_U)].astype(np.float64)
        return ratio(self.numerator_U @ weight_UB, self.denominator_U @ weight_UB)


@dataclass(frozen=True)
class Auc:
    """The AUC: the share of pairs of a positive and a negative that are ranked correctly.

    Row p of `positive_PU` counts each user's positives with the p-th distinct score; row p of
    `negative_PU` the negatives for which this is the lowest higher score.
    """

    # Sorting once serves all resamples. scikit-learn's roc_auc_score with sample_weight sorts for
    # each: 100,000 impressions and 500 resamples take 9.8 s there, under 1 s here (one core).
    positive_PU: csr_array
    negative_PU: csr_array

    @classmethod
    def of(cls, label_N: Array, score_N: Array, user_N: Array) -> Auc:
        """Sorts the impressions; raises LarrError if a score is NaN."""
        check_scores(score_N)
        score_N = np.asarray(score_N, np.float32)
        order_N = np.argsort(score_N)
        score_N, user_N = score_N[order_N], user_N[order_N]
        is_positive_N = np.asarray(label_N, bool)[order_N]
        users = int(user_N.max()) + 1 if len(user_N) else 0
        threshold_P, positive_row = np.unique(score_N[is_positive_N], return_inverse=True)
        negative_score, negative_user = score_N[~is_positive_N], user_N[~is_positive_N]
        first_row = np.searchsorted(threshold_P, negative_score)
        tied = np.append(threshold_P, np.nan)[first_row] == negative_score
        # Ties count half: a tied negative counts 0.5 at its own score and 1 from the next one on.
        value = np.concatenate([np.where(tied, 0.5, 1.0), np.full(tied.sum(), 0.5)])
        row = np.concatenate([first_row, first_row[tied] + 1])
        column = np.concatenate([negative_user, negative_user[tied]])
        shape = (len(threshold_P), users)
        positive = (np.ones(len(positive_row)), (positive_row, user_N[is_positive_N]))
        # The last row of the negatives holds those above all positives.
        return cls(
            csr_array(positive, shape=shape, dtype=np.float32),
            csr_array((value, (row, column)), shape=(shape[0] + 1, users), dtype=np.float32),
        )

    def under(self, weight_UB: Array) -> Array:
        """Returns the AUC [B] for each column of weights, NaN if a class is missing."""
        # float32 is exact for sums of multiples of 0.5 up to 2^23, and twice as fast.
        exact = np.float32 if self.negative_PU.nnz < 2**22 else np.float64
        weight_UB = weight_UB[: self.negative_PU.shape[1]].astype(exact)
        positive_PB = self.positive_PU @ weight_UB
        below_PB = np.cumsum(self.negative_PU @ weight_UB, axis=0)
        wins_B = np.einsum("pb,pb->b", positive_PB, below_PB[:-1], dtype=np.float64)
        return ratio(wins_B, positive_PB.sum(axis=0, dtype=np.float64) * below_PB[-1])


def gauc(label_N: Array, score_N: Array, user_N: Array) -> Ratio:
    """Returns the mean AUC per user, weighted by impressions.

    Users with a single class are excluded. The weights are impressions, as in the papers on DIN and
    PLE: with equal weights, users with two or three impressions, whose AUC is mostly noise, would
    dominate.
    """
    check_scores(score_N)
    # One sort of integers (user, score, label) takes a quarter of the time of ranking within users.
    # The bits of a non-negative float order like the float, those of a negative one backward.
    bits_N = (np.asarray(score_N, np.float32) + np.float32(0)).view(np.int32)  # -0 becomes 0
    order_N = np.where(bits_N < 0, bits_N ^ 0x7FFFFFFF, bits_N).astype(np.int64) + 2**31
    key_N = np.asarray(user_N, np.int64) << 33 | order_N << 1 | np.asarray(label_N, bool)
    key_N.sort()
    first_Q = np.flatnonzero(np.diff(key_N >> 1, prepend=-1))
    user_Q = key_N[first_Q] >> 33
    positives_Q = np.add.reduceat(key_N & 1, first_Q)
    negatives_Q = np.diff(first_Q, append=len(key_N)) - positives_Q
    positives_U, negatives_U = (np.bincount(user_Q, each) for each in (positives_Q, negatives_Q))
    # The user's negatives with lower scores; ties count half.
    below_Q = np.cumsum(negatives_Q) - negatives_Q / 2
    below_Q -= (np.cumsum(negatives_U) - negatives_U)[user_Q]
    auc_U = ratio(np.bincount(user_Q, positives_Q * below_Q), positives_U * negatives_U)
    weight_U = np.where(np.isfinite(auc_U), positives_U + negatives_U, 0.0)
    return Ratio(np.nan_to_num(auc_U) * weight_U, weight_U)


def mean_of(value_N: Array, user_N: Array) -> Ratio:
    """Returns the mean of a value over impressions."""
    return Ratio(np.bincount(user_N, weights=value_N), np.bincount(user_N).astype(np.float64))


@dataclass(frozen=True)
class Metric:
    """A metric of one task: its computation and its presentation."""

    title: str
    statistic: Callable[[Array, Array, Array], Statistic]
    """Labels [N], scores [N] and users [N] -> the statistic."""
    description: str
    """For the report, after "TITLE: "."""
    higher_is_better: bool = True
    chance: float | None = None
    """The value of random scores; if set, gains are also reported as RelaImpr."""
    headline: bool = True
    """Whether it is also computed for cold parts and slices, and plotted."""


METRICS = {
    "auc": Metric(
        "AUC",
        Auc.of,
        "the chance that an impression with the label scores above one without; a tie counts half",
        chance=0.5,
    ),
    "gauc": Metric(
        "GAUC",
        gauc,
        "the AUC within each user who has both labels, weighted by impressions",
        chance=0.5,
        headline=False,
    ),
    "logloss": Metric(
        "LogLoss",
        lambda label_N, score_N, user_N: mean_of(log_losses(label_N, score_N), user_N),
        "the mean binary cross-entropy, in nats",
        higher_is_better=False,
        headline=False,
    ),
}
"""Name -> metric. Other packages add metrics by entry points in `larr.metrics`."""


def registered() -> dict[str, Metric]:
    """Returns `METRICS` and those of other packages."""
    return with_plugins(METRICS, "metrics")


def task_metrics(tasks: Iterable[str] = TASKS.values()) -> dict[str, Metric]:
    """Returns the metrics of tasks by names such as ctr_auc, with complete titles."""
    tasks = list(tasks)
    return {
        f"{task}_{name}": replace(metric, title=f"{task.upper()} {metric.title}")
        for name, metric in registered().items()
        for task in tasks
    }


def auc(label_N: Array, score_N: Array) -> float:
    """Returns the AUC over all impressions, NaN if a class is missing."""
    one_user_N = np.zeros(len(label_N), np.int64)
    return float(Auc.of(label_N, score_N, one_user_N).under(np.ones((1, 1)))[0])


def log_losses(label_N: Array, probability_N: Array) -> Array:
    """Returns the binary cross-entropy of each impression, in nats."""
    check_scores(probability_N)
    probability_N = np.asarray(probability_N, np.float64)
    seen_N = np.where(np.asarray(label_N, bool), probability_N, 1 - probability_N)
    # Clipped, as one wrong prediction of 0 or 1 would make the mean infinite.
    losses_N: Array = -np.log(np.clip(seen_N, LOWEST_PROBABILITY, 1 - LOWEST_PROBABILITY))
    return losses_N


def log_loss(label_N: Array, probability_N: Array) -> float:
    """Returns the mean binary cross-entropy, in nats."""
    return float(log_losses(label_N, probability_N).mean())


def calibration(label_N: Array, probability_N: Array, bins: int = 10) -> dict[str, Any]:
    """Returns observed over expected positives, the reliability table, and the calibration error.

    The table has bins of equal count by prediction. Equal predictions share a bin, so bins can be
    empty (None). The error is the mean absolute difference of predicted and observed shares,
    weighted by impressions.
    """
    check_scores(probability_N)
    frame = pl.DataFrame({"predicted": probability_N, "observed": label_N}).cast(pl.Float64)
    # Equal predictions have equal ranks, and so the same bin.
    bin_number = (pl.col("predicted").rank("min").cast(pl.Int64) - 1) * bins // pl.len()
    # Sorted, as the last digit of sums depends on their order.
    groups = frame.sort("predicted").group_by(bin=bin_number, maintain_order=True)
    table = groups.agg(pl.len().alias("impressions"), pl.col("predicted", "observed").mean())
    by_bin = {row.pop("bin"): row for row in table.to_dicts()}
    errors = table["impressions"] * (table["predicted"] - table["observed"]).abs()
    return {
        "observed_over_expected": float(ratio(*frame.select("observed", "predicted").sum().row(0))),
        "error": float(ratio(errors.to_numpy().sum(), frame.height)),
        "bins": [by_bin.get(number) for number in range(bins)],
    }


def gain_percent(value: Array | float, base: Array | float) -> Array:
    """Returns the relative gain of a metric, in %. Paper: +0.589 % is this gain of the AUC."""
    return 100 * (ratio(value, base) - 1)


def rela_impr_percent(
    value: Array | float, base: Array | float, chance: Array | float = 0.5
) -> Array:
    """Returns RelaImpr, the relative gain of `metric - chance`, in %; NaN for a base at chance."""
    above = np.asarray(base, np.float64) - chance
    return 100 * (ratio(np.asarray(value) - chance, np.where(above > 0, above, np.nan)) - 1)


def ratio(numerator: Array | float, denominator: Array | float) -> Array:
    """Returns the quotient, NaN if the denominator is zero."""
    denominator = np.asarray(denominator, np.float64)
    return np.asarray(numerator, np.float64) / np.where(denominator == 0, np.nan, denominator)


def check_scores(score_N: Array) -> None:
    """Raises LarrError if a score is NaN."""
    broken = int(np.isnan(score_N).sum())
    if broken:
        raise LarrError(
            f"{broken} of {len(score_N)} scores are NaN, as training diverged; set a lower "
            "learning rate and run `larr align` again"
        )
