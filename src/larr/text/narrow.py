"""Shrinks a language model: drops layers, or removes columns from the weights of all layers.

Columns are removed during training, as in HomoDistil (arXiv 2302.09632). A unit, such as a head, is
a group of columns that are removed together; an axis is a set of units. Shapes: U units.
"""

from __future__ import annotations

import copy
import math
import re
from dataclasses import dataclass, field

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor
from torch.nn import LayerNorm, Parameter
from torch.optim import Optimizer
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel

from larr.errors import ConfigError
from larr.text.backbone import layer_stack
from larr.text.checkpoint import attention

HIDDEN, HEADS, INNER = "hidden", "heads", "inner"
"""Kinds of axes: hidden units, the attention heads of a layer, its feed-forward units."""
AXES = {
    (HEADS, HIDDEN): ("q_proj", "k_proj", "v_proj", "query", "key", "value"),
    (HIDDEN, HEADS): ("o_proj", "attention.output.dense"),
    (INNER, HIDDEN): ("gate_proj", "up_proj", "intermediate.dense"),
    (HIDDEN, INNER): ("down_proj", "output.dense"),
    (HIDDEN, HIDDEN): ("pooler.dense",),
}
"""The axes of a module's weight, by the suffix of its name; the first match applies. In embeddings
and norms the last dimension is HIDDEN."""
FAMILIES = ("bert", "llama", "mistral", "qwen2", "qwen3", "roberta", "xlm-roberta")
"""The values of `model_type` that AXES supports."""
SMOOTHING = 0.85
"""Weight of the past in the moving averages of importance and uncertainty."""
MULTIPLE = 8
"""The number of hidden units is a multiple of this, if it is independent of the heads' lengths."""


def without_layers(model: PreTrainedModel, keep: float) -> PreTrainedModel:
    """Returns a copy with a share of the layers, evenly spaced from the first to the last.

    Raises ConfigError if this would keep all layers.
    """
    config = copy.deepcopy(model.config)
    count = config.num_hidden_layers
    kept = np.linspace(0, count - 1, max(1, round(keep * count))).round().astype(int).tolist()
    if len(kept) == count:
        raise ConfigError(f"distill.keep is {keep}, which keeps all {count} layers; lower it")
    config.num_hidden_layers = len(kept)
    if kinds := getattr(config, "layer_types", None):
        config.layer_types = [kinds[layer] for layer in kept]
    stack, weights = layer_stack(model), dict(model.state_dict())
    for name in list(weights):
        if match := re.match(rf"{re.escape(stack)}\.(\d+)\.", name):
            tensor, layer = weights.pop(name), int(match[1])
            if layer in kept:
                weights[f"{stack}.{kept.index(layer)}.{name[match.end() :]}"] = tensor
    return _with_weights(config, weights)


@dataclass
class Axis:
    """A set of units, each consisting of one or more columns or rows of every member."""

    units: int
    target: int
    members: list[tuple[Parameter, int]] = field(default_factory=list)
    """Weights, each with the dimension along which the axis runs."""

    def __post_init__(self) -> None:
        self.start = self.units


class Narrowing:
    """Removes units of a text embedding model while an optimizer trains it.

    The score of a unit is the sum of importance x uncertainty over its weights. Importance is the
    moving average of |weight x gradient|, and uncertainty that of the distance between the two.
    Tensors shrink immediately, so that later steps are faster and the final model is also trained
    at its final size.
    """

    def __init__(self, encoder: SentenceTransformer, keep: float, optimizer: Optimizer) -> None:
        """Raises ConfigError if the model is not supported."""
        self.model: PreTrainedModel = encoder[0].model
        self.optimizer = optimizer
        config = self.model.config
        if config.model_type not in FAMILIES:
            raise ConfigError(
                f'distill.way is "width", which supports {", ".join(FAMILIES)} but not '
                f'{config.model_type}; set distill.way = "layers"'
            )
        targets = _targets(config, keep)
        self.axes: dict[str, Axis] = {}
        for name, weight in self.model.named_parameters():
            layer = "".join(re.findall(r"\.\d+\.", name))
            for dim, kind in enumerate(_axes(name, weight, config.hidden_size)):
                if kind is not None:
                    key = kind if kind == HIDDEN else kind + layer
                    axis = self.axes.setdefault(key, Axis(*targets[kind]))
                    axis.members.append((weight, dim))
        self.axes[HIDDEN].members.append((encoder[2].linear.weight, 1))
        weights = {weight for axis in self.axes.values() for weight, _ in axis.members}
        self.importance = {weight: torch.zeros_like(weight) for weight in weights}
        self.uncertainty = {weight: torch.zeros_like(weight) for weight in weights}

    @torch.no_grad()
    def observe(self) -> None:
        """Updates importance and uncertainty from the gradients of a step."""
        for weight, smoothed in self.importance.items():
            if weight.grad is not None:
                importance = (weight * weight.grad).abs()
                smoothed.lerp_(importance, 1 - SMOOTHING)
                self.uncertainty[weight].lerp_((importance - smoothed).abs(), 1 - SMOOTHING)

    def scores(self, axis: Axis) -> Tensor:
        """Returns the score of each unit, float32 [U]."""
        score_U = torch.zeros(axis.units, device=self.model.device)
        for weight, dim in axis.members:
            score = self.importance[weight] * self.uncertainty[weight]
            score_U += score.unflatten(dim, (axis.units, -1)).movedim(dim, 0).flatten(1).sum(dim=1)
        return score_U

    @torch.no_grad()
    def narrow(self, progress: float) -> None:
        """Removes units with low scores to reach the size scheduled for `progress`, from 0 to 1.

        The number of units still to be removed is proportional to the cube of the remaining time.
        """
        for axis in self.axes.values():
            count = round(axis.target + (axis.start - axis.target) * (1 - progress) ** 3)
            if count < axis.units:
                kept = self.scores(axis).topk(count).indices.sort().values
                for weight, dim in axis.members:
                    self._cut(weight, dim, axis.units, kept)
                axis.units = count
        for module in self.model.modules():
            if isinstance(module, LayerNorm):
                module.normalized_shape = tuple(module.weight.shape)

    def _cut(self, weight: Parameter, dim: int, units: int, kept: Tensor) -> None:
        """Keeps only some units of a weight, of its optimizer state and of its averages."""

        def cut(tensor: Tensor) -> Tensor:
            parts: Tensor = tensor.unflatten(dim, (units, -1)).index_select(dim, kept)
            return parts.flatten(dim, dim + 1)

        state = self.optimizer.state[weight]
        state |= {name: cut(tensor) for name, tensor in state.items() if tensor.dim()}
        for average in (self.importance, self.uncertainty):
            average[weight] = cut(average[weight])
        weight.grad = None
        weight.data = cut(weight.data)

    def model_of_this_size(self) -> PreTrainedModel:
        """Returns the narrowed model with a configuration of matching sizes."""
        config = copy.deepcopy(self.model.config)
        units = {name.partition(".")[0]: axis.units for name, axis in self.axes.items()}
        per_group = config.num_attention_heads // _groups(config)
        if hasattr(config, "num_key_value_heads"):
            config.head_dim, config.num_key_value_heads = _head(config), units[HEADS]
        config.num_attention_heads = units[HEADS] * per_group
        config.hidden_size, config.intermediate_size = units[HIDDEN], units[INNER]
        return _with_weights(config, self.model.state_dict())


def _targets(config: PreTrainedConfig, keep: float) -> dict[str, tuple[int, int]]:
    """Returns the initial and the final number of units of each kind of axis.

    Raises ConfigError if they are equal.
    """
    heads, inner = _groups(config), config.intermediate_size
    kept = max(1, round(keep * heads))
    width = kept * _head(config)  # BERT's hidden units are those of its heads
    if hasattr(config, "num_key_value_heads"):
        # Llama's configuration refuses hidden units that the heads do not divide
        step = math.lcm(MULTIPLE, kept * config.num_attention_heads // heads)
        width = max(1, round(keep * config.hidden_size / step)) * step
    targets = {
        HIDDEN: (config.hidden_size, width),
        HEADS: (heads, kept),
        INNER: (inner, max(1, round(keep * inner))),
    }
    if all(start <= end for start, end in targets.values()):
        raise ConfigError(f"distill.keep is {keep}, which removes nothing; lower it")
    return targets


def _groups(config: PreTrainedConfig) -> int:
    """Returns the number of key heads; queries that share a key head are removed together."""
    return int(getattr(config, "num_key_value_heads", None) or config.num_attention_heads)


def _head(config: PreTrainedConfig) -> int:
    """Returns the number of units of a head."""
    length = getattr(config, "head_dim", None)
    return int(length or config.hidden_size // config.num_attention_heads)


def _axes(name: str, weight: Parameter, hidden: int) -> tuple[str | None, ...]:
    """Returns the axis of each dimension of a weight or bias, or None if its size is fixed."""
    for axes, suffixes in AXES.items():
        if name.rpartition(".")[0].endswith(suffixes):
            return axes[: weight.dim()]
    last = HIDDEN if weight.shape[-1] == hidden else None
    return (*[None] * (weight.dim() - 1), last)


def _with_weights(config: PreTrainedConfig, weights: dict[str, Tensor]) -> PreTrainedModel:
    """Returns a model with this configuration and these weights."""
    model: PreTrainedModel = AutoModel.from_config(config, attn_implementation=attention())
    model.load_state_dict(weights)
    return model
