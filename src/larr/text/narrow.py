"""A smaller language model: with fewer layers, or with fewer columns in the weights of each.

Columns are removed while the model is trained, as in HomoDistil (arXiv 2302.09632). A unit is what
is removed at once, such as a head; an axis is a set of units. Shapes: U units.
"""

from __future__ import annotations

import copy
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
from larr.text.backbone import stack_of
from larr.text.checkpoint import attention

HIDDEN, HEADS, INNER = "hidden", "heads", "inner"
"""Axes: the hidden states, the attention heads of a layer, its feed-forward units."""
AXES = {
    (HEADS, HIDDEN): ("q_proj", "k_proj", "v_proj", "query", "key", "value"),
    (HIDDEN, HEADS): ("o_proj", "attention.output.dense"),
    (INNER, HIDDEN): ("gate_proj", "up_proj", "intermediate.dense"),
    (HIDDEN, INNER): ("down_proj", "output.dense"),
    (HIDDEN, HIDDEN): ("pooler.dense",),
}
"""Axes of a weight -> ends of the names of modules that have it; the first that fits counts. The
weights of embeddings and norms end with the hidden states."""
FAMILIES = ("bert", "llama", "mistral", "qwen2", "qwen3", "roberta", "xlm-roberta")
"""Values of `model_type` that AXES describes."""
SMOOTHING = 0.85
"""Share of the past in the moving averages of importance and uncertainty."""
MULTIPLE = 8
"""Hidden units are kept in multiples of this where the heads' lengths do not depend on them."""


def without_layers(model: PreTrainedModel, keep: float) -> PreTrainedModel:
    """Returns a copy with a share of the layers, evenly chosen, the first and the last included.

    Raises ConfigError if the share is all of them.
    """
    config = copy.deepcopy(model.config)
    count = config.num_hidden_layers
    kept = np.linspace(0, count - 1, max(1, round(keep * count))).round().astype(int).tolist()
    if len(kept) == count:
        raise ConfigError(f"distill.keep is {keep}: that is all {count} layers; give a lower share")
    config.num_hidden_layers = len(kept)
    if kinds := getattr(config, "layer_types", None):
        config.layer_types = [kinds[number] for number in kept]
    stack, weights = stack_of(model), dict(model.state_dict())
    for name in list(weights):
        if found := re.match(rf"{re.escape(stack)}\.(\d+)\.", name):
            tensor, number = weights.pop(name), int(found[1])
            if number in kept:
                weights[f"{stack}.{kept.index(number)}.{name[found.end() :]}"] = tensor
    return _with_weights(config, weights)


@dataclass
class Axis:
    """Units, each one or more columns or rows of every member."""

    units: int
    target: int
    members: list[tuple[Parameter, int]] = field(default_factory=list)
    """Weights, and which of their dimensions it is."""

    def __post_init__(self) -> None:
        self.start = self.units


class Narrowing:
    """Removes units of a text embedding model while an optimizer trains it.

    A unit's score is the L1 norm, over its weights, of importance x uncertainty. Importance is the
    moving average of |weight x gradient|, uncertainty that of the distance of the latter from it.
    The columns leave the tensors at once: later steps are faster, and the model that is trained
    last is the one that is saved.
    """

    def __init__(self, encoder: SentenceTransformer, keep: float, optimizer: Optimizer) -> None:
        """Raises ConfigError for a model that it cannot narrow."""
        self.model: PreTrainedModel = encoder[0].model
        self.optimizer = optimizer
        config = self.model.config
        if config.model_type not in FAMILIES:
            raise ConfigError(
                f'distill.way is "width": that is for {", ".join(FAMILIES)} and not for '
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
    def narrow(self, done: float) -> None:
        """Removes units with low scores, as many as are due when a share of the time is over.

        What remains to be removed falls with the cube of the time that remains.
        """
        for axis in self.axes.values():
            count = round(axis.target + (axis.start - axis.target) * (1 - done) ** 3)
            if count < axis.units:
                kept = self.scores(axis).topk(count).indices.sort().values
                for weight, dim in axis.members:
                    self._cut(weight, dim, axis.units, kept)
                axis.units = count
        for module in self.model.modules():
            if isinstance(module, LayerNorm):
                module.normalized_shape = tuple(module.weight.shape)

    def _cut(self, weight: Parameter, dim: int, units: int, kept: Tensor) -> None:
        """Keeps some units of a weight, and of all that is remembered of it."""

        def cut(tensor: Tensor) -> Tensor:
            parts: Tensor = tensor.unflatten(dim, (units, -1)).index_select(dim, kept)
            return parts.flatten(dim, dim + 1)

        adam = self.optimizer.state[weight]
        adam |= {name: cut(tensor) for name, tensor in adam.items() if tensor.dim()}
        for memory in (self.importance, self.uncertainty):
            memory[weight] = cut(memory[weight])
        weight.grad = None
        weight.data = cut(weight.data)

    def model_of_this_size(self) -> PreTrainedModel:
        """Returns the narrowed model, with the configuration of its sizes."""
        config = copy.deepcopy(self.model.config)
        units = {name.partition(".")[0]: axis.units for name, axis in self.axes.items()}
        per_group = config.num_attention_heads // _groups(config)
        if hasattr(config, "num_key_value_heads"):
            config.head_dim, config.num_key_value_heads = _head(config), units[HEADS]
        config.num_attention_heads = units[HEADS] * per_group
        config.hidden_size, config.intermediate_size = units[HIDDEN], units[INNER]
        return _with_weights(config, self.model.state_dict())


def _targets(config: PreTrainedConfig, keep: float) -> dict[str, tuple[int, int]]:
    """Returns the units of each kind of axis at the start and at the end.

    Raises ConfigError if they are the same.
    """
    heads, inner = _groups(config), config.intermediate_size
    kept = max(1, round(keep * heads))
    width = kept * _head(config)  # BERT's heads are its hidden states, cut into parts
    if hasattr(config, "num_key_value_heads"):
        width = max(1, round(keep * config.hidden_size / MULTIPLE)) * MULTIPLE
    targets = {
        HIDDEN: (config.hidden_size, width),
        HEADS: (heads, kept),
        INNER: (inner, max(1, round(keep * inner))),
    }
    if all(start <= end for start, end in targets.values()):
        raise ConfigError(f"distill.keep is {keep}: that removes nothing; give a lower share")
    return targets


def _groups(config: PreTrainedConfig) -> int:
    """Returns how many heads have keys of their own; queries that share them stay together."""
    return int(getattr(config, "num_key_value_heads", None) or config.num_attention_heads)


def _head(config: PreTrainedConfig) -> int:
    """Returns the length of a head's part of the states."""
    length = getattr(config, "head_dim", None)
    return int(length or config.hidden_size // config.num_attention_heads)


def _axes(name: str, weight: Parameter, hidden: int) -> tuple[str | None, ...]:
    """Returns the axis of each dimension of a weight or bias, None for one that stays as it is."""
    for axes, ends in AXES.items():
        if name.rpartition(".")[0].endswith(ends):
            return axes[: weight.dim()]
    last = HIDDEN if weight.shape[-1] == hidden else None
    return (*[None] * (weight.dim() - 1), last)


def _with_weights(config: PreTrainedConfig, weights: dict[str, Tensor]) -> PreTrainedModel:
    """Returns a model of a configuration with these weights."""
    model: PreTrainedModel = AutoModel.from_config(config, attn_implementation=attention())
    model.load_state_dict(weights)
    return model
