"""Confidence intervals of metrics: a bootstrap over users, and the pooling of several seeds.

The bootstrap resamples users instead of impressions: impressions of one user are correlated, so
resampling them would give intervals that are too narrow. All rankers and metrics share the same
draws, so that two rankers can be compared draw by draw: their difference varies far less than each
of them does.

The results are rows of one table with the columns `KEYS`, seed, estimate and draws.
U: users, B: resamples, K: rows of the table, S: seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import polars as pl

from larr.metrics import Array, Statistic, ratio

KEYS = ("part", "column", "value", "ranker", "metric")
"""The key of an estimate. `part` is all, cold places or cold users; slice, with a column and its
value; or within, with a column, for the mean over its slices."""
RESAMPLES_AT_ONCE = 32
"""Bounds memory and keeps the weights of 20,000 users in the cache."""
LEVEL = 0.95
STREAM = 25
"""Separates these random numbers from those of other stages with the same seed."""


def bootstrap(
    statistics: Sequence[Statistic],
    users: int,
    resamples: int,
    seed: int,
    advance: Callable[[int], None] = lambda _: None,
) -> tuple[Array, Array]:
    """Returns the statistics of all users [K] and of resampled users [K, B]."""
    estimate_K = np.array([statistic.under(np.ones((users, 1)))[0] for statistic in statistics])
    draws_KB = np.empty((len(statistics), resamples))
    generator = np.random.default_rng((seed, STREAM))
    for start in range(0, resamples, RESAMPLES_AT_ONCE):
        end = min(start + RESAMPLES_AT_ONCE, resamples)
        # weighting a user by the number of draws equals copying the user's rows
        weight_UB = np.empty((users, end - start), np.float32)
        for column in range(end - start):
            drawn_U = generator.integers(0, users, users)
            weight_UB[:, column] = np.bincount(drawn_U, minlength=users)
        for row, statistic in enumerate(statistics):
            draws_KB[row, start:end] = statistic.under(weight_UB)
        advance(end - start)
    return estimate_K, draws_KB


def pool(tables: Sequence[pl.DataFrame], same_users: bool = False) -> pl.DataFrame:
    """Returns the rows of all seeds, followed by the means over the seeds, with a null seed.

    Every seed has a row for each key, with NaN for a missing value. See `pooled_draws`.
    """
    keys = pl.concat([table.select(KEYS) for table in tables]).unique(maintain_order=True)
    resamples = min(table["draws"].to_numpy().shape[1] for table in tables)
    seeds = []
    for table in tables:
        rows = keys.join(table, on=KEYS, how="left", maintain_order="left")
        draws_KB = rows["draws"].to_numpy()[:, :resamples]
        seed = pl.lit(table["seed"][0], pl.Int64)
        seeds.append(rows.with_columns(seed=seed, draws=pl.Series(draws_KB)))
    estimate_KS = np.stack([rows["estimate"].to_numpy() for rows in seeds], axis=1)
    draws_SKB = np.stack([rows["draws"].to_numpy() for rows in seeds])
    mean = keys.with_columns(
        seed=pl.lit(None, pl.Int64),
        estimate=pl.Series(_mean(estimate_KS)),
        draws=pl.Series(pooled_draws(draws_SKB, same_users)),
    )
    return pl.concat([*seeds, mean])


def pooled_draws(draws_SKB: Array, same_users: bool = False) -> Array:
    """Returns draws [K, B] of the means over the seeds.

    Each draw has two levels: seeds with replacement, then one draw of users within each seed.
    Drawing only users would measure these models, but not the variation between trainings. With
    `same_users` all seeds have the same test users and share one draw of them: more seeds then
    reduce only the uncertainty of training, not that of the users.
    """
    seeds, _, resamples = draws_SKB.shape
    if seeds == 1:
        return np.asarray(draws_SKB[0])
    generator = np.random.default_rng((0, STREAM))
    seed_BS = generator.integers(0, seeds, (resamples, seeds))
    draw_BS = generator.integers(0, resamples, (resamples, 1 if same_users else seeds))
    return np.stack([_mean(draws_SB[seed_BS, draw_BS]) for draws_SB in draws_SKB.swapaxes(0, 1)])


def interval(draws_KB: Array) -> tuple[Array, Array]:
    """Returns the percentile intervals of `LEVEL`, low [K] and high [K].

    Both are NaN if at least half of the draws have no value, since the rest would be biased.
    """
    ends = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
    ends_2K = np.quantile(draws_KB, ends, axis=1) if draws_KB.size else np.empty((2, len(draws_KB)))
    finite_KB = np.isfinite(draws_KB)
    for row in np.flatnonzero(~finite_KB.all(axis=1)):
        values = draws_KB[row, finite_KB[row]]
        enough = len(values) > draws_KB.shape[1] / 2
        ends_2K[:, row] = np.quantile(values, ends) if enough else np.nan
    return ends_2K[0], ends_2K[1]


def _mean(values_KS: Array) -> Array:
    """Returns the means over the seeds that have a value, NaN without any."""
    finite_KS = np.isfinite(values_KS)
    return ratio(np.where(finite_KS, values_KS, 0).sum(axis=1), finite_KS.sum(axis=1))
