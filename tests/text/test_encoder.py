"""Vectors do not depend on their batch."""

from __future__ import annotations

import numpy as np
import pytest

from larr.text.backbone import LanguageModel
from larr.text.encoder import as_encoder, compute, normalised


@pytest.mark.parametrize("batch_tokens", [1, 50, 10_000])
def test_vector_is_that_of_the_text_alone(lm: LanguageModel, batch_tokens: int) -> None:
    encoder = as_encoder(lm, 16)
    texts = [[("poi_menu", "tofu " * number)] for number in (5, 1, 9, 2)]
    together = compute(encoder, texts, batch_tokens)
    alone = [compute(encoder, [text], 10_000)[0] for text in texts]
    np.testing.assert_allclose(together, alone, atol=2e-6)


def test_progress_counts_every_text(lm: LanguageModel) -> None:
    done: list[int] = []
    texts = [[("poi_menu", f"dish {number}")] for number in range(7)]
    compute(as_encoder(lm, 16), texts, 20, done.append)
    assert sum(done) == 7
    assert len(done) > 1


def test_normalised_leaves_zeros_alone() -> None:
    given_ND = np.array([[3.0, 4.0], [0.0, 0.0]])
    np.testing.assert_allclose(normalised(given_ND), [[0.6, 0.8], [0.0, 0.0]])
