"""AdamW on all parameters of a network as a few long vectors, with bf16 copies for its products.

Shapes: P parameters of a vector.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW

from larr.rankers.layers import Parallel

ALIGNED = 32
"""Parameters start at multiples of this many elements, 64 bytes in bf16: the width of AVX-512."""


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
