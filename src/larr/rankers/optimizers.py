"""The optimizers of the networks: AdamW on long vectors, and Adam on the touched rows of a table.

Shapes: P parameters of a vector; E width of a row, N rows of a lookup, U distinct ones.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import AdamW

from larr.rankers.embedding import CategoryTable
from larr.rankers.layers import Parallel

ALIGNED = 32
"""Parameters start at multiples of this many elements, 64 bytes in bf16: the width of AVX-512."""
MEAN_DECAY, SQUARE_DECAY, EPSILON = 0.9, 0.999, 1e-8  # torch's defaults for Adam


class FlatAdamW(AdamW):
    """AdamW on vectors that hold the parameters of each group; the parameters become views.

    With bf16 the weights and biases of linear layers become bf16 copies, updated from float32 in
    each step. Autocast alone would cast each of them, and its gradient, in every step.
    """

    def __init__(self, model: nn.Module, groups: list[dict[str, Any]], bf16: bool) -> None:
        linear = {
            id(parameter)
            for module in model.modules()
            if bf16 and isinstance(module, nn.Linear | Parallel)
            for parameter in module.parameters(recurse=False)
        }
        self.vectors: list[_Vector] = []
        for group in groups:
            copied = [p for p in group["params"] if id(p) in linear]
            others = [p for p in group["params"] if id(p) not in linear]
            vectors = [_Vector(copied, torch.bfloat16), _Vector(others, torch.float32)]
            self.vectors += vectors
            group["params"] = [vector.master for vector in vectors]
        super().__init__(groups, fused=True)

    def zero_grad(self, set_to_none: bool = True) -> None:  # noqa: ARG002
        """Removes the gradients of the parameters."""
        for vector in self.vectors:
            for parameter in vector.parameters:
                parameter.grad = None

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # noqa: ARG002
        """Updates the vectors, then the copies."""
        for vector in self.vectors:
            vector.gather()
        super().step()
        for vector in self.vectors:
            if vector.values.dtype != vector.master.dtype:
                vector.values.copy_(vector.master)

    def finish(self) -> None:
        """Makes the parameters independent again, in float32."""
        for vector in self.vectors:
            for parameter, trained in zip(
                vector.parameters, vector.views(vector.master.data), strict=True
            ):
                parameter.grad = None
                parameter.data = trained.clone()


class _Vector:
    """Parameters in one float32 vector, and the copy with which the network computes."""

    def __init__(self, parameters: list[nn.Parameter], dtype: torch.dtype) -> None:
        self.parameters = parameters
        self.sizes = [-(-p.numel() // ALIGNED) * ALIGNED for p in parameters]
        device = parameters[0].device if parameters else None
        self.master = nn.Parameter(torch.zeros(sum(self.sizes), device=device))
        for parameter, view in zip(parameters, self.views(self.master.data), strict=True):
            view.copy_(parameter.data)
        self.master.grad = torch.zeros_like(self.master)
        self.gradients = self.views(self.master.grad)
        self.values = self.master.data.to(dtype)
        for parameter, values in zip(parameters, self.views(self.values), strict=True):
            parameter.data = values

    def gather(self) -> None:
        """Copies the gradients of the parameters to that of the vector, 0 for none."""
        for view, parameter in zip(self.gradients, self.parameters, strict=True):
            if parameter.grad is None:
                view.zero_()
            else:
                view.copy_(parameter.grad)

    def views(self, vector_P: Tensor) -> list[Tensor]:
        """Returns the part of each parameter in a vector."""
        parts = zip(self.parameters, vector_P.split(self.sizes), strict=True)
        return [part[: p.numel()].view(p.shape) for p, part in parts]


def summed_by_row(rows_N: Tensor, gradient_NE: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the distinct rows of a lookup in ascending order, int64 [U], and their gradients.

    Sorts row and position as one number, so that the order of each sum is fixed, then sums runs.
    """
    packed_N = (rows_N.long() << 32) | torch.arange(len(rows_N), device=rows_N.device)
    if packed_N.is_cpu:
        packed_N.numpy().sort()  # with AVX-512: 18,600 rows in 0.07 ms, torch needs 0.9
    else:
        packed_N = packed_N.sort().values
    rows_U, counts_U = (packed_N >> 32).unique_consecutive(return_counts=True)
    starts_U = counts_U.cumsum(0) - counts_U
    order_N = packed_N & 0xFFFFFFFF
    return rows_U, functional.embedding_bag(order_N, gradient_NE, starts_U, mode="sum")


class LazyAdam(torch.optim.Optimizer):
    """Adam on the table rows that a batch touches; other rows and their moments do not change.

    A dense Adam would update the complete table at each step, 250 MB for a million rows. torch's
    SparseAdam gives the same result, but has no L2.
    """

    def __init__(self, table: CategoryTable, rate: float, l2: float) -> None:
        super().__init__([table.rows], {"lr": rate})
        self.table, self.l2, self.steps = table, l2, 0
        self.mean, self.square = torch.zeros_like(table.rows), torch.zeros_like(table.rows)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # noqa: ARG002
        """Updates the rows of the table's last lookup."""
        rows, looked_up = self.table.touched.pop()
        if looked_up.grad is None:
            return
        rows_U, gradient_UE = summed_by_row(rows.flatten(), looked_up.grad.flatten(0, -2))
        values_UE = self.table.rows.index_select(0, rows_U)
        gradient_UE.add_(values_UE, alpha=self.l2)
        self.steps += 1
        mean_UE = self.mean.index_select(0, rows_U).lerp_(gradient_UE, 1 - MEAN_DECAY)
        square_UE = self.square.index_select(0, rows_U).mul_(SQUARE_DECAY)
        square_UE.addcmul_(gradient_UE, gradient_UE, value=1 - SQUARE_DECAY)
        self.mean.index_copy_(0, rows_U, mean_UE)
        self.square.index_copy_(0, rows_U, square_UE)
        # the bias correction counts all steps, not those of the row
        correction = math.sqrt(1 - SQUARE_DECAY**self.steps) / (1 - MEAN_DECAY**self.steps)
        rate = self.param_groups[0]["lr"] * correction
        values_UE.addcdiv_(mean_UE, square_UE.sqrt_().add_(EPSILON), value=-rate)
        self.table.rows.index_copy_(0, rows_U, values_UE)
