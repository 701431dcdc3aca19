"""Paired intervals: users are drawn with replacement, the same draws for every model and metric.

A statistic is sorted or summed once and then read under many weightings of the users, a user's
weight being how often it was drawn. Several seeds are pooled in two levels: seeds, then the users
within each of them.

N: impressions, U: users, B: resamples, P: positives, G: groups of equal scores with both classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from larr import artifacts
from larr.metrics import check_scores, ratio

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]
RESAMPLES_AT_ONCE = 32
LEVEL = 0.95
STREAM = 25
"""Keeps these random numbers apart from those of other stages with the same seed."""


class Key(NamedTuple):
    """What a statistic is of; `kind` is all, cold, slices or within, the first with no column."""

    kind: str
    column: str
    value: str
    model: str
    metric: str


class Statistic(Protocol):
    """A figure of the test set that can be read under any weights of the users."""

    def under(self, weight_UB: Tensor) -> Floats:
        """The figure [B] under whole weights of the users, NaN where it is not defined."""


@dataclass(frozen=True)
class Ratio:
    """A sum over users by another sum: GAUC, LogLoss, observed by expected."""

    numerator_U: Floats
    denominator_U: Floats

    def under(self, weight_UB: Tensor) -> Floats:
        """The ratio of the weighted sums."""
        sums_2U = torch.from_numpy(np.stack([self.numerator_U, self.denominator_U]))
        numerator_B, denominator_B = (sums_2U @ weight_UB.double()).numpy()
        return ratio(numerator_B, denominator_B)


@dataclass(frozen=True)
class Bags:
    """Users in consecutive bags; a bag starts at its offset and may be empty."""

    user_N: Tensor
    offset_K: Tensor

    @classmethod
    def of(cls, user_N: Array, offset_K: Array) -> Self:
        """Bags from numpy arrays."""
        return cls(
            torch.from_numpy(np.ascontiguousarray(user_N, np.int32)),
            torch.from_numpy(np.ascontiguousarray(offset_K, np.int32)),
        )

    def sums(self, weight_UB: Tensor) -> Tensor:
        """The weight [K, B] of each bag; exact, as whole numbers below 2^24 are in float32."""
        return embedding_bag(self.user_N, weight_UB, self.offset_K, mode="sum").double()


@dataclass(frozen=True)
class Ranking:
    """The AUC, as one sort of the impressions by score.

    Positives with the same number of negatives at or below them share a bag; the negatives
    between two such bags share one too. Ties are taken as won, and half of them is given back.
    """

    positives: Bags
    negatives: Bags
    tied_positives: Bags
    tied_negatives: Bags

    @classmethod
    def of(cls, label_N: Array, score_N: Array, user_N: Array) -> Self:
        """Sorts the impressions; `user_N` are the rows of the weights."""
        check_scores(score_N)
        score_N, positive_N = np.asarray(score_N, np.float32), np.asarray(label_N, bool)
        order_N = np.lexsort((positive_N, score_N))
        score_N, positive_N, user_N = score_N[order_N], positive_N[order_N], user_N[order_N]
        below_P = np.cumsum(~positive_N)[positive_N]
        distinct_K, first_K = np.unique(below_P, return_index=True)
        return cls(
            Bags.of(user_N[positive_N], first_K),
            Bags.of(user_N[~positive_N], np.concatenate([[0], distinct_K])),
            *_tied(score_N, positive_N, user_N),
        )

    def under(self, weight_UB: Tensor) -> Floats:
        """The weighted AUC."""
        positive_KB = self.positives.sums(weight_UB)
        negative_KB = self.negatives.sums(weight_UB)
        wins_B = (positive_KB * negative_KB[:-1].cumsum(0)).sum(0)
        if len(self.tied_positives.offset_K):
            tied_GB = self.tied_positives.sums(weight_UB) * self.tied_negatives.sums(weight_UB)
            wins_B -= tied_GB.sum(0) / 2
        return ratio(wins_B.numpy(), (positive_KB.sum(0) * negative_KB.sum(0)).numpy())


def _tied(score_N: Array, positive_N: Array, user_N: Array) -> tuple[Bags, Bags]:
    group_N = np.cumsum(np.concatenate([[False], score_N[1:] != score_N[:-1]])[: len(score_N)])
    size_G = np.bincount(group_N)
    positives_G = np.bincount(group_N, weights=positive_N)
    is_mixed_N = ((positives_G > 0) & (positives_G < size_G))[group_N]
    bags = []
    for chosen_N in (is_mixed_N & positive_N, is_mixed_N & ~positive_N):
        first_G = np.unique(group_N[chosen_N], return_index=True)[1]
        bags.append(Bags.of(user_N[chosen_N], first_G))
    return bags[0], bags[1]


@dataclass(frozen=True)
class Estimates:
    """Statistics with their draws; `by_seed` has one value for each seed, NaN if it has none."""

    value: dict[Key, float]
    draws: dict[Key, Floats]
    by_seed: dict[Key, list[float]]

    def save(self, path: Path) -> None:
        """Writes the values and draws of one seed, without pickle."""
        keys = list(self.value)
        values_K = np.array([self.value[key] for key in keys])
        draws_KB = np.array([self.draws[key] for key in keys])
        with artifacts.atomic(path) as partial, partial.open("wb") as file:
            np.savez(file, keys=np.array(keys, dtype=np.str_), values=values_K, draws=draws_KB)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Reads what `save` wrote."""
        with np.load(path, allow_pickle=False) as stored:
            keys = [Key(*map(str, row)) for row in stored["keys"]]
            values, draws = stored["values"].tolist(), stored["draws"]
        return cls(
            dict(zip(keys, values, strict=True)),
            dict(zip(keys, draws, strict=True)),
            {key: [value] for key, value in zip(keys, values, strict=True)},
        )


def bootstrap(
    statistics: dict[Key, Statistic],
    users: int,
    resamples: int,
    seed: int,
    advance: Callable[[int], None] = lambda _: None,
) -> Estimates:
    """Every statistic as it is and under the same `resamples` draws of the users."""
    once_U1 = torch.ones(users, 1)
    value = {key: float(statistic.under(once_U1)[0]) for key, statistic in statistics.items()}
    draws = {key: np.empty(resamples) for key in statistics}
    generator = np.random.default_rng((seed, STREAM))
    for start in range(0, resamples, RESAMPLES_AT_ONCE):
        end = min(start + RESAMPLES_AT_ONCE, resamples)
        weight_UB = _drawn(generator, users, end - start)
        for key, statistic in statistics.items():
            draws[key][start:end] = statistic.under(weight_UB)
        advance(end - start)
    return Estimates(value, draws, {key: [value[key]] for key in value})


def _drawn(generator: np.random.Generator, users: int, resamples: int) -> Tensor:
    weight_UB = np.empty((users, resamples), np.float32)
    for column in range(resamples):
        drawn_U = generator.integers(0, users, users)
        weight_UB[:, column] = np.bincount(drawn_U, minlength=users)
    return torch.from_numpy(weight_UB)


def pool(seeds: list[Estimates], same_users: bool = False, random_seed: int = 0) -> Estimates:
    """The mean over seeds; a draw takes seeds with replacement, and a draw of users in each.

    With `same_users` the users of all seeds are the same people, drawn alike for each of them; then
    more seeds make the training more certain, and the users no more than they are.
    """
    if len(seeds) == 1:
        return seeds[0]
    resamples = min(len(next(iter(one.draws.values()))) for one in seeds)
    generator = np.random.default_rng((random_seed, STREAM))
    seed_BS = generator.integers(0, len(seeds), (resamples, len(seeds)))
    draw_BS = generator.integers(0, resamples, (resamples, 1 if same_users else len(seeds)))
    keys = list(dict.fromkeys(key for one in seeds for key in one.value))
    missing_B = np.full(resamples, np.nan)
    by_seed = {key: [one.value.get(key, np.nan) for one in seeds] for key in keys}
    draws = {}
    for key in keys:
        draws_SB = np.stack([one.draws.get(key, missing_B)[:resamples] for one in seeds])
        draws[key] = _mean(draws_SB[seed_BS, draw_BS])
    value = {key: float(_mean(np.array([by_seed[key]]))[0]) for key in keys}
    return Estimates(value, draws, by_seed)


def _mean(values_BS: Floats) -> Floats:
    """The mean over the seeds that have a value; NaN where none has."""
    has_BS = np.isfinite(values_BS)
    return ratio(np.where(has_BS, values_BS, 0).sum(axis=1), has_BS.sum(axis=1))


def interval(draws_B: Floats) -> tuple[float, float]:
    """The percentile interval of LEVEL; NaN if half of the draws or more have no value."""
    finite_B = draws_B[np.isfinite(draws_B)]
    if len(finite_B) <= len(draws_B) / 2:
        return float("nan"), float("nan")
    low, high = np.quantile(finite_B, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
