"""`larr distill`: dropped layers, removed units, their scores, training of the smaller model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from sentence_transformers import SentenceTransformer
from torch.optim import AdamW
from transformers import AutoConfig, AutoModel, LlamaConfig

from larr import artifacts
from larr.config import Config
from larr.config.rankers import VariantConfig
from larr.errors import ConfigError
from larr.stages import stage_inputs
from larr.text import distill as stage
from larr.text import shards
from larr.text.backbone import LanguageModel, load_base
from larr.text.distill import distill, quality
from larr.text.embed import SOURCES, embed
from larr.text.encoder import as_encoder, compute, load_encoder
from larr.text.narrow import HEADS, HIDDEN, Axis, Narrowing, _targets, without_layers
from tests.fake_data import make_data

PARTS = [[("poi_menu", "mapo tofu, milk tea")], [("user_taste", "likes spicy food")]]


def encoder_of(tmp_path: Path, model: Path) -> SentenceTransformer:
    config = make_data(tmp_path / "run", backbone={"model": str(model)})
    as_encoder(load_base(config), 16).save(str(tmp_path / "large"), create_model_card=False)
    return load_encoder(tmp_path / "large")


def narrowing_of(encoder: SentenceTransformer) -> Narrowing:
    """Returns a narrowing after one step."""
    optimizer = AdamW(encoder.parameters(), 0.0)  # has a state, but changes no weights
    narrowing = Narrowing(encoder, 0.5, optimizer)
    batch = encoder[0].tokens.pad(encoder[0].tokens.encode_batch(PARTS))
    encoder(batch)["sentence_embedding"][:, :3].sum().backward()
    narrowing.observe()
    optimizer.step()
    return narrowing


@pytest.mark.parametrize("kind", ["gemma3", "bert", "modernbert"])
def test_left_out_layers_are_skipped(kind: str, models: dict[str, Path]) -> None:
    config = AutoConfig.from_pretrained(models[kind])
    config.num_hidden_layers, config.use_cache = 5, False
    if hasattr(config, "layer_types"):
        config.layer_types = [*["sliding_attention"] * 4, "full_attention"]
    model = AutoModel.from_config(config).eval()
    smaller = without_layers(model, 0.6).eval()
    stack = next(part for part in model.modules() if isinstance(part, torch.nn.ModuleList))
    del stack[3], stack[1]
    if hasattr(config, "layer_types"):
        model.config.layer_types = ["sliding_attention", "sliding_attention", "full_attention"]
    model.config.num_hidden_layers = 3
    ids_BT = torch.arange(48)[None] + 5
    with torch.no_grad():
        found, expected = (lm(ids_BT).last_hidden_state for lm in (smaller, model))
    torch.testing.assert_close(found, expected)
    with pytest.raises(ConfigError, match="all 3 layers"):
        without_layers(smaller, 0.9)


@pytest.mark.parametrize("kind", ["qwen3", "xlm-roberta"])
def test_a_narrowed_model_is_saved_at_its_size(
    kind: str, models: dict[str, Path], tmp_path: Path
) -> None:
    encoder = encoder_of(tmp_path, models[kind])
    before = sum(weight.numel() for weight in encoder.parameters())
    narrowing, counts = narrowing_of(encoder), []
    for progress in (0.0, 0.5, 1.0):  # the schedule is cubic
        narrowing.narrow(progress)
        counts.append((narrowing.axes[HIDDEN].units, narrowing.axes["inner.0."].units))
    assert counts == [(32, 48), (18, 27), (16, 24)]
    lm = LanguageModel(narrowing.model_of_this_size(), encoder[0].tokens)
    smaller = as_encoder(lm, 16)
    smaller[2].load_state_dict(encoder[2].state_dict())
    smaller.save(str(tmp_path / "saved"), create_model_card=False)
    loaded = load_encoder(tmp_path / "saved")
    vectors = (compute(model, PARTS, 100) for model in (loaded, encoder))
    np.testing.assert_allclose(*vectors, atol=1e-5)
    assert sum(weight.numel() for weight in loaded.parameters()) < 0.6 * before


@pytest.mark.parametrize("keep", [0.2, 0.5, 0.7, 0.83, 0.9])
@pytest.mark.parametrize(("hidden", "heads", "groups"), [(128, 4, 4), (576, 9, 3)])
def test_heads_divide_the_hidden_units_of_llama(
    hidden: int, heads: int, groups: int, keep: float
) -> None:
    config = LlamaConfig(hidden_size=hidden, num_attention_heads=heads, num_key_value_heads=groups)
    targets = _targets(config, keep)
    config.hidden_size = targets[HIDDEN][1]
    config.num_attention_heads = targets[HEADS][1] * heads // groups
    config.validate()  # as saving does
    assert abs(config.hidden_size - keep * hidden) <= 20


def test_score_is_importance_times_uncertainty(models: dict[str, Path], tmp_path: Path) -> None:
    encoder = encoder_of(tmp_path, models["bert"])
    narrowing = Narrowing(encoder, 0.5, AdamW(encoder.parameters()))
    head = encoder[2].linear.weight
    torch.nn.init.constant_(head, 2.0)
    for gradient in (1.0, -3.0):
        head.grad = torch.full_like(head, gradient)
        narrowing.observe()
    # |w g| is 2, then 6; its average .3 and 1.155; the distance 1.7 and 4.845, average .255, .9435
    axis = Axis(32, 16, [(head, 1)])
    torch.testing.assert_close(narrowing.scores(axis), torch.full((32,), 16 * 1.155 * 0.9435))


def test_units_without_effect_are_removed_first(models: dict[str, Path], tmp_path: Path) -> None:
    encoder = encoder_of(tmp_path, models["llama"])
    dead = torch.randperm(48)[:24]
    with torch.no_grad():
        for layer in encoder[0].model.layers:
            layer.mlp.down_proj.weight[:, dead] = 0
            layer.self_attn.o_proj.weight[:, 8:24] = 0
    narrowing, before = narrowing_of(encoder), compute(encoder, PARTS, 100)
    del narrowing.axes[HIDDEN]
    narrowing.narrow(1.0)
    assert {axis.units for axis in narrowing.axes.values()} == {2, 24}
    np.testing.assert_allclose(compute(encoder, PARTS, 100), before, atol=1e-6)


def test_other_families_are_refused(models: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="but not gpt2; set"):
        narrowing_of(encoder_of(tmp_path, models["gpt2"]))


def test_quality_of_equal_and_of_random_vectors() -> None:
    teacher = np.random.default_rng(1).normal(size=(200, 8)).astype(np.float32)
    teacher /= np.linalg.norm(teacher, axis=1, keepdims=True)
    assert quality(teacher, teacher) == {"cosine": 1.0, "centred_cosine": 1.0, "neighbours": 1.0}
    assert quality(teacher[::-1].copy(), teacher)["neighbours"] < 0.2


@pytest.mark.parametrize("way", ["layers", "width"])
def test_the_stage_learns_and_goes_on_after_an_interruption(
    way: str, tuned: Config, copy: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"way": way, "texts": 150, "epochs": 12, "batch_size": 16, "learning_rate": 3e-3}
    config = copy(tuned, distill=changes)
    with monkeypatch.context() as patch:
        patch.setattr(stage, "_train", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            distill(config)
    monkeypatch.setattr(shards, "compute", None)  # the vectors of the large model are reused
    distill(config)
    monkeypatch.undo()
    found = artifacts.manifest(artifacts.folder(config, "distill"))
    assert not any("teacher" in name for name in found["files"])
    assert found["figures"]["centred_cosine"] > 0.5
    parameters = [found["figures"][model]["parameters"] for model in ("student", "teacher")]
    assert parameters[0] < 0.9 * parameters[1]
    assert "distill" not in stage_inputs(config, "embed")
    variants = {"cheap": VariantConfig(of="larr", vectors="distilled")}
    align = config.align.model_copy(update={"models": ["cheap"], "variants": variants})
    config = config.model_copy(update={"align": align})
    assert "distill" in stage_inputs(config, "embed")
    embed(config, ["distilled"])
    stored = np.load(artifacts.folder(config, "embed") / "distilled" / "vectors.npy")
    table = pl.read_parquet(config.output / "prepare" / "texts.parquet")
    later = SOURCES["distilled"].later
    again = later(config, Path())(table.select("keyword", "text").rows())
    np.testing.assert_allclose(stored, again, atol=1e-5)
