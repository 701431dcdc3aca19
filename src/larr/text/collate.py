"""Builds the batches of stage 2.

Shapes: B triples, S places shown beside an order (`contrast.shown`), T tokens.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from larr.text.backbone import KeywordTokenizer
from larr.text.encoder import from_input
from larr.text.pairs import EMPTY, VIEWS

GROUP = 32
"""Texts of similar length that the model reads together, for less padding."""
GROUP_TOKENS, SPREAD = 2_048, 1.4
"""Limits for a group of a large model: its tokens, and its longest text relative to its shortest.
With SmolLM2 a group has the overhead of about 140 tokens."""


class Collator:
    """Builds a batch that contains each distinct text of a step once.

    Sorts the texts by length and splits them into groups of about GROUP; for a `large` model, whose
    cost is proportional to tokens, by `similar_lengths`. The number of groups is a multiple of
    `processes`, for which the last group may be repeated; no label refers to its second vectors.
    The batch contains `input_ids` and `attention_mask` of each group, and in `label` (int64
    [B, 9 + S]) for each triple the positions of its texts in sorted order, its keys, and the
    positions of places shown but not taken (or -1).
    """

    valid_label_columns = ("label",)  # required by the trainer

    def __init__(
        self,
        tokens: KeywordTokenizer,
        shown: int,
        *,
        large: bool = False,
        processes: int = 1,
    ) -> None:
        self.tokens = tokens
        self.shown = shown
        self.large = large
        self.processes = processes

    def __call__(self, features: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Returns the batch of rows of `larr.text.pairs.examples`."""
        shown = {text for row in features for text in row["not_taken"]}
        texts = sorted({row[view] for row in features for view in VIEWS} - {EMPTY} | shown)
        encoded = self.tokens.encode_batch([from_input(text) for text in texts])
        order = sorted(range(len(texts)), key=lambda index: len(encoded[index]))
        order += [order[-1]] * (self.processes - len(order))
        batch: dict[str, Tensor] = {}
        groups = np.array_split(np.array(order), max(self.processes, len(order) // GROUP))
        if self.large:
            parts = similar_lengths([len(encoded[index]) for index in order])
            if len(parts) >= self.processes:
                groups = [np.array(order)[part] for part in parts]
        groups += groups[-1:] * (-len(groups) % self.processes)
        for group, indices in enumerate(groups):
            padded = self.tokens.pad([encoded[index] for index in indices])
            batch |= {f"{group}_{key}": tensor for key, tensor in padded.items()}
        positions = {texts[index]: position for position, index in enumerate(order)}
        positions[EMPTY] = -1
        labels = []
        for row in features:
            views = [positions[row[view]] for view in VIEWS]
            shown_S = [positions[text] for text in row["not_taken"]]
            padding = [-1] * (self.shown - len(shown_S))
            labels.append(views + row["keys"] + shown_S + padding)
        batch["label"] = torch.tensor(labels)
        return batch


def similar_lengths(lengths: list[int]) -> list[slice]:
    """Splits ascending lengths into slices within the limits GROUP_TOKENS and SPREAD."""
    parts, start = [], 0
    for stop, length in enumerate(lengths):
        is_full = length * (stop + 1 - start) > GROUP_TOKENS
        if stop > start and (is_full or length > SPREAD * lengths[start]):
            parts.append(slice(start, stop))
            start = stop
    return [*parts, slice(start, len(lengths))]
