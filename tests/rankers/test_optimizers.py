"""Parameters as vectors: the optimizer equals AdamW; dropout from random bits."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.optim import AdamW

from larr.rankers.layers import Dropout
from larr.rankers.optimizers import FlatAdamW


@pytest.mark.parametrize(("bf16", "off"), [(False, 1e-6), (True, 2e-2)])
def test_it_equals_adamw_for_each_parameter(bf16: bool, off: float) -> None:
    ours = nn.Sequential(nn.Linear(5, 7), nn.LayerNorm(7), nn.ReLU(), nn.Linear(7, 3))
    theirs = copy.deepcopy(ours)

    def groups(model: nn.Sequential) -> list[dict[str, object]]:
        first, *rest = model.parameters()
        return [
            {"params": [first], "lr": 0.01, "weight_decay": 0.5},
            {"params": rest, "lr": 0.02, "weight_decay": 0.0},
        ]

    flat, adamw = FlatAdamW(ours, groups(ours), bf16), AdamW(groups(theirs))
    assert (ours[0].weight.dtype, ours[1].weight.dtype) == (
        torch.bfloat16 if bf16 else torch.float32,
        torch.float32,
    )
    for step in range(5):
        x = torch.randn(64, 5)
        for model, optimizer in ((ours, flat), (theirs, adamw)):
            optimizer.param_groups[1]["lr"] = 0.02 / (1 + step)
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                loss = (model(x).float() - x[:, :3]).square().mean()
            loss.backward()
            optimizer.step()
    flat.finish()
    for found, expected in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert found.grad is None
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, expected, atol=off, rtol=off)
    ours[0].bias.data.zero_()
    assert ours[0].weight.any()  # they share no memory


def test_a_parameter_without_gradient_has_the_gradient_0() -> None:
    model = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])
    group = {"params": list(model.parameters()), "betas": (0.0, 0.9), "weight_decay": 0.0}
    flat = FlatAdamW(model, [group], bf16=False)
    (model[0](torch.ones(1, 2)) + model[1](torch.ones(1, 2))).sum().backward()
    flat.step()
    before = model[1].weight.detach().clone()
    flat.zero_grad()
    model[0](torch.ones(1, 2)).sum().backward()
    flat.step()
    assert torch.equal(model[1].weight, before)


def test_dropout_keeps_the_mean_and_the_share() -> None:
    dropout, x = Dropout(0.3), torch.ones(101, 103, requires_grad=True)
    kept = dropout(x)
    assert (kept == 0).float().mean().item() == pytest.approx(0.3, abs=0.02)
    assert kept[kept > 0].unique().tolist() == pytest.approx([1 / 0.7])
    kept.sum().backward()
    assert torch.equal(x.grad, kept)
    assert torch.equal(dropout.eval()(x), x)
