"""Situations: divergences of contexts against scipy, and the groups of the simulated city."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from scipy.spatial.distance import jensenshannon

from larr.config import Config
from larr.data import situations
from larr.data.features import FeatureEncoder
from larr.data.names import PLACE, USER
from larr.data.situations import PRIOR_ORDERS, Situations, divergences, fit_situations
from larr.data.transforms import Vocabulary
from larr.errors import ConfigError

CONTEXTS = ["breakfast at home", "breakfast at work", "dinner at home", "dinner at work"]


def test_divergences_equal_those_of_scipy() -> None:
    random = np.random.default_rng(0)
    context_N, value_NA = random.integers(0, 4, 300), random.integers(0, 6, (300, 2))
    expected = []
    for first in range(4):
        for second in range(first + 1, 4):
            total = 0.0
            for value_N in value_NA.T:
                counts = [np.bincount(value_N[context_N == c], minlength=6) for c in range(4)]
                smooth = [count + PRIOR_ORDERS * sum(counts) / 300 for count in counts]
                total += jensenshannon(smooth[first], smooth[second]) ** 2
            expected.append(total)
    np.testing.assert_allclose(divergences(context_N, value_NA), expected, atol=1e-12)


def fitted(situation_attributes: list[str], tested: int = 0) -> Situations:
    """Buns at breakfast and noodles at dinner, in row order of CONTEXTS; `tested` test orders."""
    features = {
        "categories": ["user_id", "context", "poi_id", "poi_category"],
        "situation": ["context"],
        "situation_attributes": situation_attributes,
        "situations": 2,
    }
    config = Config.model_validate({"features": features})
    vocabularies = {
        "context": Vocabulary(pl.Series([*CONTEXTS, "never ordered in"])),
        "poi_category": Vocabulary(pl.Series(["buns", "noodles"])),
    }
    encoder = FeatureEncoder(vocabularies, None, 0)  # type: ignore[arg-type]
    rows = 200
    contexts = [CONTEXTS[row % 4] for row in range(rows)]
    orders = pl.DataFrame(
        {
            "time": range(rows),
            "day": range(rows),
            USER: [1] * rows,
            PLACE: [1 if context.startswith("breakfast") else 2 for context in contexts],
            "context": contexts,
            "split": [None] * (rows - tested) + ["test"] * tested,
        },
        schema_overrides={"split": pl.String},
    )
    places = pl.DataFrame({"poi_category": ["buns", "noodles"]})
    return fit_situations(config, orders, places, encoder, [])


def test_contexts_with_similar_orders_are_one_situation() -> None:
    _, *situation_C, never = fitted(["poi_category"]).table.tolist()
    assert situation_C[0] == situation_C[1] != situation_C[2] == situation_C[3]
    assert never == 0


def test_without_attributes_each_context_is_a_situation() -> None:
    found = fitted([])
    assert found.table.tolist() == [0, 1, 2, 3, 4, 0]
    assert found.of(np.array([[0], [4]])).tolist() == [0, 4]


def test_test_orders_are_events_but_are_not_fitted() -> None:
    found = fitted([], tested=198)
    assert found.table.tolist() == [0, 1, 2, 0, 0, 0], "two training orders"
    assert len(found.orders) == 100, "those in a context of a training order"


def test_too_many_contexts_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(situations, "MAX_CONTEXTS", 3)
    with pytest.raises(ConfigError, match=r"features.situation: context have 4 combinations"):
        fitted([])
