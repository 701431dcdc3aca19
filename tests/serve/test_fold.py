"""Folding is exact: partial softmaxes, merged in any way, give the whole encoder's e_s."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from larr.config.rankers import SceneConfig
from larr.rankers.scene_encoder import SceneEncoder
from larr.serve.fold import (
    Finish,
    TextTables,
    agg_partial,
    merged,
    partial,
    text_rows,
    text_tables,
    why_not,
)
from larr.serve.rows import Rows
from tests.rankers.test_scene_encoder import VECTORS, R, V, make_encoder

SLOT_V = torch.arange(V) % R
NUMBERS = st.lists(st.tuples(*[st.integers(-1, V // R - 1)] * R), min_size=1, max_size=6)
"""Which of its slot's texts each keyword of a row has; -1 = none."""


def made_tables(encoder: SceneEncoder, vectors_VD: torch.Tensor) -> TextTables:
    return text_tables(encoder, Rows(text_rows(encoder, vectors_VD, SLOT_V)))


def texts_of(numbers: list[tuple[int, ...]]) -> Tensor:
    number_NR = torch.tensor(numbers)
    return torch.where(number_NR < 0, -1, number_NR * R + torch.arange(R))


def folded(encoder: SceneEncoder, text_NR: Tensor, place: list[int]) -> Tensor:
    request = [slot for slot in range(R) if slot not in place]
    tables = made_tables(encoder, VECTORS.to(encoder.agg.dtype))
    known = agg_partial(encoder)
    known = merged(known, partial(*tables.of(text_NR[:, request], request)))
    known = merged(known, partial(*tables.of(text_NR[:, place], place)))
    with torch.no_grad():
        return Finish(encoder)(known)


@pytest.mark.parametrize(("kind", "off"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("pre_norm", [True, False])
@settings(max_examples=40, deadline=None)
@given(numbers=NUMBERS, place=st.sets(st.integers(0, R - 1)))
def test_folded_equals_whole(
    numbers: list[tuple[int, ...]], place: set[int], pre_norm: bool, kind: torch.dtype, off: float
) -> None:
    encoder = make_encoder(pre_norm=pre_norm).to(kind)
    text_NR = texts_of(numbers)
    with torch.no_grad():
        whole = encoder(VECTORS[text_NR.clamp(min=0)].to(kind), text_NR < 0)
    told = folded(encoder, text_NR, sorted(place))
    assert (told - whole).abs().max() <= off * whole.abs().max().clamp(min=1)


def test_the_request_is_merged_once_for_all_places() -> None:
    encoder, text_NR = make_encoder(), texts_of([(0, 1, 2, 3, -1), (5, 1, 2, 0, -1)])
    tables = made_tables(encoder, VECTORS)
    request = merged(agg_partial(encoder), partial(*tables.of(text_NR[:1, 1:3], [1, 2])))
    places = partial(*tables.of(text_NR[:, [0, 3, 4]], [0, 3, 4]))
    with torch.no_grad():
        told = Finish(encoder)(merged(request, places))
        whole = encoder(VECTORS[text_NR.clamp(min=0)], text_NR < 0)
    assert torch.allclose(told, whole, atol=1e-12)


def test_merging_is_commutative_and_associative() -> None:
    encoder = make_encoder()
    tables = made_tables(encoder, VECTORS)
    text_NR = texts_of([(0, 1, -1, 3, 4)])
    parts = [partial(*tables.of(text_NR[:, [slot]], [slot])) for slot in range(3)]
    for one, other in combinations(parts, 2):
        for first, second in zip(merged(one, other), merged(other, one), strict=True):
            assert torch.allclose(first, second, atol=1e-14)
    left = merged(merged(parts[0], parts[1]), parts[2])
    right = merged(parts[0], merged(parts[1], parts[2]))
    assert torch.allclose(
        left.value / left.weight[..., None], right.value / right.weight[..., None]
    )


def test_a_setting_that_breaks_the_algebra_is_named() -> None:
    assert why_not(SceneConfig()) is None
    assert "layers is 2" in str(why_not(SceneConfig(layers=2)))
    assert "pooling is mean" in str(why_not(SceneConfig(pooling="mean")))
