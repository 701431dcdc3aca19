"""The scene encoder by exact algebra: what one stored text adds is computed once, offline.

With one layer read at `<agg>`, the only query is a constant; the key and the value of a token come
from one stored text alone. So a softmax over some of the texts can be kept unfinished, as a
`Partial`, and merged with that of the others: a place's texts offline, those of the request once a
request. A candidate then costs one merge and the rest of the layer for one token.

Shapes: V stored texts, R scene keywords, N rows, H attention heads, C = D / H, D dimension of the
vectors, A dimension of e_s.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from larr.config.rankers import SceneConfig
from larr.rankers.scene_encoder import SceneEncoder, folded_query
from larr.serve.rows import Rows


class Partial(NamedTuple):
    """A softmax over some tokens, before its division."""

    largest: Tensor
    """The largest logit of each head, [N, H]."""
    weight: Tensor
    """The sum of exp(logit - largest), [N, H]."""
    value: Tensor
    """The sum of exp(logit - largest) times the values, [N, H, C]."""


class TextTables(NamedTuple):
    """The logit and the value of every text, and those of a missing text of each keyword."""

    missing: tuple[Tensor, Tensor]
    """[R, H] and [R, H, C]"""
    stored: Rows
    """Of the V texts: [V, H] and [V, H, C]."""

    def of(self, text_NR: Tensor, slots: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Logits and values of texts of some keywords; a number below 0 is a missing text."""
        there_NR, at = text_NR >= 0, list(slots)
        logits_NRH, values_NRHC = self.stored.take(text_NR.clamp(min=0))
        return (
            torch.where(there_NR[..., None], logits_NRH, self.missing[0][at]),
            torch.where(there_NR[..., None, None], values_NRHC, self.missing[1][at]),
        )


def why_not(settings: SceneConfig) -> str | None:
    """Why an encoder cannot be folded, or None if it can."""
    if settings.layers > 1:
        return f"scene.layers is {settings.layers}: after one layer a text's key depends on others"
    if settings.pooling != "agg":
        return f"scene.pooling is {settings.pooling}: every token's output is needed"
    return None


@torch.no_grad()
def text_tables(encoder: SceneEncoder, stored: Rows) -> TextTables:
    """The tables, from the rows that `text_rows` gave for the stored texts."""
    return TextTables(_tokens(encoder, encoder.null + encoder.slots), stored)


@torch.no_grad()
def text_rows(encoder: SceneEncoder, vectors_VD: Tensor, slot_V: Tensor) -> tuple[Tensor, Tensor]:
    """Logits and values of texts, centred and scaled, each in its keyword's slot."""
    return _tokens(encoder, vectors_VD + encoder.slots[slot_V])


@torch.no_grad()
def agg_partial(encoder: SceneEncoder) -> Partial:
    """The softmax over `<agg>` alone, one row."""
    logits_1H, values_1HC = _tokens(encoder, encoder.agg[None])
    return Partial(logits_1H, torch.ones_like(logits_1H), values_1HC)


def _tokens(encoder: SceneEncoder, tokens_ND: Tensor) -> tuple[Tensor, Tensor]:
    layer = encoder.first
    if layer.norm_first:
        query_D, tokens_ND = layer.norm1(encoder.agg), layer.norm1(tokens_ND)
    else:
        query_D = encoder.agg
    key_HD, value_HCD, bias_HC = folded_query(layer.self_attn, query_D)
    values_NHC = torch.einsum("nd,hcd->nhc", tokens_ND, value_HCD) + bias_HC
    return tokens_ND @ key_HD.T, values_NHC


def partial(logits_NRH: Tensor, values_NRHC: Tensor) -> Partial:
    """The softmax over the texts of some keywords, of each row; over none it has no weight."""
    if not logits_NRH.shape[1]:
        value_NHC = values_NRHC.sum(dim=1)
        return Partial(value_NHC[..., 0] - torch.inf, value_NHC[..., 0], value_NHC)
    largest_NH = logits_NRH.amax(dim=1)
    weight_NRH = (logits_NRH - largest_NH[:, None]).exp()
    value_NHC = (weight_NRH[..., None] * values_NRHC).sum(dim=1)
    return Partial(largest_NH, weight_NRH.sum(dim=1), value_NHC)


def merged(first: Partial, second: Partial) -> Partial:
    """The softmax over the tokens of both; one of them may have one row for all of the other's."""
    largest_NH = torch.maximum(first.largest, second.largest)
    scales = [(side.largest - largest_NH).exp() for side in (first, second)]
    weight_NH = scales[0] * first.weight + scales[1] * second.weight
    value_NHC = scales[0][..., None] * first.value + scales[1][..., None] * second.value
    return Partial(largest_NH, weight_NH, value_NHC)


class Finish(nn.Module):
    """What is left of the scene encoder when the softmax over all tokens is known."""

    def __init__(self, encoder: SceneEncoder) -> None:
        super().__init__()
        self.layer, self.projection = encoder.first, encoder.projection
        self.agg = encoder.agg

    def forward(self, whole: Partial) -> Tensor:
        """e_s, [N, A]."""
        layer = self.layer
        attended_ND = layer.self_attn.out_proj((whole.value / whole.weight[..., None]).flatten(1))
        first_ND = self.agg + attended_ND
        if not layer.norm_first:
            first_ND = layer.norm1(first_ND)
        read_ND = layer.norm2(first_ND) if layer.norm_first else first_ND
        last_ND = first_ND + layer.linear2(functional.relu(layer.linear1(read_ND)))
        e_s: Tensor = self.projection(last_ND if layer.norm_first else layer.norm2(last_ND))
        return e_s
