"""Computes the layers below the tuned ones (`backbone.lora_layers`) once for each text.

The texts of stage 2 repeat: of 96,000 texts that it reads of UniMobile, 4,161 are distinct, and the
states below the tuned layers do not change.

Shapes: B texts of a batch, T tokens, H hidden units.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from larr.text.backbone import layer_stack

KEPT_BYTES = 1e9
"""Limit for the states kept; those of further texts are computed each time."""


@contextmanager
def computed_once(model: PreTrainedModel, tuned: int) -> Iterator[LowerLayers]:
    """Makes a model compute only its upper `tuned` layers for texts that it has read before.

    Dropout is off in the layers below.
    """
    layers: list[Module] = list(model.get_submodule(layer_stack(model)))
    lower = LowerLayers(model, len(layers) - tuned)
    hook = model.register_forward_pre_hook(
        lambda _, __, inputs: lower.read(inputs), with_kwargs=True
    )
    for number, layer in enumerate(layers):
        layer.forward = lower.replaced(layer.forward, number)
    try:
        yield lower
    finally:
        hook.remove()
        for layer in layers:
            del layer.forward


class LowerLayers:
    """The states that the lower layers of a model computed, and those of the current batch."""

    def __init__(self, model: PreTrainedModel, count: int) -> None:
        self.model, self.count = model, count
        self.kept: dict[bytes, Tensor] = {}
        """The token ids of a text -> its states, float [T, H]."""
        self.bytes = 0
        self.current_BTH: Tensor | None = None

    def replaced(self, forward: Any, number: int) -> Any:
        """Returns the `forward` of a layer: without current states the lower layers compute them,
        otherwise the last of these returns them and the upper layers compute.
        """

        def replaced(states_BTH: Tensor, *args: Any, **kwargs: Any) -> Any:
            if (self.current_BTH is None) == (number < self.count):
                return forward(states_BTH, *args, **kwargs)
            return self.current_BTH if number == self.count - 1 else states_BTH

        return replaced

    def read(self, inputs: dict[str, Tensor]) -> None:
        """Takes the states of a batch (`input_ids` and `attention_mask`, [B, T]) as the current."""
        lengths = inputs["attention_mask"].sum(dim=1).tolist()
        ids = inputs["input_ids"].cpu().numpy()
        texts = [row[:length].tobytes() for row, length in zip(ids, lengths, strict=True)]
        state_of = {text: self.kept[text] for text in texts if text in self.kept}
        if missing := [index for index, text in enumerate(texts) if text not in state_of]:
            states = self._compute({name: value[missing] for name, value in inputs.items()})
            for index, state_TH in zip(missing, states, strict=True):
                state_of[texts[index]] = state_TH[: lengths[index]].clone()
                if self.bytes < KEPT_BYTES:
                    self.kept[texts[index]] = state_of[texts[index]]
                    self.bytes += state_TH[: lengths[index]].nbytes
        self.current_BTH = pad_sequence([state_of[text] for text in texts], batch_first=True)

    def _compute(self, inputs: dict[str, Tensor]) -> Tensor:
        """Returns the states below the tuned layers, [B, T, H]."""
        self.current_BTH, was_training = None, self.model.training
        self.model.eval()
        with torch.inference_mode(mode=False), torch.no_grad():  # backpropagation reads them later
            # `forward` itself, since a call of the model would read its inputs here again
            output = self.model.forward(**inputs, output_hidden_states=True)
        self.model.train(was_training)
        states_BTH: Tensor = output.hidden_states[self.count]
        return states_BTH
