"""Layers shared by several rankers, parameter initialisation, and the click-and-order product.

Shapes: B rows of a batch, N parallel networks, I inputs and O outputs of a layer, T tasks.
"""

from __future__ import annotations

import math
import zlib
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from larr.config.rankers import RankerConfig

TOKEN_DEVIATION = 0.05
WEIGHT_GAIN = 3.0  # uniform weights in +-sqrt(3 / I) keep the variance of a layer's inputs


class Parallel(nn.Module):
    """N parallel linear layers as one batched product."""

    def __init__(self, networks: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(networks, outputs, inputs))
        self.bias = nn.Parameter(torch.empty(networks, 1, outputs))

    def forward(self, x_NBI: Tensor) -> Tensor:
        """Maps [N, B, I] to [N, B, O]."""
        return torch.baddbmm(self.bias, x_NBI, self.weight.mT)


class Dropout(nn.Dropout):
    """Dropout by 16 random bits for each value, which takes a fifth of the time on a CPU."""

    def forward(self, x: Tensor) -> Tensor:
        """Sets values to 0 at random in training, and scales the others to keep the mean."""
        if not (self.training and self.p):
            return x
        words = torch.empty(-(-x.numel() // 4), dtype=torch.int64, device=x.device)
        bits = words.random_(-(2**63), None).view(torch.int16)[: x.numel()].view(x.shape)
        kept = bits >= round(self.p * 2**16) - 2**15
        return x * kept.to(x.dtype).mul_(1 / (1 - self.p))


class Towers(nn.Module):
    """A small network for each task that maps its input to its logit."""

    def __init__(self, settings: RankerConfig, tasks: int, inputs: int) -> None:
        super().__init__()
        sizes = [inputs, *settings.ple.tower_units, 1]
        self.layers = nn.ModuleList(Parallel(tasks, i, o) for i, o in pairwise(sizes))
        self.dropout = Dropout(settings.dropout)

    def forward(self, x_TBI: Tensor) -> Tensor:
        """Returns logits, [B, T]."""
        for layer in self.layers[:-1]:
            x_TBI = self.dropout(functional.relu(layer(x_TBI)))
        logits_TB: Tensor = self.layers[-1](x_TBI).squeeze(2).float()
        return logits_TB.T


class Crosses(nn.ModuleList):
    """DCN-v2's cross layers with full matrices (Wang et al., 2021)."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__(nn.Linear(width, width) for _ in range(layers))

    def forward(self, first_BI: Tensor) -> Tensor:
        """Applies x_(l+1) = x_0 * (W x_l + b) + x_l: products of up to l + 2 inputs, [B, I]."""
        x_BI = first_BI
        for layer in self:
            x_BI = torch.addcmul(x_BI, first_BI, layer(x_BI))
        return x_BI


def product_dtype(x: Tensor) -> torch.dtype:
    """Returns the type in which matrix products of a tensor are computed: autocast's or its own."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def tower_rates(rates_T: Tensor, ctcvr: Literal["tower", "product"]) -> Tensor:
    """Returns the rates that the towers predict; with `product` the second is given a click."""
    if ctcvr == "tower" or len(rates_T) < 2:
        return rates_T
    return torch.stack([rates_T[0], rates_T[1] / rates_T[0].clamp(min=1e-6)])


def with_product(logits_BT: Tensor, ctcvr: Literal["tower", "product"]) -> Tensor:
    """Replaces the second logit by that of sigmoid(first) * sigmoid(second) for `product`.

    Decision 26 (ESMM). The logit of a probability p is -log(1 / p - 1), and
    1 / (sigmoid(a) sigmoid(b)) - 1 = exp(-a) + exp(-b) + exp(-a-b). As a logsumexp this neither
    overflows nor rounds to 0, unlike the product of two small probabilities.
    """
    if ctcvr == "tower" or logits_BT.shape[1] < 2:
        return logits_BT
    click_B, order_B = logits_BT.unbind(dim=1)
    terms = torch.stack([-click_B, -order_B, -click_B - order_B])
    return torch.stack([click_B, -terms.logsumexp(dim=0)], dim=1)


def initialise(model: nn.Module, seed: int) -> None:
    """Initialises every parameter from the seed and the parameter's name.

    Two models thus start with equal values in the parts they share, so that chance does not cause
    their difference. Weights are drawn input by input: a wider layer starts like a narrower one on
    their common inputs, up to its scale.
    """
    for name, parameter in model.named_parameters():
        path, _, kind = name.rpartition(".")
        generator = torch.Generator().manual_seed(zlib.crc32(f"{seed} {name}".encode()))
        with torch.no_grad():
            if kind.endswith("bias"):
                parameter.zero_()
            elif kind == "rows":
                model.get_submodule(path).draw(generator)  # type: ignore[operator]
            elif not kind.endswith("weight"):
                parameter.normal_(0.0, TOKEN_DEVIATION, generator=generator)
            elif parameter.ndim > 1 and parameter.numel():
                inputs, shape = parameter.shape[-1], parameter.shape[:-1]
                drawn = torch.rand(inputs, *shape, generator=generator) * 2 - 1
                parameter.copy_(drawn.movedim(0, -1) * math.sqrt(WEIGHT_GAIN / inputs))
