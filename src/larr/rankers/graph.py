"""Exports modules as ONNX graphs, which run without torch.

Shapes: B rows of a batch, V texts, D dimension of their vectors, T tasks.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from larr.data.batches import Batch
from larr.errors import ConfigError

INDICES, FLOATS = ("categories", "recent", "texts"), ("numbers", "figures")
"""The fields of a batch that scoring reads."""
VECTORS = "vectors"
"""The input with the stored vectors of all texts, [V, D]."""


class Logits(nn.Module):
    """Wraps a function from a batch to logits as one from named arrays to `logits`, [B, T].

    An input `vectors` replaces the ranker's buffer of that name. The graph then does not contain
    the text vectors, and new ones can be added later.
    """

    def __init__(self, score: nn.Module | Callable[[Batch], Tensor]) -> None:
        super().__init__()
        self.score = score

    def forward(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Maps the arrays of `graph_inputs` to `logits`, for any B."""
        nothing = inputs["categories"][:, :0]
        fields = {name: inputs.get(name, nothing).long() for name in INDICES}
        fields |= {name: inputs.get(name, nothing).float() for name in FLOATS}
        batch = Batch(**fields, labels=nothing, keys=nothing, weights=nothing)
        if VECTORS in inputs:
            ranker: nn.Module = self.score  # type: ignore[assignment]
            return {"logits": functional_call(ranker, {VECTORS: inputs[VECTORS]}, (batch,))}
        return {"logits": self.score(batch)}


def graph_inputs(batch: Batch) -> dict[str, np.ndarray]:
    """Returns the arrays of a batch that scoring reads, by name, without those of no columns."""
    arrays = {name: getattr(batch, name).numpy() for name in (*INDICES, *FLOATS)}
    return {name: array for name, array in arrays.items() if array.shape[1]}


def write_graph(
    module: nn.Module,
    inputs: Mapping[str, np.ndarray],
    path: Path,
    of_request: Collection[str] = (),
) -> None:
    """Writes a module that maps named tensors to named tensors as an ONNX graph.

    `inputs` is an example with at least two rows, since torch.export treats a dimension of one as a
    constant. In the graph all inputs share a variable number of rows, except `vectors`, which has
    its own, and those of `of_request`, whose shapes are fixed. Raises ConfigError if torch cannot
    export the module.
    """
    # copies, because torch.export merges two names of one tensor into one input
    tensors = {name: torch.tensor(array) for name, array in inputs.items()}
    for name in ("torch.onnx", "onnxscript"):
        logging.getLogger(name).setLevel(logging.ERROR)
    rows = {name: {0: torch.export.Dim("rows", min=1)} for name in inputs}
    rows |= {VECTORS: {0: torch.export.Dim("texts", min=1)}} if VECTORS in inputs else {}
    shapes = {name: None if name in of_request else rows[name] for name in inputs}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns about its own code
            program = torch.onnx.export(
                module.eval(),
                kwargs={"inputs": tensors},
                dynamo=True,
                verbose=False,
                input_names=list(inputs),
                output_names=list(module(tensors)),
                dynamic_shapes={"inputs": shapes},
            )
    except torch.onnx.OnnxExporterError as error:
        raise ConfigError(
            "this ranker cannot be served: torch cannot export it to ONNX with a variable number "
            f"of rows: {error!s:.300}"
        ) from error
    assert program is not None  # noqa: S101 - with `dynamo` it returns one
    for node in program.model.graph.all_nodes():  # remove metadata with paths of this machine
        node.metadata_props.clear()
        for value in node.outputs:
            value.metadata_props.clear()
    program.save(str(path))
