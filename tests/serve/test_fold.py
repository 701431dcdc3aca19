"""Folding is exact: partial softmaxes, merged in any order, give the complete encoder's e_s."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from larr.rankers.scene_encoder import SceneEncoder
from larr.serve.fold import (
    Partial,
    agg_partial,
    attention_of,
    encoded,
    merged,
    partial,
)
from tests.rankers.test_scene_encoder import VECTORS, R, V, make_encoder

NUMBERS = st.lists(st.tuples(*[st.integers(-1, V // R - 1)] * R), min_size=1, max_size=6)
"""Which of its slot's texts each keyword of a row has; -1 = none."""


def texts_of(numbers: list[tuple[int, ...]]) -> Tensor:
    number_NR = torch.tensor(numbers)
    return torch.where(number_NR < 0, -1, number_NR * R + torch.arange(R))


def vectors_of(text_NR: Tensor, kind: torch.dtype = torch.float64) -> Tensor:
    """The vectors of texts, 0 for missing ones."""
    return VECTORS.to(kind)[text_NR.clamp(min=0)].masked_fill(text_NR[..., None] < 0, 0)


def softmax_of(encoder: SceneEncoder, text_NR: Tensor, slots: list[int]) -> Partial:
    """The softmax over the texts of some keywords."""
    text_NX = text_NR[:, slots]
    vectors_NXD = VECTORS.to(encoder.agg.dtype)[text_NX.clamp(min=0)]
    tokens_NXD = torch.where((text_NX < 0)[..., None], encoder.null, vectors_NXD)
    logits, values = attention_of(encoder, (tokens_NXD + encoder.slots[slots]).flatten(0, 1))
    return partial(*(rows.unflatten(0, text_NX.shape) for rows in (logits, values)))


@pytest.mark.parametrize(("kind", "off"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("pre_norm", [True, False])
@settings(max_examples=40, deadline=None)
@given(numbers=NUMBERS, place=st.sets(st.integers(0, R - 1)))
@torch.no_grad()
def test_folded_equals_the_complete_encoder(
    numbers: list[tuple[int, ...]], place: set[int], pre_norm: bool, kind: torch.dtype, off: float
) -> None:
    encoder, text_NR = make_encoder(pre_norm=pre_norm).to(kind), texts_of(numbers)
    complete = encoder(vectors_of(text_NR, kind), text_NR < 0)
    request = softmax_of(encoder, text_NR, [slot for slot in range(R) if slot not in place])
    known = merged(agg_partial(encoder), request)
    folded = encoded(encoder, merged(known, softmax_of(encoder, text_NR, sorted(place))))
    assert (folded - complete).abs().max() <= off * complete.abs().max().clamp(min=1)


@torch.no_grad()
def test_the_request_is_merged_once_for_all_places() -> None:
    encoder, text_NR = make_encoder(), texts_of([(0, 1, 2, 3, -1), (5, 1, 2, 0, -1)])
    request = merged(agg_partial(encoder), softmax_of(encoder, text_NR[:1], [1, 2]))
    folded = encoded(encoder, merged(request, softmax_of(encoder, text_NR, [0, 3, 4])))
    complete = encoder(vectors_of(text_NR), text_NR < 0)
    assert torch.allclose(folded, complete, atol=1e-12)


@torch.no_grad()
def test_merging_is_commutative_and_associative() -> None:
    encoder, text_NR = make_encoder(), texts_of([(0, 1, -1, 3, 4)])
    parts = [softmax_of(encoder, text_NR, [slot]) for slot in range(3)]
    for one, other in combinations(parts, 2):
        for first, second in zip(merged(one, other), merged(other, one), strict=True):
            assert torch.allclose(first, second, atol=1e-14)
    left = merged(merged(parts[0], parts[1]), parts[2])
    right = merged(parts[0], merged(parts[1], parts[2]))
    assert torch.allclose(
        left.value / left.weight[..., None], right.value / right.weight[..., None]
    )
