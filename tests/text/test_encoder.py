"""Vectors do not depend on their batch."""

from __future__ import annotations

import numpy as np
import pytest

from larr.text import encoder
from larr.text.backbone import LanguageModel
from larr.text.encoder import as_encoder, as_input, compute
from larr.text.fitted import normalised


@pytest.mark.parametrize("batch_tokens", [1, 50, 10_000])
def test_a_vector_does_not_depend_on_the_batch(lm: LanguageModel, batch_tokens: int) -> None:
    model = as_encoder(lm, 16)
    texts = [[("poi_menu", "tofu " * number)] for number in (5, 1, 9, 2)]
    together = compute(model, texts, batch_tokens)
    alone = [compute(model, [text], 10_000)[0] for text in texts]
    np.testing.assert_allclose(together, alone, atol=2e-6)


def test_progress_counts_every_text(lm: LanguageModel) -> None:
    done: list[int] = []
    texts = [[("poi_menu", f"dish {number}")] for number in range(7)]
    compute(as_encoder(lm, 16), texts, 20, done.append)
    assert sum(done) == 7
    assert len(done) > 1


def test_a_large_model_computes_in_bfloat16_and_keeps_the_order(
    lm: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = as_encoder(lm, None)
    texts = [[("poi_menu", f"{'tofu ' * (number % 5)}{number}")] for number in range(9)]
    inputs = [as_input(text) for text in texts]
    expected = compute(model, texts, 1000)
    monkeypatch.setattr(encoder, "PLAIN_TEXTS", 4)
    np.testing.assert_allclose(encoder.compute_plain(model, inputs), expected, atol=2e-6)
    monkeypatch.setattr(encoder, "SMALL_PARAMETERS", 0)
    monkeypatch.setattr(encoder, "bf16_is_fast", lambda: True)
    for vectors in (compute(model, texts, 1000), encoder.compute_plain(model, inputs)):
        assert vectors.dtype == np.float32
        cosines = (normalised(vectors) * normalised(expected)).sum(axis=1)
        assert 0.999 < cosines.min() < 1 - 1e-7, "near, and not the same"


def test_normalised_keeps_zeros() -> None:
    given_ND = np.array([[3.0, 4.0], [0.0, 0.0]])
    np.testing.assert_allclose(normalised(given_ND), [[0.6, 0.8], [0.0, 0.0]])
