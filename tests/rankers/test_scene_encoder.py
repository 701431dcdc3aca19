"""The scene encoder equals the complete transformer, and its definition."""

import pytest
import torch
from torch import Tensor, nn

from larr.config.rankers import PleConfig, RankerConfig
from larr.data.features import Features
from larr.rankers.layers import initialise
from larr.rankers.ranker import RankerInputs
from larr.rankers.scene_encoder import SceneEncoder

B, R, D, V = 7, 5, 16, 30
VECTORS = nn.functional.normalize(torch.randn(V, D, dtype=torch.float64), dim=1)


def make_encoder(**scene: object) -> SceneEncoder:
    settings = {"heads": 4, "feedforward": 24} | scene
    align = RankerConfig(ple=PleConfig(expert_units=[16, 8]), scene=settings)
    features = Features(
        dataset="test",
        tasks=("click",),
        categories=(),
        numbers=(),
        recent=0,
        scene_keywords=tuple("abcde"),
        train_rows=0,
        test_rows=0,
    )
    encoder = SceneEncoder(RankerInputs("larr", features, align, VECTORS.float()))
    initialise(encoder, 3)
    with torch.no_grad():  # no bias or norm has its neutral value
        for parameter in encoder.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return encoder.double().eval()


def texts(missing: float) -> Tensor:
    numbers = torch.randint(0, V, (B, R), dtype=torch.int32)
    return torch.where(torch.rand(B, R) < missing, -1, numbers)


def read(encoder: SceneEncoder, texts_BR: Tensor) -> Tensor:
    kind = encoder.agg.dtype
    vectors_BRD = VECTORS[texts_BR.clamp(min=0)].masked_fill(texts_BR[:, :, None] < 0, 0)
    e_s: Tensor = encoder(vectors_BRD.to(kind), texts_BR < 0)
    return e_s


def naive_tokens(encoder: SceneEncoder, texts_BR: Tensor) -> Tensor:
    rows = []
    for row in texts_BR.tolist():
        known = [VECTORS[text] if text >= 0 else encoder.null for text in row]
        slotted = [vector + encoder.slots[slot] for slot, vector in enumerate(known)]
        rows.append(torch.stack([encoder.agg, *slotted]))
    return torch.stack(rows)


def naive_layer(layer: nn.TransformerEncoderLayer, x_BSD: Tensor) -> Tensor:
    """A transformer layer written out for each row and head."""
    attention, pre = layer.self_attn, layer.norm_first
    query, key, value = attention.in_proj_weight.chunk(3)
    query_bias, key_bias, value_bias = attention.in_proj_bias.chunk(3)
    rows = []
    for x in x_BSD:
        read, heads = layer.norm1(x) if pre else x, []
        q, k, v = read @ query.T + query_bias, read @ key.T + key_bias, read @ value.T + value_bias
        size = D // attention.num_heads
        for start in range(0, D, size):
            part = slice(start, start + size)
            weights = (q[:, part] @ k[:, part].T / size**0.5).softmax(1)
            heads.append(weights @ v[:, part])
        mixed = x + attention.out_proj(torch.cat(heads, 1))
        mixed = mixed if pre else layer.norm1(mixed)
        hidden = layer.linear1(layer.norm2(mixed) if pre else mixed).relu()
        output = mixed + layer.linear2(hidden)
        rows.append(output if pre else layer.norm2(output))
    return torch.stack(rows)


@pytest.mark.parametrize("pre_norm", [True, False])
@pytest.mark.parametrize("missing", [0.0, 0.4, 1.0])
def test_computing_only_agg_equals_the_complete_encoder(pre_norm: bool, missing: float) -> None:
    encoder = make_encoder(pre_norm=pre_norm)
    texts_BR = texts(missing)
    tokens_BSD = naive_tokens(encoder, texts_BR)
    expected = encoder.projection(naive_layer(encoder.first, tokens_BSD)[:, 0])
    torch.testing.assert_close(read(encoder, texts_BR), expected, atol=1e-12, rtol=0)
    library = encoder.projection(encoder.first(tokens_BSD)[:, 0])
    torch.testing.assert_close(read(encoder, texts_BR), library, atol=1e-12, rtol=0)
    single = read(encoder.float(), texts_BR)
    torch.testing.assert_close(single, expected.float(), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("pre_norm", [True, False])
def test_computing_only_agg_has_the_gradients_of_the_complete_encoder(pre_norm: bool) -> None:
    encoder = make_encoder(pre_norm=pre_norm)
    texts_BR, weights = texts(0.3), torch.randn(B, 8, dtype=torch.float64)
    complete = encoder.projection(naive_layer(encoder.first, naive_tokens(encoder, texts_BR))[:, 0])
    parameters = list(encoder.parameters())
    expected = torch.autograd.grad((complete * weights).sum(), parameters)
    gradients = torch.autograd.grad((read(encoder, texts_BR) * weights).sum(), parameters)
    for gradient, other in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, other, atol=1e-10, rtol=0)


@pytest.mark.parametrize("pooling", ["agg", "mean"])
@pytest.mark.parametrize("layers", [1, 2])
def test_other_poolings_and_more_layers(pooling: str, layers: int) -> None:
    encoder = make_encoder(pooling=pooling, layers=layers)
    texts_BR = texts(0.2)
    outputs = naive_layer(encoder.first, naive_tokens(encoder, texts_BR))
    for layer in encoder.more:
        outputs = naive_layer(layer, outputs)
    pooled = outputs[:, 0] if pooling == "agg" else outputs.mean(1)
    torch.testing.assert_close(
        read(encoder, texts_BR), encoder.projection(pooled), atol=1e-12, rtol=0
    )
