"""Figures of the match between a place and a request equal a row-by-row twin."""

import pytest
import torch
from torch import Tensor

from larr.config.rankers import RankerConfig
from larr.data.features import Features
from larr.rankers.matching import SHARPNESS, Matching
from larr.rankers.ranker import RankerInputs

D, V = 6, 9
REQUEST, PLACE = (0, 2), (1, 3)
RECENT_SLOT = 3
RECENT = torch.tensor([[4, 5, -1], [6, -1, -1], [-1, -1, -1]])
TEXTS = torch.tensor([[0, 1, 2, 3], [0, 7, -1, 8], [-1, 1, 2, -1]])


def make(recent_slot: int | None, sources: int) -> tuple[Matching, Tensor]:
    features = Features(
        dataset="test",
        tasks=("click",),
        categories=(),
        numbers=(),
        recent=3,
        scene_keywords=tuple("abcd"),
        train_rows=0,
        test_rows=0,
    )
    stored_VD = 2 * torch.randn(V, D, dtype=torch.float64)  # products below -1 too
    inputs = RankerInputs(
        "larr",
        features,
        RankerConfig(),
        stored_VD,
        sources=sources,
        poi_slots=PLACE,
        recent_slot=recent_slot,
    )
    return Matching(inputs).double(), stored_VD


def vector(stored_VD: Tensor, text: int) -> Tensor:
    return stored_VD[text] if text >= 0 else torch.zeros(D, dtype=torch.float64)


def naive(matching: Matching, stored_VD: Tensor, row: int) -> Tensor:
    texts = [vector(stored_VD, int(text)) for text in TEXTS[row]]
    parts = [slice(n, n + D // matching.sources) for n in range(0, D, D // matching.sources)]
    figures = [texts[p][part] @ texts[q][part] for part in parts for p in PLACE for q in REQUEST]
    request_side = [texts[q] for q in REQUEST]
    if matching.recent_slot is not None:
        recent = [stored_VD[text] for text in RECENT[row].tolist() if text >= 0]
        own = texts[RECENT_SLOT]
        for part in parts:
            if not recent:
                figures += [torch.tensor(0.0)] * 3
                continue
            products = torch.stack([own[part] @ other[part] for other in recent])
            weights = (SHARPNESS * products).softmax(0)
            figures += [products.max(), products.mean(), weights @ products]
        nothing = torch.zeros(D, dtype=torch.float64)
        request_side.append(torch.stack(recent).mean(0) if recent else nothing)
    products = [
        request(torch.cat([text[part] for text in request_side]))
        * place(torch.cat([texts[p][part] for p in PLACE]))
        for request, place, part in zip(
            matching.request, matching.place, [slice(None), *parts[1:]], strict=True
        )
    ]
    return torch.cat([torch.stack([figure.double() for figure in figures]), *products])


@pytest.mark.parametrize("sources", [1, 2])
@pytest.mark.parametrize("recent_slot", [RECENT_SLOT, None])
def test_figures_equal_their_definition(recent_slot: int | None, sources: int) -> None:
    matching, stored_VD = make(recent_slot, sources)
    vectors_BRD, recent_BLD = (
        torch.stack([torch.stack([vector(stored_VD, int(t)) for t in row]) for row in texts])
        for texts in (TEXTS, RECENT)
    )
    figures = matching(vectors_BRD, recent_BLD, RECENT >= 0)
    assert figures.shape == (3, matching.width)
    expected = torch.stack([naive(matching, stored_VD, row) for row in range(3)])
    torch.testing.assert_close(figures, expected, atol=1e-6, rtol=0)
