"""Modules as graphs of ONNX, which run without torch.

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
"""The fields of a batch that are read to score it."""
VECTORS = "vectors"
"""The input that holds the stored vectors of all texts, [V, D]."""


class Logits(nn.Module):
    """A function from a batch to logits, as one from named arrays to `logits`, [B, T], for any B.

    If `vectors` is among the inputs, it takes the place of the ranker's buffer of that name, so
    that the vectors of texts are no part of the graph and new ones can follow.
    """

    def __init__(self, score: nn.Module | Callable[[Batch], Tensor]) -> None:
        super().__init__()
        self.score = score

    def forward(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Takes the fields of a batch that `inputs_of` returns."""
        nothing = inputs["categories"][:, :0]
        fields = {name: inputs.get(name, nothing).long() for name in INDICES}
        fields |= {name: inputs.get(name, nothing).float() for name in FLOATS}
        batch = Batch(**fields, labels=nothing, keys=nothing, weights=nothing)
        if VECTORS in inputs:
            ranker: nn.Module = self.score  # type: ignore[assignment]
            return {"logits": functional_call(ranker, {VECTORS: inputs[VECTORS]}, (batch,))}
        return {"logits": self.score(batch)}


def inputs_of(batch: Batch) -> dict[str, np.ndarray]:
    """Returns the arrays of a batch that are read to score it and have columns, by name."""
    arrays = {name: getattr(batch, name).numpy() for name in (*INDICES, *FLOATS)}
    return {name: array for name, array in arrays.items() if array.shape[1]}


def write_graph(
    module: nn.Module,
    inputs: Mapping[str, np.ndarray],
    path: Path,
    of_request: Collection[str] = (),
) -> None:
    """Writes a module that maps named tensors to named tensors as a graph of ONNX.

    All inputs have any number of rows, the same for all but `vectors`, but for those of
    `of_request`, whose shapes stay as they are. `inputs` are an example with at least two rows:
    torch.export takes a dimension of one for a constant. Raises ConfigError if torch cannot export
    the module.
    """
    # Copied, as torch.export takes two names of one tensor for one input.
    tensors = {name: torch.tensor(array) for name, array in inputs.items()}
    for name in ("torch.onnx", "onnxscript"):
        logging.getLogger(name).setLevel(logging.ERROR)
    rows = {name: {0: torch.export.Dim("rows", min=1)} for name in inputs}
    rows |= {VECTORS: {0: torch.export.Dim("texts", min=1)}} if VECTORS in inputs else {}
    shapes = {name: None if name in of_request else rows[name] for name in inputs}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of its own names, and of itself
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
            "this ranker cannot be served: torch cannot write it as a graph of ONNX for any number "
            f"of rows: {error!s:.300}"
        ) from error
    assert program is not None  # noqa: S101 - with `dynamo` it returns one
    for node in program.model.graph.all_nodes():  # their metadata have the paths of this machine
        node.metadata_props.clear()
        for value in node.outputs:
            value.metadata_props.clear()
    program.save(str(path))
