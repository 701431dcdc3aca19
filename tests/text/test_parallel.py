"""Several processes train as one does, and a lost one is reported."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import nn
from torch.distributed.tensor import DTensor

from larr import artifacts
from larr.config import ClusterConfig, Config
from larr.errors import LarrError
from larr.group import Group, process_group
from larr.text import training
from larr.text.backbone import load_base
from larr.text.contrast import TripleLoss, contrast
from larr.text.encoder import as_encoder
from larr.text.pairs import TripleCollator, examples, held_out
from larr.text.pretrain import pretrain
from larr.text.training import divide

TEXTS, SIZE, CLIPPED = 24, 3, 0.1
Engine = Literal["local", "ray"]
ENGINES = ["local", pytest.param("ray", marks=pytest.mark.slow)]


@pytest.fixture
def config(prepared: Config, tmp_path: Path) -> Config:
    shutil.copytree(prepared.output, tmp_path / "run")
    settings = {"output": tmp_path / "run", "contrast.triples": 64, "contrast.batch_size": 16}
    return prepared.with_settings(settings)


def gradients(config: Config, group: Group) -> list[list[torch.Tensor]]:
    """The loss of stage 2 for one batch, the norm of its gradients, and these clipped.

    Those of a whole model, then of a divided one.
    """
    torch.manual_seed(group.rank)
    lm = load_base(config)
    encoder = as_encoder(lm, 8, "mean")
    group.start(encoder)
    columns = examples(config, held_out(config))
    rows = [{name: column[row] for name, column in columns.items()} for row in range(TEXTS)]
    batch = TripleCollator(lm.tokens, config.contrast.shown, processes=SIZE)(rows)
    names = [name.removesuffix("_input_ids") for name in batch if name.endswith("_input_ids")]
    groups = [
        {key: batch[f"{name}_{key}"] for key in ("input_ids", "attention_mask")} for name in names
    ]
    triples = TripleLoss(encoder, config.contrast, torch.zeros(1_000), bf16=False, group=group)
    found = []
    for divides in (False, True):
        if divides:
            divide(encoder, group)
        encoder.zero_grad()
        loss = torch.stack([*triples(groups, batch["label"]).values()]).sum()
        loss.backward()
        if not divides:
            group.all_reduce_gradients(encoder)
        norm = whole(nn.utils.clip_grad_norm_(encoder.parameters(), CLIPPED))
        clipped = [whole(weight.grad) for weight in encoder.parameters()]
        found.append([loss.detach(), norm, *clipped])
    own = sum(local(weight).numel() for weight in encoder.parameters())
    assert own <= 1.1 / group.size * sum(weight.numel() for weight in encoder.parameters())
    return found


def whole(tensor: Any) -> torch.Tensor:
    """The tensor of all processes, if it is divided."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def local(tensor: torch.Tensor) -> torch.Tensor:
    """The part of this process, if the tensor is divided."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def assist(config: Config, group: Group) -> None:
    gradients(config, group)


@pytest.mark.parametrize("engine", ENGINES)
def test_the_gradients_are_those_of_one_process(config: Config, engine: Engine) -> None:
    cluster = {"engine": engine, "workers": SIZE, "divide_model": True}
    several = config.with_settings({"cluster": cluster})
    with process_group(SIZE, assist, several) as group:
        assert group.size == SIZE
        shared = gradients(several, group)
    torch.manual_seed(0)
    alone = gradients(config, Group())
    assert all(norm > CLIPPED for _, norm, *_ in alone)
    torch.testing.assert_close(shared, alone, rtol=1e-4, atol=1e-5)


def measured(config: Config, verb: str) -> Any:
    folder = artifacts.folder(config, verb)
    return artifacts.read_json(folder / artifacts.MANIFEST)["figures"]


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("qwen2", {}),
        ("modernbert", {"cluster.divide_model": True}),
        ("qwen2", {"cluster.divide_model": True, "backbone.lora_rank": 4}),
    ],
)
def test_two_processes_train_as_one(
    kind: str,
    settings: dict[str, Any],
    config: Config,
    models: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(training, "MIN_STEPS", 1)
    model = settings | {"backbone.model": str(models[kind]), "pretrain.batch_size": 6}
    model |= {"pretrain.learning_rate": 5e-3, "contrast.learning_rate": 1e-3}
    runs = [config.with_settings(model | {"cluster.workers": workers}) for workers in (1, 2)]
    found = []
    for run in runs:
        pretrain(run)
        contrast(run)
        found.append((measured(run, "pretrain"), measured(run, "contrast")))
    for one, two in zip(*found, strict=True):
        assert one.keys() == two.keys()
    (pretrained, tuned), (pretrained_2, tuned_2) = found
    assert pretrained_2["loss"] == pytest.approx(pretrained["loss"], rel=1e-2)
    key = "perplexity_y_after"
    assert pretrained[key] < 0.99 * pretrained["perplexity_y_before"]
    assert pretrained_2[key] == pytest.approx(pretrained[key], rel=2e-3)
    assert tuned_2["held_out_auc"] == pytest.approx(tuned["held_out_auc"], abs=0.02)
    losses = [[entry["loss"] for entry in figures["loss"]] for figures in (tuned, tuned_2)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-2)


def start(engine: Engine, other: Any) -> None:
    config = Config(cluster=ClusterConfig(engine=engine, workers=2))
    with process_group(2, other, config) as group:
        group.start(nn.Linear(2, 2))
        group.broadcast(True)
        group.broadcast(True)


def die(config: Config, group: Group) -> None:
    os._exit(9)


def die_later(config: Config, group: Group) -> None:
    group.start(nn.Linear(2, 2))
    os._exit(9)


@pytest.mark.parametrize("ends", [die, die_later])
@pytest.mark.parametrize("engine", ENGINES)
def test_a_lost_process_is_reported(engine: Engine, ends: Any) -> None:
    with pytest.raises(LarrError, match=r"a worker process .* run the same command again"):
        start(engine, ends)


def fail(config: Config, group: Group) -> None:
    raise LarrError("no such file")


@pytest.mark.parametrize("engine", ENGINES)
def test_an_error_of_another_process_is_raised(engine: Engine) -> None:
    with pytest.raises(LarrError, match="no such file"):
        start(engine, fail)
