"""Each part of the rankers equals a naive twin or a value computed by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from larr import rankers
from larr.config import Config
from larr.data.batches import Batch
from larr.rankers.embedding import CategoryTable, EmbeddedFeatures, TargetAttention, mean_row
from larr.rankers.layers import tower_rates, with_product
from larr.rankers.optimizers import LazyAdam, summed_by_row
from larr.rankers.ple import Mixture, Ple
from tests.ranking_log import Sizes, rows_of, small_align, write_log


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    return write_log(tmp_path_factory.mktemp("parts"), Sizes(rows=100, test_rows=50))


@pytest.fixture(scope="module")
def batch(config: Config) -> Batch:
    return rows_of(config, "train", 64)


def test_category_table_reads_rows_and_leaves_their_gradient() -> None:
    table = CategoryTable(5, 2).train()
    with torch.no_grad():
        table.rows.copy_(torch.arange(10.0).reshape(5, 2))
    rows = table(torch.tensor([[3, 1], [3, 3]], dtype=torch.int32))
    assert rows[0].tolist() == [[6.0, 7.0], [2.0, 3.0]]
    (rows * torch.tensor([1.0, 10.0])).sum().backward()
    ((touched, looked_up),) = table.touched
    rows, gradients = summed_by_row(touched.flatten(), looked_up.grad.flatten(0, 1))
    assert rows.tolist() == [1, 3]
    assert gradients.tolist() == [[1.0, 10.0], [3.0, 30.0]]


def test_lazy_adam_equals_torchs_sparse_adam() -> None:
    twin, table = nn.Embedding(9, 3, sparse=True), CategoryTable(9, 3).train()
    with torch.no_grad():
        table.rows.copy_(twin.weight)
    theirs = torch.optim.SparseAdam(twin.parameters(), lr=0.1)
    ours = LazyAdam(table, 0.1, l2=0.0)
    for step in range(6):
        rows, slope = torch.randint(0, 7, (8,)), torch.randn(8, 3) * 10.0**-step
        theirs.zero_grad()
        (twin(rows) * slope).sum().backward()
        (table(rows) * slope).sum().backward()
        theirs.step()
        ours.step()
        torch.testing.assert_close(table.rows.data, twin.weight.data, atol=1e-6, rtol=1e-6)


def test_lazy_adam_decays_only_the_touched_rows() -> None:
    table = CategoryTable(3, 2).train()
    with torch.no_grad():
        table.rows.copy_(torch.tensor([[1.0, -1.0], [2.0, 2.0], [3.0, 0.0]]))
    (table(torch.tensor([0, 2])) * 0.0).sum().backward()
    LazyAdam(table, 0.1, l2=0.5).step()
    expected = torch.tensor([[0.9, -0.9], [2.0, 2.0], [2.9, 0.0]])  # Adam's first step is the rate
    torch.testing.assert_close(table.rows.data, expected)


def test_the_mean_of_some_rows_is_summed_in_blocks() -> None:
    rows, chosen = torch.rand(200_000, 2), torch.rand(200_000) < 0.5
    torch.testing.assert_close(mean_row(rows, chosen), rows[chosen].double().mean(dim=0).float())


def test_encoder_reads_each_category_from_its_own_rows(config: Config, batch: Batch) -> None:
    encoder = rankers.build(config, "ple").eval().encoder
    encoded = encoder(batch)
    starts = np.cumsum([0, *Sizes().categories])
    for row in (0, 17):
        for column, index in enumerate(batch.categories[row].tolist()):
            expected = encoder.table.rows[starts[column] + index]
            assert torch.equal(encoded.categories[row, column], expected)
    assert encoded.joined().shape == (batch.rows, encoder.width)


def test_target_attention_weighs_each_recent_place_by_itself() -> None:
    attention = TargetAttention(4)
    candidate, recent = torch.randn(3, 4), torch.randn(3, 5, 4)
    known = torch.tensor([[1, 1, 0, 1, 0], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]]).bool()
    found = attention(candidate, recent, known)
    for row in range(3):
        total = torch.zeros(4)
        for place in range(5):
            if known[row, place]:
                one, other = recent[row, place], candidate[row]
                hidden = attention.pair(torch.cat([one, one * other])) + attention.candidate(other)
                total += attention.score(hidden.relu()) * one
        torch.testing.assert_close(found[row], total)
    assert torch.equal(found[1], torch.zeros(4))


def test_the_product_is_that_of_esmm() -> None:
    logits = torch.tensor([[0.3, -1.2], [40.0, 2.0], [-40.0, -40.0]])
    both = with_product(logits, "product")
    expected = logits.double().sigmoid().prod(dim=1)
    torch.testing.assert_close(both[:, 1].double().sigmoid(), expected, rtol=1e-5, atol=0)
    assert torch.equal(both[:, 0], logits[:, 0])
    assert torch.equal(with_product(logits, "tower"), logits)
    assert torch.equal(with_product(logits[:, :1], "product"), logits[:, :1])


@pytest.mark.parametrize(("ctcvr", "given_click"), [("tower", 0.02), ("product", 0.2)])
def test_towers_start_at_the_base_rates(
    ctcvr: Literal["tower", "product"], given_click: float, config: Config
) -> None:
    ranker = rankers.build(config, "ple").eval()
    last = ranker.towers.layers[-1]
    nn.init.zeros_(last.weight)
    ranker.set_base_rates(tower_rates(torch.tensor([0.1, 0.02]), ctcvr))
    logits = ranker.towers(torch.randn(2, 3, ranker.settings.ple.expert_units[-1]))
    expected = torch.tensor([0.1, given_click]).expand(3, 2)
    torch.testing.assert_close(logits.sigmoid(), expected)
    both = with_product(logits, ctcvr).sigmoid()
    torch.testing.assert_close(both, torch.tensor([0.1, 0.02]).expand(3, 2))


def test_wide_part_adds_a_weight_for_each_category_and_number(config: Config, batch: Batch) -> None:
    model = rankers.build(config, "wide_deep")
    before = model.score(batch)
    with torch.no_grad():
        model.encoder.table.rows[7, -2:] += torch.tensor([1.0, 2.0])
    moved = model.score(batch) - before
    touched = (batch.categories[:, 0] == 7).float()
    torch.testing.assert_close(moved, touched[:, None] * torch.tensor([1.0, 2.0]))


def test_products_of_deepfm_are_those_of_all_pairs(config: Config) -> None:
    model = rankers.build(config, "deepfm")
    features = EmbeddedFeatures(
        torch.randn(2, 3, 4), torch.randn(2, 4), torch.randn(2, 2), torch.empty(2, 3, 0)
    )
    number_fields = features.numbers[:, :, None] * model.number_fields
    fields = torch.cat([features.categories, features.recent[:, None], number_fields], dim=1)
    expected = torch.zeros(2, 4)
    for one in range(6):
        for other in range(one):
            expected = expected + fields[:, one] * fields[:, other]
    torch.testing.assert_close(model.products(features), expected, atol=1e-5, rtol=1e-5)


def test_crosses_of_dcn_are_products_with_the_inputs(config: Config) -> None:
    model = rankers.build(config, "dcn")
    x_BD = torch.randn(5, model.encoder.width)
    first, second = model.crosses
    one_BD = x_BD * (x_BD @ first.weight.T + first.bias) + x_BD
    expected_BD = x_BD * (one_BD @ second.weight.T + second.bias) + one_BD
    torch.testing.assert_close(model.crosses(x_BD), expected_BD)


def naive_level(
    mixture: Mixture, tasks: int, owners: list[int], first: list[list[Tensor]], gates: list[Tensor]
) -> list[Tensor]:
    """One row through a level; `first[e]` is expert e's first layer before its activation."""
    experts = []
    for expert, hidden in enumerate(first):
        value = hidden[0].relu()
        for layer in mixture.layers:
            value = (layer.weight[expert] @ value + layer.bias[expert, 0]).relu()
        experts.append(value)
    mixed = []
    for gate, logits in enumerate(gates):
        mixes = [e for e, owner in enumerate(owners) if gate == tasks or owner in (gate, tasks)]
        weights = logits[mixes].softmax(0)
        mixed.append(sum(w * experts[e] for w, e in zip(weights, mixes, strict=True)))
    return mixed


def naive_ple(model: Ple, x: Tensor, tasks: int) -> Tensor:
    """PLE for one row, expert by expert, from the weights of the model."""
    owners = model.first.mixture.owners.tolist()
    units = model.settings.ple.expert_units[0]
    out = model.first.linear(x)
    first = [[out[e * units : (e + 1) * units]] for e in range(len(owners))]
    gates = list(out[len(owners) * units :].reshape(-1, len(owners)))
    inputs = naive_level(model.first.mixture, tasks, owners, first, gates)
    for level in model.next:
        parts = level.experts
        first = [
            [parts.weight[e] @ inputs[owner] + parts.bias[e, 0]] for e, owner in enumerate(owners)
        ]
        gates = [
            level.gates.weight[g] @ inputs[g] + level.gates.bias[g, 0]
            for g in range(len(level.gates.weight))
        ]
        inputs = naive_level(level.mixture, tasks, owners, first, gates)
    logits = []
    crossed = x
    for layer in model.crosses:
        crossed = x * (layer.weight @ crossed + layer.bias) + crossed
    for task in range(tasks):
        value = torch.cat([inputs[task], crossed]) if model.crosses else inputs[task]
        for layer in model.towers.layers[:-1]:
            value = (layer.weight[task] @ value + layer.bias[task, 0]).relu()
        last = model.towers.layers[-1]
        logits.append(last.weight[task, 0] @ value + last.bias[task, 0, 0])
    return torch.stack(logits)


@pytest.mark.parametrize("tasks", [1, 2])
@pytest.mark.parametrize("levels", [1, 2, 3])
def test_ple_equals_a_ple_of_single_experts(tasks: int, levels: int, tmp_path: Path) -> None:
    ple = {"levels": levels, "shared_experts": 3, "expert_units": [6, 5, 4], "tower_units": [3]}
    ple["cross_layers"] = levels - 1
    names = ("click", "order")[:tasks]
    config = write_log(tmp_path, Sizes(10, tasks=names, test_rows=10), small_align(ple=ple))
    model = rankers.build(config, "ple").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        gates = [model.first.mixture.shape_GN[0]] + [m.mixture.shape_GN[0] for m in model.next]
        assert gates == [tasks + 1] * (levels - 1) + [tasks]
        x_BD = torch.randn(4, model.encoder.width)
        found = model.logits(x_BD)
        for row in range(4):
            expected = naive_ple(model, x_BD[row], tasks)
            torch.testing.assert_close(found[row], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["wide_deep", "deepfm", "dcn", "din", "ple"])
def test_dropout_is_active_only_in_training(name: str, config: Config, batch: Batch) -> None:
    settings = config.align.with_settings({"dropout": 0.5})
    model = rankers.build(config, name, settings)
    with torch.no_grad():
        assert not torch.equal(model.train()(batch), model(batch))
    assert torch.equal(model.score(batch), model.score(batch))
