"""Every ranker: one contract on data with a known answer, and each part against a naive twin."""

import math
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from larr import rankers
from larr.config import Config
from larr.config.rankers import CONTROLS, AlignConfig, VariantConfig
from larr.data.batches import Batch, in_order
from larr.data.features import read_features
from larr.errors import ConfigError
from larr.rankers.dcn import Dcn
from larr.rankers.deepfm import DeepFm
from larr.rankers.larr import Larr
from larr.rankers.layers import (
    CategoryTable,
    Encoded,
    Ranker,
    TargetAttention,
    Towers,
    initialise,
    tower_rates,
    with_product,
)
from larr.rankers.p5 import P5, PADDING
from larr.rankers.ple import Mixture, Ple, expert_owners
from larr.rankers.training import fit
from tests.ranking_log import SOURCES, Sizes, small_align, write_log

VARIANTS = {
    "usual": Sizes(),
    "no recent places": Sizes(recent=0),
    "one task": Sizes(tasks=("click",)),
    "no numbers": Sizes(numbers=0),
    "users and places alone": Sizes(categories=(40, 30)),
}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    return write_log(tmp_path_factory.mktemp("models"))


@pytest.fixture
def batch(config: Config) -> Batch:
    return next(in_order(config.output / "prepare" / "train", 64))


def train(config: Config, name: str, epochs: int = 8) -> Ranker:
    settings = config.align.with_settings({"epochs": epochs, "learning_rate": 5e-3})
    config = config.model_copy(update={"align": settings})
    return fit(config, name, config.output / "prepare" / "train")[0].cpu().eval()


def scores(model: Ranker, batch: Batch) -> Tensor:
    with torch.no_grad():
        return model(batch).logits


@pytest.mark.parametrize("name", rankers.MODELS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_model_learns_what_was_planted(name: str, variant: str, tmp_path: Path) -> None:
    config = write_log(tmp_path, VARIANTS[variant])
    model = train(config, name)
    (whole,) = in_order(config.output / "prepare" / "train", 10_000)
    logits = scores(model, whole)
    assert logits.shape == whole.labels.shape
    least = 0.8 if variant == "no numbers" else 0.9
    assert roc_auc_score(whole.labels[:, 0], logits[:, 0]) > least
    one = scores(model, whole.select(torch.tensor([5])))
    torch.testing.assert_close(one, logits[5:6], atol=1e-5, rtol=1e-5)
    unknown = whole._replace(texts=torch.full_like(whole.texts, -1))
    assert scores(model, unknown).isfinite().all()


@pytest.mark.parametrize("name", ["ple", "larr"])
@pytest.mark.parametrize("ctcvr", ["tower", "product"])
def test_click_and_order_is_learned_in_both_ways(name: str, ctcvr: str, tmp_path: Path) -> None:
    config = write_log(tmp_path, align=small_align(ctcvr=ctcvr))
    (whole,) = in_order(config.output / "prepare" / "train", 10_000)
    logits = scores(train(config, name), whole)
    assert roc_auc_score(whole.labels[:, 1], logits[:, 1]) > 0.8
    expected = whole.labels[:, 1].float().mean().item()
    assert logits.sigmoid()[:, 1].mean().item() == pytest.approx(expected, rel=0.25)


@pytest.mark.parametrize("name", ["wide_deep", "deepfm", "dcn", "din", "p5", "ple", "larr"])
def test_scores_do_not_depend_on_the_other_rows(name: str, config: Config, batch: Batch) -> None:
    model = rankers.build(config, name).eval()
    order = torch.randperm(batch.rows)
    expected = scores(model, batch)[order]
    torch.testing.assert_close(scores(model, batch.select(order)), expected, atol=1e-6, rtol=1e-5)
    half = order[: batch.rows // 2]
    torch.testing.assert_close(
        scores(model, batch.select(half)), expected[: len(half)], atol=1e-6, rtol=1e-5
    )


def test_scores_follow_the_vectors_not_the_numbers_of_the_texts(
    config: Config, batch: Batch
) -> None:
    model = rankers.build(config, "larr").eval()
    assert isinstance(model, Larr)
    expected = scores(model, batch)
    new = torch.randperm(len(model.vectors))
    vectors = torch.empty_like(model.vectors)
    vectors[new] = model.vectors
    model.vectors = vectors
    texts = torch.where(batch.texts >= 0, new[batch.texts.clamp(min=0)].int(), batch.texts)
    torch.testing.assert_close(scores(model, batch._replace(texts=texts)), expected)
    assert not torch.allclose(scores(model, batch), expected)


def test_ple_and_larr_start_alike(config: Config) -> None:
    ple, larr = rankers.build(config, "ple"), rankers.build(config, "larr")
    shared = ple.state_dict().keys() & larr.state_dict().keys()
    assert shared == ple.state_dict().keys()
    for name in shared - {"first.linear.weight"}:
        assert torch.equal(ple.state_dict()[name], larr.state_dict()[name]), name
    narrow, wide = ple.state_dict()["first.linear.weight"], larr.state_dict()["first.linear.weight"]
    ratio = math.sqrt(narrow.shape[1] / wide.shape[1])
    torch.testing.assert_close(wide[:, : narrow.shape[1]], narrow * ratio)
    other = rankers.build(config.model_copy(update={"seed": 2}), "ple")
    assert not torch.equal(other.encoder.table.rows, ple.encoder.table.rows)


def test_each_model_reads_its_own_vectors(config: Config) -> None:
    sources = [rankers.find(config, name).vectors for name in ("larr", *CONTROLS)]
    assert sorted(map(str, sources)) == sorted(SOURCES)


def test_what_cannot_be_built_is_refused(config: Config, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no model 'lar'; the models are wide_deep"):
        rankers.build(config, "lar")
    for name in ("ple", "ceiling", "larr_over_ple"):
        own = config.align.model_copy(update={"variants": {name: VariantConfig(of="larr")}})
        with pytest.raises(ConfigError, match=f"align.variants: '{name}' is taken"):
            rankers.find(config.model_copy(update={"align": own}), name)
    mine = config.align.model_copy(update={"variants": {"mine": VariantConfig(of="larr_tfidf")}})
    with pytest.raises(ConfigError, match=r"align.variants.mine.of: no model .* ple, larr$"):
        rankers.find(config.model_copy(update={"align": mine}), "mine")
    with pytest.raises(ConfigError, match="reads scene texts and the data have none"):
        rankers.build(write_log(tmp_path, Sizes(keywords=0)), "larr")


def test_category_table_reads_rows_and_leaves_their_gradient(config: Config) -> None:
    table = CategoryTable(5, 2).train()
    with torch.no_grad():
        table.rows.copy_(torch.arange(10.0).reshape(5, 2))
    rows = table(torch.tensor([[3, 1], [3, 3]], dtype=torch.int32))
    assert rows[0].tolist() == [[6.0, 7.0], [2.0, 3.0]]
    (rows * torch.tensor([1.0, 10.0])).sum().backward()
    ((touched, leaf),) = table.touched
    assert touched.tolist() == [1, 3]
    assert leaf.grad is not None
    assert leaf.grad.tolist() == [[1.0, 10.0], [3.0, 30.0]]


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
    torch.manual_seed(1)
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


def test_product_is_esmms() -> None:
    logits = torch.tensor([[0.3, -1.2], [40.0, 2.0], [-40.0, -40.0]])
    both = with_product(logits, "product")
    expected = logits.double().sigmoid().prod(dim=1)
    torch.testing.assert_close(both[:, 1].double().sigmoid(), expected, rtol=1e-5, atol=0)
    assert torch.equal(both[:, 0], logits[:, 0])
    assert torch.equal(with_product(logits, "tower"), logits)
    assert torch.equal(with_product(logits[:, :1], "product"), logits[:, :1])


@pytest.mark.parametrize(("ctcvr", "given_click"), [("tower", 0.02), ("product", 0.2)])
def test_towers_start_at_the_base_rates(
    ctcvr: Literal["tower", "product"], given_click: float
) -> None:
    towers = Towers(small_align(), 2, 5)
    initialise(towers, 1)
    nn.init.zeros_(towers.layers[-1].weight)
    towers.start_at(tower_rates(torch.tensor([0.1, 0.02]), ctcvr))
    logits = towers(torch.randn(2, 3, 5))
    expected = torch.tensor([0.1, given_click]).expand(3, 2)
    torch.testing.assert_close(logits.sigmoid(), expected)
    both = with_product(logits, ctcvr).sigmoid()
    torch.testing.assert_close(both, torch.tensor([0.1, 0.02]).expand(3, 2))


def test_products_of_deepfm_are_those_of_all_pairs(config: Config) -> None:
    model = rankers.build(config, "deepfm")
    assert isinstance(model, DeepFm)
    encoded = Encoded(
        torch.randn(2, 3, 4), torch.randn(2, 4), torch.randn(2, 2), torch.empty(2, 3, 0)
    )
    number_fields = encoded.numbers[:, :, None] * model.number_fields
    fields = torch.cat([encoded.categories, encoded.recent[:, None], number_fields], dim=1)
    expected = torch.zeros(2, 4)
    for one in range(6):
        for other in range(one):
            expected = expected + fields[:, one] * fields[:, other]
    torch.testing.assert_close(model.products(encoded), expected, atol=1e-5, rtol=1e-5)


def test_wide_part_adds_a_weight_for_each_category_and_number(config: Config, batch: Batch) -> None:
    model = rankers.build(config, "wide_deep").eval()
    before = scores(model, batch)
    with torch.no_grad():
        model.encoder.table.rows[7, -2:] += torch.tensor([1.0, 2.0])
    moved = scores(model, batch) - before
    touched = (batch.categories[:, 0] == 7).float()
    torch.testing.assert_close(moved, touched[:, None] * torch.tensor([1.0, 2.0]))


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
        seen = [e for e, owner in enumerate(owners) if gate == tasks or owner in (gate, tasks)]
        weights = logits[seen].softmax(0)
        mixed.append(sum(w * experts[e] for w, e in zip(weights, seen, strict=True)))
    return mixed


def naive_ple(model: Ple, x: Tensor, tasks: int) -> Tensor:
    """PLE for one row, expert by expert, from the weights of the model."""
    owners = expert_owners(model.settings, tasks)
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
    for task in range(tasks):
        value = inputs[task]
        for layer in model.towers.layers[:-1]:
            value = (layer.weight[task] @ value + layer.bias[task, 0]).relu()
        last = model.towers.layers[-1]
        logits.append(last.weight[task, 0] @ value + last.bias[task, 0, 0])
    return torch.stack(logits)


@pytest.mark.parametrize("tasks", [1, 2])
@pytest.mark.parametrize("levels", [1, 2, 3])
def test_ple_equals_a_ple_of_single_experts(tasks: int, levels: int, tmp_path: Path) -> None:
    ple = {"levels": levels, "shared_experts": 3, "expert_units": [6, 5, 4], "tower_units": [3]}
    names = ("click", "order")[:tasks]
    config = write_log(tmp_path, Sizes(tasks=names), align=small_align(ple=ple))
    model = rankers.build(config, "ple").eval()
    assert isinstance(model, Ple)
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


def test_dropout_acts_in_training_alone(tmp_path: Path, batch: Batch) -> None:
    config = write_log(tmp_path, align=small_align(dropout=0.5))
    for name in ("wide_deep", "deepfm", "dcn", "din", "ple"):
        model = rankers.build(config, name)
        with torch.no_grad():
            assert not torch.equal(model.train()(batch).logits, model(batch).logits)
        assert torch.equal(scores(model.eval(), batch), scores(model, batch))


def test_alignment_reads_user_and_place_without_the_scene(config: Config, batch: Batch) -> None:
    model = rankers.build(config, "larr").eval()
    with torch.no_grad():
        other = batch.categories.clone()
        other[:, 2] = (other[:, 2] + 1) % Sizes().categories[2]
        before, after = model(batch).aligned, model(batch._replace(categories=other)).aligned
        assert torch.equal(before[1], after[1])
        categories = model.encoder(batch).categories
        expected = model.alignment(torch.cat([categories[:, 0], categories[:, 1]], dim=1))
    torch.testing.assert_close(before[1], expected)


@pytest.mark.parametrize(
    ("stopped", "scene", "rows"),
    [("none", True, True), ("semantic", False, True), ("collaborative", True, False)],
)
def test_stop_gradient_keeps_the_alignment_from_one_side(
    stopped: str, scene: bool, rows: bool, config: Config, batch: Batch
) -> None:
    settings = AlignConfig.model_validate(config.align.model_dump() | {"stop_gradient": stopped})
    model = rankers.build(config.model_copy(update={"align": settings}), "larr").train()
    aligned = model(batch).aligned
    nn.functional.cosine_similarity(*aligned).sum().backward()
    ((_, leaf),) = model.encoder.table.touched
    assert (model.scene.agg.grad is not None) == scene
    assert (leaf.grad is not None) == rows
    assert model.alignment.weight.grad is not None


def test_centres_take_out_what_the_texts_of_a_keyword_share() -> None:
    random = np.random.default_rng(1)
    keyword = pl.Series(["a", "b", "a", "b", "a", "b"])
    vectors = random.normal(size=(6, 3)).astype(np.float32)
    centres_RD, scales_R1 = rankers.centres(torch.from_numpy(vectors), keyword, ("b", "a", "none"))
    for row, texts in enumerate((vectors[1::2], vectors[::2])):
        centred = (texts - centres_RD[row].numpy()) * scales_R1[row].numpy()
        np.testing.assert_allclose(centred.mean(axis=0), 0, atol=1e-6)
        assert (centred**2).sum(axis=1).mean() == pytest.approx(1, rel=1e-5)
    assert torch.isfinite(centres_RD).all()
    assert torch.isfinite(scales_R1).all()


def test_crosses_of_dcn_are_products_with_the_inputs(config: Config) -> None:
    model = rankers.build(config, "dcn")
    assert isinstance(model, Dcn)
    x_BD = torch.randn(5, model.encoder.width)
    first, second = model.crosses
    one_BD = x_BD * (x_BD @ first.weight.T + first.bias) + x_BD
    expected_BD = x_BD * (one_BD @ second.weight.T + second.bias) + one_BD
    torch.testing.assert_close(model.crossed(x_BD), expected_BD)


def test_p5_sees_no_hidden_category_and_gives_the_product(config: Config, batch: Batch) -> None:
    told = batch.categories.clone()
    told[:, 0] = 1 + told[:, 0] % 2
    others = batch._replace(categories=told)
    name = read_features(config.output / "prepare").categories[0].name
    for settings, sees in (({}, True), ({"hidden": [name]}, False)):
        align = config.align.with_settings({"ctcvr": "product", **settings})
        model = rankers.build(config.model_copy(update={"align": align}), "p5").eval()
        found = scores(model, batch)
        assert (found[:, 1] < found[:, 0]).all(), "an order is a click, too"
        assert torch.equal(found, scores(model, others)) != sees


def test_a_prompt_of_p5_spells_users_and_places_alike_wherever_they_stand(tmp_path: Path) -> None:
    config = write_log(tmp_path, Sizes(categories=(300, 250, 6, 4)))
    model = rankers.build(config, "p5")
    assert isinstance(model, P5)
    batch = next(in_order(config.output / "prepare" / "train", 64))
    tokens_BN = model.prompt(batch)
    assert tokens_BN.shape[1] == len(model.words)
    place_BD, recent_BLD = tokens_BN[:, 2:4], tokens_BN[:, -2 * batch.recent.shape[1] :]
    for row, place in enumerate(batch.categories[:, 1].tolist()):
        again = (batch.recent == place).nonzero()
        for other, column in again.tolist():
            pieces = recent_BLD[other, 2 * column : 2 * column + 2]
            assert torch.equal(pieces, place_BD[row])
    assert (recent_BLD[(batch.recent == 0).repeat_interleave(2, dim=1)] == PADDING).all()
    numbers = model.spelling[1:300].tolist()
    assert len({tuple(pieces) for pieces in numbers}) == 299
