"""Stage 2 with `lora_layers` computes the layers below once for each text."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import get_peft_model

from larr.config import Config
from larr.text import lower_layers
from larr.text.backbone import load_base, lora
from larr.text.encoder import as_encoder, as_input
from larr.text.lower_layers import LowerLayers, computed_once
from tests.tiny_models import KINDS

TEXTS = ["tofu", "milk tea and ice cream", "rice noodle roll", "tofu"]


@pytest.mark.parametrize("kind", KINDS)
def test_vectors_and_gradients_are_those_of_the_complete_model(
    kind: str, models: dict[str, Path], prepared: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = load_base(prepared.with_settings({"backbone.model": str(models[kind])}))
    body = getattr(lm.model, "base_model", lm.model)
    encoder = as_encoder(lm, 8)
    encoder[0].model = get_peft_model(body, lora(lm.tokens, body, 4, 1))
    for module in encoder.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    trained = {name: p for name, p in encoder.named_parameters() if p.requires_grad}
    inputs = encoder.preprocess([as_input([("poi_menu", text)]) for text in TEXTS])

    def step() -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        encoder.train().zero_grad()
        vectors = encoder(dict(inputs))["sentence_embedding"]
        (vectors * torch.arange(32.0).view(4, 8)).sum().backward()
        return vectors, {name: p.grad for name, p in trained.items() if p.grad is not None}

    vectors, gradients = step()
    assert any("layer" in name or "h.1" in name for name in gradients)
    with computed_once(body, 1) as lower:
        with torch.inference_mode():
            encoder.eval()(dict(inputs))  # as in an evaluation before the first step
        assert len(lower.kept) == len(set(TEXTS))
        monkeypatch.setattr(LowerLayers, "_compute", None)  # all states are kept
        kept_vectors, kept_gradients = step()
    torch.testing.assert_close(kept_vectors, vectors)
    torch.testing.assert_close(kept_gradients, gradients)
    torch.testing.assert_close(step()[0], vectors)  # the layers are restored


def test_states_beyond_the_limit_are_computed_again(
    models: dict[str, Path], prepared: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lower_layers, "KEPT_BYTES", 1)
    lm = load_base(prepared)
    body = lm.model.base_model
    encoder = as_encoder(lm, 8)
    encoder[0].model = get_peft_model(body, lora(lm.tokens, body, 4, 1))
    texts = [as_input([("poi_menu", text)]) for text in TEXTS]
    expected = encoder.encode(texts)
    with computed_once(body, 1) as lower:
        assert encoder.encode(texts) == pytest.approx(expected, abs=1e-6)
        assert encoder.encode(texts) == pytest.approx(expected, abs=1e-6)
        assert len(lower.kept) == 1
