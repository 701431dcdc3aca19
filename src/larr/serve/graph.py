"""Computations as graphs of ONNX: written from a module, run by ONNX Runtime."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Collection
from pathlib import Path

import onnxruntime
import torch
from torch import Tensor, nn

EXPORTERS = ("torch.onnx", "onnxscript")


def write(
    module: nn.Module, inputs: dict[str, Tensor], rows: Collection[str], output: str, path: Path
) -> None:
    """Writes a module, whose `forward` takes `*inputs`, from named inputs to one output.

    Those in `rows` may have any number of rows, the same for all of them; give at least two.
    """
    for name in EXPORTERS:
        logging.getLogger(name).setLevel(logging.ERROR)
    many = {0: torch.export.Dim("rows", min=1)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names, which are given below, and of torch by itself
        program = torch.onnx.export(
            module.eval(),
            tuple(inputs.values()),
            dynamo=True,
            verbose=False,
            input_names=list(inputs),
            output_names=[output],
            dynamic_shapes=(tuple(many if name in rows else None for name in inputs),),
        )
    assert program is not None  # noqa: S101 - with `dynamo` it gives one
    for node in program.model.graph.all_nodes():  # where the code lay, which is nobody's business
        node.metadata_props.clear()
        for value in node.outputs:
            value.metadata_props.clear()
    program.save(str(path))


class Graph:
    """A graph in ONNX Runtime, on one core."""

    def __init__(self, path: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(
            path, options, providers=["CPUExecutionProvider"]
        )
        self.names = [one.name for one in self.session.get_inputs()]

    def __call__(self, inputs: dict[str, Tensor]) -> Tensor:
        """Its output; of the inputs those are read that the graph has."""
        told = self.session.run(None, {name: inputs[name].numpy() for name in self.names})
        return torch.from_numpy(told[0])
