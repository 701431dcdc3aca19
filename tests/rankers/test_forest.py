"""A forest as an ONNX graph returns LightGBM's own logits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from larr import rankers
from larr.config.rankers import TreesConfig
from larr.rankers.graph import graph_inputs
from larr.serve.forms import Graph
from tests.ranking_log import Sizes, log_of, rows_of, small_align, write_log

SIZES = Sizes(rows=1_500, categories=(300, 90, 6))


@pytest.mark.parametrize(
    ("leaf_rows", "hidden"), [(5, []), (5, ["user_id"]), (2_000, [])], ids=["", "hidden", "leaf"]
)
def test_its_graph_gives_the_same_logits(tmp_path: Path, leaf_rows: int, hidden: list[str]) -> None:
    trees = TreesConfig(rounds=20, leaf_rows=leaf_rows, learning_rate=0.2, category_l2=1.0)
    config = write_log(tmp_path, SIZES, small_align(trees=trees, hidden=hidden))
    forest = rankers.build(config, "lightgbm")
    forest.fit(log_of(config), seed=1)
    forest.write_graph(tmp_path / "forest.onnx", rows_of(config, "test", 2))
    batch = rows_of(config, "test")
    batch.categories[0] = 10_000  # a value in no category set
    expected_BT = forest.score(batch).numpy()
    assert (expected_BT.std(axis=0) > 0.1).all() == (leaf_rows < SIZES.rows)
    actual_BT = Graph(tmp_path / "forest.onnx")(graph_inputs(batch))["logits"]
    np.testing.assert_allclose(actual_BT, expected_BT, rtol=0, atol=1e-6)
