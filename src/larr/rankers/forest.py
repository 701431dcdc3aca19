"""LightGBM's forests as one operator of ONNX, which makes the same comparisons and sums.

Shapes: B rows of a batch, T tasks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

UP_TO, ONE_OF, SUM = 0, 6, 1
"""Of a `TreeEnsemble`: BRANCH_LEQ, BRANCH_MEMBER, and what is done with the leaves' values."""
OPSETS = [helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 5)]
IR_VERSION = 10
"""Old enough for the first ONNX Runtime that has a `TreeEnsemble`, 1.20."""
Branch = tuple[int, int]
"""The number of a node or of a leaf, and 1 for a leaf."""


class Trees:
    """The nodes and leaves of trees; a node comes after those that it leads to."""

    def __init__(self) -> None:
        self.roots: list[int] = []
        self.nodes: list[tuple[Any, ...]] = []
        """Column, comparison, threshold; the branch where it holds, and the other one."""
        self.sets: list[float] = []
        """The categories of each node that compares with a set; each set ends with NaN."""
        self.leaves: list[tuple[int, float]] = []
        """The task and the value."""

    def add(self, root: Mapping[str, Any], task: int) -> None:
        """Adds a tree from its root as `Booster.dump_model` describes it."""
        number, is_leaf = branch = self._branch(root, task)
        if is_leaf:  # a tree without a split becomes a node that leads to its leaf in any case
            number = len(self.nodes)
            self.nodes.append((0, UP_TO, 0.0, *branch, *branch))
        self.roots.append(number)

    def _branch(self, node: Mapping[str, Any], task: int) -> Branch:
        """Adds a node with all below it, or a leaf."""
        if "leaf_value" in node:
            self.leaves.append((task, node["leaf_value"]))
            return len(self.leaves) - 1, 1
        left, right = (self._branch(node[side], task) for side in ("left_child", "right_child"))
        comparison, threshold = UP_TO, node["threshold"]
        if node["decision_type"] == "==":
            self.sets += [*map(float, threshold.split("||")), float("nan")]
            comparison, threshold = ONE_OF, 0.0
        self.nodes.append((node["split_feature"], comparison, threshold, *left, *right))
        return len(self.nodes) - 1, 0


def write_forests(
    forests: Sequence[Mapping[str, Any]],
    columns: Sequence[int],
    numbers: Mapping[str, int],
    path: Path,
) -> None:
    """Writes forests, one for each task, as a graph from the arrays of a batch to `logits`, [B, T].

    Side by side they read `columns` of the array of categories, and the arrays of `numbers`, given
    with their widths.
    """
    trees = Trees()
    for task, forest in enumerate(forests):
        for tree in forest["tree_info"]:
            trees.add(tree["tree_structure"], task)
    inputs = [helper.make_tensor_value_info("categories", TensorProto.INT32, ["rows", None])]
    steps = [helper.make_node("Gather", ["categories", "columns"], ["read"], axis=1)]
    for name, width in numbers.items():
        inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", width]))
    for part in ("read", *numbers):
        double = helper.make_node("Cast", [part], [f"{part}_double"], to=TensorProto.DOUBLE)
        steps.append(double)
    parts = [f"{part}_double" for part in ("read", *numbers)]
    steps.append(helper.make_node("Concat", parts, ["row"], axis=1))
    steps.append(_ensemble(trees, len(forests)))
    steps.append(helper.make_node("Cast", ["sums"], ["logits"], to=TensorProto.FLOAT))
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["rows", len(forests)])]
    constants = [_tensor(columns, np.int64, "columns")]
    graph = helper.make_graph(steps, "forests", inputs, outputs, constants)
    onnx.save(helper.make_model(graph, opset_imports=OPSETS, ir_version=IR_VERSION), path)


def _ensemble(trees: Trees, tasks: int) -> onnx.NodeProto:
    """Returns the operator from `row` to `sums`."""
    column, comparison, threshold, *branches = zip(*trees.nodes, strict=True)
    task, value = zip(*trees.leaves, strict=True)
    attributes: dict[str, Any] = {
        "tree_roots": trees.roots,
        "nodes_featureids": column,
        "nodes_modes": _tensor(comparison, np.uint8),
        "nodes_splits": _tensor(threshold, np.float64),
        "nodes_truenodeids": branches[0],
        "nodes_trueleafs": branches[1],
        "nodes_falsenodeids": branches[2],
        "nodes_falseleafs": branches[3],
        "leaf_targetids": task,
        "leaf_weights": _tensor(value, np.float64),
        "n_targets": tasks,
        "aggregate_function": SUM,
    }
    if trees.sets:
        attributes["membership_values"] = _tensor(trees.sets, np.float64)
    node = helper.make_node("TreeEnsemble", ["row"], ["sums"], domain="ai.onnx.ml")
    node.attribute.extend(helper.make_attribute(*item) for item in attributes.items())
    return node


def _tensor(values: Sequence[float], kind: type, name: str = "") -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(values, kind), name)
