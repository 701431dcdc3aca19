"""Exports LightGBM's forests as one ONNX operator with the same comparisons and sums.

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
"""Codes of a `TreeEnsemble`: BRANCH_LEQ, BRANCH_MEMBER, and the aggregation of leaf values."""
OPSETS = [helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 5)]
IR_VERSION = 10
"""Readable by ONNX Runtime 1.20, the first with a `TreeEnsemble`."""
Branch = tuple[int, int]
"""The index of a node or leaf, and 1 for a leaf."""


def write_forests(
    forests: Sequence[Mapping[str, Any]],
    columns: Sequence[int],
    numbers: Mapping[str, int],
    path: Path,
) -> None:
    """Writes one forest per task as a graph from the arrays of a batch to `logits`, [B, T].

    `forests` are the results of `Booster.dump_model`. Their inputs are `columns` of the categories,
    followed by the arrays of `numbers`, given with their widths.
    """
    inputs = [helper.make_tensor_value_info("categories", TensorProto.INT32, ["rows", None])]
    steps = [helper.make_node("Gather", ["categories", "columns"], ["read"], axis=1)]
    for name, width in numbers.items():
        inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", width]))
    parts = [f"{part}_double" for part in ("read", *numbers)]
    for part, double in zip(("read", *numbers), parts, strict=True):
        steps.append(helper.make_node("Cast", [part], [double], to=TensorProto.DOUBLE))
    steps.append(helper.make_node("Concat", parts, ["row"], axis=1))
    steps.append(_ensemble(forests))
    steps.append(helper.make_node("Cast", ["sums"], ["logits"], to=TensorProto.FLOAT))
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["rows", len(forests)])]
    constants = [_tensor(columns, np.int64, "columns")]
    graph = helper.make_graph(steps, "forests", inputs, outputs, constants)
    onnx.save(helper.make_model(graph, opset_imports=OPSETS, ir_version=IR_VERSION), path)


def _ensemble(forests: Sequence[Mapping[str, Any]]) -> onnx.NodeProto:
    """Returns the operator from `row` to `sums`: the nodes and leaves of all trees."""
    roots: list[int] = []
    # column, comparison, threshold, the branch if it holds, the branch if not
    nodes: list[tuple[Any, ...]] = []
    leaves: list[tuple[int, float]] = []  # task, value
    sets: list[float] = []  # the categories of each membership node, with NaN after each set

    def add(node: Mapping[str, Any], task: int) -> Branch:
        """Adds a leaf, or a node after its descendants."""
        if "leaf_value" in node:
            leaves.append((task, node["leaf_value"]))
            return len(leaves) - 1, 1
        left, right = (add(node[side], task) for side in ("left_child", "right_child"))
        comparison, threshold = UP_TO, node["threshold"]
        if node["decision_type"] == "==":
            sets.extend([*map(float, threshold.split("||")), float("nan")])
            comparison, threshold = ONE_OF, 0.0
        nodes.append((node["split_feature"], comparison, threshold, *left, *right))
        return len(nodes) - 1, 0

    for task, forest in enumerate(forests):
        for tree in forest["tree_info"]:
            number, is_leaf = branch = add(tree["tree_structure"], task)
            if is_leaf:  # a tree without a split becomes a node with the same leaf on both sides
                number = len(nodes)
                nodes.append((0, UP_TO, 0.0, *branch, *branch))
            roots.append(number)
    column, comparison, threshold, *branches = zip(*nodes, strict=True)
    task_of_leaf, value = zip(*leaves, strict=True)
    attributes: dict[str, Any] = {
        "tree_roots": roots,
        "nodes_featureids": column,
        "nodes_modes": _tensor(comparison, np.uint8),
        "nodes_splits": _tensor(threshold, np.float64),
        "nodes_truenodeids": branches[0],
        "nodes_trueleafs": branches[1],
        "nodes_falsenodeids": branches[2],
        "nodes_falseleafs": branches[3],
        "leaf_targetids": task_of_leaf,
        "leaf_weights": _tensor(value, np.float64),
        "n_targets": len(forests),
        "aggregate_function": SUM,
    }
    if sets:
        attributes["membership_values"] = _tensor(sets, np.float64)
    node = helper.make_node("TreeEnsemble", ["row"], ["sums"], domain="ai.onnx.ml")
    node.attribute.extend(helper.make_attribute(*item) for item in attributes.items())
    return node


def _tensor(values: Sequence[float], kind: type, name: str = "") -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(values, kind), name)
