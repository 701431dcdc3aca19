"""`larr plan`, and stages that exceed the memory."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from peft import get_peft_model
from rich.console import Console
from torch.nn import Module

from larr import plan
from larr.config import Config
from larr.data.batches import LogRows
from larr.errors import ConfigError, UnavailableError
from larr.run import run_stage
from larr.text import memory
from larr.text.backbone import load_base, lora
from larr.text.memory import needed, require, sample_step
from tests.fake_data import make_data
from tests.ranking_log import Sizes, write_log
from tests.tiny_models import KINDS

QWEN_7B = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_attention_heads": 28,
    "num_hidden_layers": 28,
    "num_key_value_heads": 4,
    "tie_word_embeddings": False,
    "vocab_size": 152064,
}


@pytest.fixture
def without_rankers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Does not train a ranker; the fake data lack a log."""
    monkeypatch.setattr(plan, "ranker_speed", lambda *_: 1000.0)


def trained(model: Module) -> int:
    return sum(each.numel() for each in model.parameters() if each.requires_grad)


@pytest.fixture
def large(tmp_path: Path) -> Config:
    """A run with a model folder that contains only the configuration."""
    (tmp_path / "config.json").write_text(json.dumps(QWEN_7B))
    features = {"categories": ["poi_id"]}
    return make_data(tmp_path / "run", backbone={"model": str(tmp_path)}, features=features)


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_has_the_sizes_of_the_loaded_model(
    kind: str, models: dict[str, Path], prepared: Config
) -> None:
    config = prepared.with_settings({"backbone.model": str(models[kind])})
    lm, step = load_base(config), sample_step(config, "pretrain")
    assert step.parameters == trained(lm.model)
    assert bool(step.tokens.trained) == bool(lm.predicts)
    with_lora = config.with_settings({"backbone.lora_rank": 4})
    body = lm.model.base_model
    wrapped = get_peft_model(body, lora(lm.tokens, body, 4))
    assert sample_step(with_lora, "contrast").trained == trained(wrapped)


def test_a_folder_with_a_models_configuration_is_enough(large: Config) -> None:
    step = sample_step(large, "pretrain")
    assert step.parameters == pytest.approx(7.6e9, rel=0.01)
    in_full = needed(step, on_gpu=True, bf16=True)
    # weights, gradients and Adam's moments in float32, and copies of the layers in bfloat16
    assert in_full > 16 * step.parameters + 2 * step.layer_parameters
    adapters = sample_step(large.with_settings({"backbone.lora_rank": 16}), "pretrain")
    assert 4 * step.parameters <= needed(adapters, on_gpu=True, bf16=True) < in_full / 3
    divided = large.with_settings({"cluster.workers": 4, "cluster.divide_model": True})
    step = sample_step(divided, "pretrain")
    part = needed(step, on_gpu=False, bf16=True)
    # the whole weights, when they are collected, or a part of the training
    assert 5 * step.parameters <= part < in_full / 2
    upper = {"backbone.lora_rank": 16, "backbone.lora_layers": 7}
    assert sample_step(large.with_settings(upper), "contrast").tuned_layers == 7


def test_a_stage_that_exceeds_the_memory_is_refused_before_it_starts(
    large: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "free", lambda: 50e9)
    message = (
        r"pretrain: .* 7,616 million parameters and needs about 1\d\d\.\d GB of memory, but only "
        r"50\.0 GB are free; set backbone\.lora_rank = 16"
    )
    with pytest.raises(UnavailableError, match=message):
        run_stage(large, "pretrain")
    assert not (large.output / "pretrain").exists()
    monkeypatch.setattr(memory, "free", lambda: 5e9)
    with pytest.raises(UnavailableError, match=r"contrast: .*use a smaller backbone\.model"):
        require(large, "contrast")
    monkeypatch.setattr(memory, "free", lambda: 200e9)
    require(large, "pretrain")


def test_the_error_proposes_a_smaller_batch_if_it_fits(
    prepared: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = prepared.with_settings({"contrast.batch_size": 256, "contrast.triples": 256})
    monkeypatch.setattr(
        memory, "free", lambda: memory.needed_here(sample_step(config, "contrast")) / 3
    )
    with pytest.raises(UnavailableError, match=r"set contrast\.batch_size = 32, which needs"):
        require(config, "contrast")


@pytest.mark.usefixtures("without_rankers")
def test_a_model_that_does_not_fit_is_planned_for_gpus(
    large: Config, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(memory, "free", lambda: 20e9)
    monkeypatch.setattr(plan, "console", Console(stderr=True, width=160))
    plan.plan(large.with_settings({"backbone.lora_rank": 16}), "h100", ["encoder"])
    printed = capsys.readouterr().err
    assert "no tokenizer; the built-in one counts tokens instead" in printed
    assert printed.count("too large") == 3  # on this machine; all stages fit on the cards
    assert "contrast: '" in printed


@pytest.mark.usefixtures("without_rankers")
def test_a_plan_has_a_row_for_each_stage(
    prepared: Config, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(plan, "WARM_UP_SECONDS", 0.0)
    monkeypatch.setattr(plan, "console", Console(stderr=True, width=160))
    plan.plan(prepared, "H100", ["encoder", "tfidf"])
    rows = {line.split()[0]: line for line in capsys.readouterr().err.splitlines() if line.strip()}
    assert rows["embed"].split()[1] == str(len(plan._texts(prepared)))
    assert "32" in rows["contrast"].split()
    assert {"pretrain", "contrast", "embed"} <= rows.keys()
    with pytest.raises(ConfigError, match=r"--card gtx: expected one of a10, .*l40s"):
        plan.plan(prepared, "gtx", [])


def test_amounts_equal_the_work_of_stages(prepared: Config, copy: Callable[..., Config]) -> None:
    config = copy(prepared, pretrain={"epochs": 0.0})
    amounts: dict[str, Any] = plan.workloads(config, 2)
    once = plan.workloads(prepared, 1)
    assert amounts["pretrain"].trained == amounts["pretrain"].read == 0
    assert amounts["embed"].read == 2 * once["embed"].read > 0
    assert once["contrast"].steps == 4
    assert amounts["contrast"].read < once["contrast"].read  # one model less to measure
    # 2 operations per token and parameter forward, 2 for recomputation, 4 for gradients
    forward = 2 * once["contrast"].trained * once["contrast"].step.layer_parameters
    assert once["contrast"].operations[0] == 4 * forward


@pytest.mark.parametrize("keywords", [0, 4])
def test_the_speed_of_stage_3_needs_no_vectors(keywords: int, tmp_path: Path) -> None:
    config = write_log(tmp_path, Sizes(rows=900, texts=12 * keywords, keywords=keywords))
    before = sorted(tmp_path.rglob("*"))
    log = LogRows(tmp_path / "prepare" / "train")
    config = config.with_settings({"embed.dimension": 8})  # the log's vectors have 16
    assert plan.ranker_speed(config, log) > 0
    assert sorted(tmp_path.rglob("*")) == before
    with_best = config.with_settings({"align.models": ["ple", "best"], "align.epochs": 2})
    # PLE and at most six members, since few rows are held back
    assert "align: at most 12,600, " in plan._stage_3(with_best)
