"""Situations: groups of contexts in which people order similar places.

A context is a combination of scene categories, such as lunch at the office. The orders of a user in
the contexts of the request's situation are one sub-sequence for all its candidates, as in CoFARS
(arXiv 2403.12566), which predicts the divergence of contexts from learned vectors because it has
millions of them, one for each user. Here the contexts of all users are few, so their divergences
are computed exactly and are clustered once; the sub-sequence is still the user's own.

Shapes: N rows, P places (row 0 for unknown), C contexts that occur, A values of an attribute, F
categories.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import numpy as np
import polars as pl

from larr.config import Config
from larr.data.features import FeatureEncoder
from larr.data.names import PLACE, USER
from larr.data.transforms import Array, Levels, with_levels
from larr.errors import ConfigError

SITUATIONS = "situations.npy"
MAX_CONTEXTS = 2_000
"""The divergences of all pairs of this many contexts take seconds and 32 MB."""
PRIOR_ORDERS = 50.0
"""Orders with the attributes of all orders that are added to each context, so that rare contexts
resemble the average."""


@dataclass(frozen=True, eq=False)
class Situations:
    """The situation of each context."""

    columns: tuple[int, ...]
    """The positions of the contexts' columns among the categories."""
    table: Array
    """The situation of each combination of category indices, int32, one axis for each column; 0 for
    a context without an order."""
    orders: pl.DataFrame = field(default_factory=pl.DataFrame)
    """The orders of the log, with their `situation`, except those in situation 0."""

    @property
    def count(self) -> int:
        """The number of situations without 0, at least 1."""
        return max(int(self.table.max()), 1)

    def of(self, context_NF: Array) -> Array:
        """Returns the situation of the category indices of the contexts' columns, int32 [N]."""
        found: Array = self.table[tuple(context_NF.T)]
        return found

    def save(self, folder: Path) -> None:
        np.save(folder / SITUATIONS, self.table)

    @classmethod
    def load(cls, config: Config, folder: Path) -> Self | None:
        """Reads the situations, without orders; None without `features.situation`."""
        if not config.features.situation:
            return None
        return cls(_positions(config), np.load(folder / SITUATIONS))


def _positions(config: Config) -> tuple[int, ...]:
    names = list(dict.fromkeys(config.features.categories))
    return tuple(names.index(name) for name in config.features.situation)


def fit_situations(
    config: Config,
    orders: pl.DataFrame,
    places: pl.DataFrame,
    encoder: FeatureEncoder,
    levels: Sequence[Levels],
) -> Situations:
    """Returns the situations of the contexts of the training orders.

    `orders` are those of the log and of its history, `places` all places in row order. Raises
    ConfigError for too many contexts.
    """
    settings = config.features
    sizes = [len(encoder.vocabularies[name].texts) + 1 for name in settings.situation]
    index_NF = _indices(orders, settings.situation, encoder, levels)
    context_N = np.ravel_multi_index(tuple(index_NF.T), sizes)
    is_train_N = (orders["split"] != "test").fill_null(value=True).to_numpy()
    contexts, trained_N = np.unique(context_N[is_train_N], return_inverse=True)
    if len(contexts) > MAX_CONTEXTS:
        raise ConfigError(
            f"features.situation: {', '.join(settings.situation)} have {len(contexts):,} "
            f"combinations among the orders, at most {MAX_CONTEXTS:,} are possible; name columns "
            "with fewer values"
        )
    situation_C = np.arange(1, len(contexts) + 1)
    if settings.situation_attributes and len(contexts) > settings.situations:
        from scipy.cluster.hierarchy import fcluster, linkage  # noqa: PLC0415 - serving has none

        value_PA = _indices(places, settings.situation_attributes, encoder, levels)
        place_N = orders[PLACE].to_numpy()[is_train_N].astype(np.int64) - 1
        tree = linkage(divergences(trained_N, value_PA[place_N]), "average")
        situation_C = fcluster(tree, settings.situations, "maxclust")
    table = np.zeros(np.prod(sizes), np.int32)
    table[contexts] = situation_C
    orders = orders.select("time", "day", USER, PLACE, situation=pl.Series(table[context_N]))
    return Situations(
        _positions(config), table.reshape(sizes), orders.filter(pl.col("situation") > 0)
    )


def divergences(context_N: Array, value_NA: Array) -> Array:
    """Returns the Jensen-Shannon divergence of each pair of contexts, [C (C - 1) / 2].

    Takes the context of each order and the values of the attributes of its place; the divergences
    of several attributes are added. The pairs are in the order of `scipy.spatial.distance.pdist`.
    """
    contexts = int(context_N.max()) + 1
    first, second = np.triu_indices(contexts, k=1)
    sum_P = np.zeros(len(first))
    for value_N in value_NA.T:
        share_CA = np.zeros((contexts, int(value_N.max()) + 1))
        np.add.at(share_CA, (context_N, value_N), 1)
        share_CA += PRIOR_ORDERS * share_CA.sum(axis=0) / len(value_N)
        share_CA /= share_CA.sum(axis=1, keepdims=True)
        entropy_C = _entropy(share_CA)
        for context in range(contexts - 1):  # row by row, which limits the memory
            of_pairs = slice(*np.searchsorted(first, [context, context + 1]))
            others = second[of_pairs]
            mean = _entropy((share_CA[context] + share_CA[others]) / 2)
            sum_P[of_pairs] += mean - (entropy_C[context] + entropy_C[others]) / 2
    return sum_P.clip(min=0)  # rounding errors


def _entropy(share_CA: Array) -> Array:
    """Returns the entropy of each distribution in nats, [C]; 0 log 0 is 0."""
    logs = np.log(share_CA, out=np.zeros_like(share_CA), where=share_CA > 0)
    found: Array = -(share_CA * logs).sum(axis=1)
    return found


def _indices(
    rows: pl.DataFrame, names: Sequence[str], encoder: FeatureEncoder, levels: Sequence[Levels]
) -> Array:
    """Returns the category indices of some columns of unprocessed rows, int32 [N, F].

    A column that the rows lack is unknown, index 0.
    """
    rows = with_levels(rows, levels)
    unknown_N = np.zeros(rows.height, np.int32)
    absent = {name: unknown_N for name in names if name not in rows.columns}
    return encoder.categories(rows, names, absent)
