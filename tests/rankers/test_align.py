"""Stage 3 as a whole: the optimizer, the masks, the losses, the folders, the same bytes."""

import hashlib
import json
import math
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.nn import functional

from larr import artifacts, rankers
from larr.config import Config
from larr.config.rankers import CONTROLS, SceneConfig
from larr.data.batches import Batch, in_order
from larr.data.features import read_features
from larr.errors import ConfigError, LarrError, StaleError
from larr.rankers import align as stage
from larr.rankers import training
from larr.rankers.align import align
from larr.rankers.larr import Larr
from larr.rankers.layers import CategoryTable
from larr.rankers.predict import load_ranker, predict, undo_sampling
from larr.rankers.training import RowAdam, Trainer, no_negatives, no_sampled_negatives, rate_at
from larr.rankers.trees import Trees
from tests.ranking_log import Sizes, small_align, write_log
from tests.test_losses import naive_info_nce


def first_batch(config: Config, rows: int) -> Batch:
    return next(in_order(config.output / "prepare" / "train", rows))


def digests(config: Config) -> dict[str, str]:
    return {
        name: hashlib.sha256((weights(config, name)).read_bytes()).hexdigest()
        for name in config.align.models
    }


def weights(config: Config, name: str) -> Path:
    return config.output / "align" / name / "model.safetensors"


def test_row_adam_equals_torchs_sparse_adam() -> None:
    torch.manual_seed(1)
    twin, table = nn.Embedding(9, 3, sparse=True), CategoryTable(9, 3).train()
    with torch.no_grad():
        table.rows.copy_(twin.weight)
    theirs = torch.optim.SparseAdam(twin.parameters(), lr=0.1)
    ours = RowAdam(table, 0.1, l2=0.0)
    for step in range(6):
        rows, slope = torch.randint(0, 7, (8,)), torch.randn(8, 3) * 10.0**-step
        theirs.zero_grad()
        (twin(rows) * slope).sum().backward()
        (table(rows) * slope).sum().backward()
        theirs.step()
        ours.step()
        torch.testing.assert_close(table.rows.data, twin.weight.data, atol=1e-6, rtol=1e-6)


def test_row_adam_decays_the_touched_rows_alone() -> None:
    table = CategoryTable(3, 2).train()
    with torch.no_grad():
        table.rows.copy_(torch.tensor([[1.0, -1.0], [2.0, 2.0], [3.0, 0.0]]))
    (table(torch.tensor([0, 2])) * 0.0).sum().backward()
    RowAdam(table, 0.1, l2=0.5).step()
    expected = torch.tensor([[0.9, -0.9], [2.0, 2.0], [2.9, 0.0]])  # Adam's first step is the rate
    torch.testing.assert_close(table.rows.data, expected)


def keyed(keys: list[list[int]], texts: list[list[int]]) -> Batch:
    rows = len(keys)
    empty = torch.empty(rows, 0)
    numbers = torch.tensor(texts, dtype=torch.int32)
    return Batch(empty, empty, empty, numbers, empty, torch.tensor(keys, dtype=torch.int32))


def test_the_same_user_and_the_same_scene_are_no_negatives() -> None:
    batch = keyed(
        [[1, 7], [2, 7], [1, 8], [3, 7], [4, 9]], [[5, 6], [5, 6], [5, 6], [6, 5], [5, 6]]
    )
    pairs = {(0, 2), (0, 1)}
    for i in range(5):
        for j in range(5):
            same = i == j or (min(i, j), max(i, j)) in pairs
            assert no_negatives(batch)[i, j] == same, (i, j)
    sampled = keyed([[1, 1], [9, 7]] * 5, [[0, 0], [5, 6]] * 5)
    expected = [[True, True], [False, True], [True, False], [False, False], [False, False]]
    assert no_sampled_negatives(batch, sampled).tolist() == expected


def test_losses_are_those_of_equations_24_to_26(tmp_path: Path) -> None:
    config = write_log(tmp_path, align=small_align(precision="fp32", negatives=2))
    trainer = Trainer(rankers.build(config, "larr"), config.align)
    trainer.model.eval()
    batch = first_batch(config, 12)
    sampled = first_batch(config, 36).select(torch.arange(12, 36))
    with torch.no_grad():
        scores = trainer.model(batch)
        assert isinstance(trainer.model, Larr)
        e_s, e_t = (functional.normalize(side, dim=1) for side in scores.aligned)
        more = functional.normalize(trainer.model.sampled_target(sampled), dim=1)
        extra = torch.stack([more[2 * i : 2 * i + 2] @ e_s[i] for i in range(12)])
        similarities = torch.cat([e_s @ e_t.T, extra], dim=1)
        excluded = torch.cat([no_negatives(batch), no_sampled_negatives(batch, sampled)], dim=1)
        expected = naive_info_nce(similarities, excluded, config.align.temperature)
        found = trainer.alignment(scores.aligned, batch, sampled)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_the_alignment_is_in_full_precision(tmp_path: Path) -> None:
    config = write_log(tmp_path, align=small_align(precision="bf16", temperature=0.02))
    trainer = Trainer(rankers.build(config, "larr"), config.align)
    batch = first_batch(config, 50)
    sides = tuple(torch.randn(2, 50, 8, generator=torch.Generator().manual_seed(1)))
    none = batch.select(torch.empty(0).int())
    expected = trainer.alignment(sides, batch, none)
    with torch.autocast("cpu", torch.bfloat16):
        found = trainer.alignment(sides, batch, none)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)


def test_the_whole_loss_weighs_its_two_parts(tmp_path: Path) -> None:
    config = write_log(tmp_path)
    for name, has_alignment in (("larr", True), ("ple", False)):
        trainer = Trainer(rankers.build(config, name), config.align)
        batch = first_batch(config, 50)
        loss, click, alignment = trainer.step(batch, batch.select(torch.empty(0).int()), (3.0, 0.5))
        assert (alignment.item() > 0) == has_alignment
        assert loss.item() == pytest.approx(3 * click.item() + 0.5 * alignment.item(), rel=1e-5)


def test_an_unknown_user_and_a_new_place_are_as_the_mean_of_the_known(tmp_path: Path) -> None:
    config = write_log(tmp_path)
    log = config.output / "prepare" / "train"
    categories = np.load(log / "categories.npy")
    categories[:, 0] = np.maximum(categories[:, 0], 1)  # the unknown user is in no row
    categories[categories[:, 1] == 7, 1] = 8  # nor is the place 7
    categories[0, 2] = 0  # but the unknown scene is
    np.save(log / "categories.npy", categories)
    model, _ = training.fit(config, "ple", log)
    users, places, scenes = model.table().rows.split([40, 30, 6])
    known = torch.from_numpy(np.unique(categories[:, 0])).long()
    torch.testing.assert_close(users[0], users[known].mean(dim=0))
    others = torch.tensor([number for number in range(30) if number != 7])
    torch.testing.assert_close(places[7], places[others].mean(dim=0))
    assert not torch.allclose(scenes[0], scenes[1:].mean(dim=0))


def test_alignment_brings_a_rows_two_sides_together(tmp_path: Path) -> None:
    config = write_log(tmp_path, Sizes(rows=2_000, keywords=2, texts=40, categories=(40, 30, 6)))
    log = config.output / "prepare" / "train"
    categories = np.load(log / "categories.npy")
    np.save(log / "texts.npy", categories[:, :2].astype(np.int32))  # a text for each user and place
    alone = {"alignment_epochs": 8, "epochs": 1, "beta_alignment": 1.0, "models": ["larr"]}
    config = config.model_copy(update={"align": small_align(**alone)})
    trainer = Trainer(rankers.build(config, "larr"), config.align)
    curve = training._train(config, "larr", trainer, log)
    assert curve[0]["alignment"] > math.log(100) - 0.7
    assert curve[-1]["alignment"] < 0.6 * curve[0]["alignment"]
    assert curve[0]["samples"] > 0
    assert curve[-1]["samples"] == 9 * 2_000


def test_trees_leave_hidden_categories_out(tmp_path: Path) -> None:
    hidden = ["user_id", "poi_id"]
    config = write_log(tmp_path, align=small_align(models=["lightgbm"], hidden=hidden))
    align(config)
    model = load_ranker(config, "lightgbm")
    assert isinstance(model, Trees)
    features = read_features(config.output / "prepare")
    columns = len(features.categories) - len(hidden) + len(features.numbers)
    assert [forest.num_feature() for forest in model.forests] == [columns] * 2
    assert predict(config, "lightgbm").shape == (features.test_rows, 2)


def test_each_of_two_steps_has_a_schedule_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = write_log(tmp_path, Sizes(rows=1_000, keywords=2, texts=40))
    config = config.model_copy(update={"align": small_align(alignment_epochs=2, epochs=1)})
    trainer, shares = Trainer(rankers.build(config, "larr"), config.align), list[float]()
    monkeypatch.setattr(trainer, "set_rate", shares.append)
    training._train(config, "larr", trainer, config.output / "prepare" / "train")
    joint = shares[len(shares) * 2 // 3 :]
    assert max(joint) > 0.7
    assert joint[0] < 0.1, "warms up again"


def test_align_trains_every_model_and_predict_reads_them(tmp_path: Path) -> None:
    align_settings = small_align(models=[*rankers.MODELS, *CONTROLS])
    config = write_log(tmp_path, align=align_settings)
    align(config)
    assert artifacts.is_current(config, "align")
    labels = np.load(tmp_path / "prepare" / "test" / "labels.npy")
    for name in align_settings.models:
        folder = tmp_path / "align" / name
        files = sorted(path.name for path in folder.iterdir())
        assert files == ["manifest.json", "model.json", "model.safetensors", "train.json"]
        probabilities = predict(config, name)
        assert probabilities.shape == (500, 2)
        assert probabilities.dtype == np.float32
        assert 0 < probabilities.min() < probabilities.max() < 1
        least = 0.75 if name == "p5" else 0.85  # it learns slowly
        assert roc_auc_score(labels[:, 0], probabilities[:, 0]) > least
        trained = json.loads((folder / "train.json").read_text())
        assert trained["samples"] == (3_000 if name == "lightgbm" else 6_000)
        assert len(trained["curve"]) in range(25, 61)
        assert trained["curve"][-1]["loss"] < trained["curve"][0]["loss"]
    described = json.loads((tmp_path / "align" / "larr_tfidf" / "model.json").read_text())
    assert described["architecture"] == "Larr"
    assert described["vectors"] == "tfidf"
    made = artifacts.manifest(config, "align")
    assert made is not None
    assert made["measured"]["count"] == 6_000 * len(align_settings.models) - 3_000


def test_the_same_seed_gives_the_same_bytes_and_an_interrupted_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = small_align(models=["ple", "larr", "deepfm"], negatives=1)
    config = write_log(tmp_path / "one", Sizes(rows=600), settings)
    align(config)
    other = write_log(tmp_path / "two", Sizes(rows=600), settings)
    make, made = stage._make, []

    def interrupted(config: Config, name: str, target: Path) -> None:
        made.append(name)
        if made == ["larr", "ple"]:
            (target / "model.safetensors").write_bytes(b"half")
            raise KeyboardInterrupt
        make(config, name, target)

    monkeypatch.setattr(stage, "_make", interrupted)
    with pytest.raises(KeyboardInterrupt):
        align(other)
    assert not artifacts.is_current(other, "align")
    align(other)
    assert made == ["larr", "ple", "ple", "deepfm"]
    assert digests(other) == digests(config)
    assert sorted(path.name for path in (tmp_path / "two" / "align").iterdir()) == [
        "deepfm",
        "larr",
        "manifest.json",
        "ple",
    ]


def test_workers_train_what_one_process_trains_alone(tmp_path: Path) -> None:
    alone = write_log(tmp_path / "one", Sizes(rows=300), small_align(models=["ple", "larr"]))
    shared = small_align(models=["ple", "larr"], workers=2)
    together = write_log(tmp_path / "two", Sizes(rows=300), shared)
    align(alone)
    align(together)
    for name in ("ple", "larr"):
        np.testing.assert_allclose(predict(together, name), predict(alone, name), atol=1e-4)


def test_what_goes_wrong_in_a_worker_is_said_by_its_parent(tmp_path: Path) -> None:
    settings = small_align(models=["ple", "larr"], workers=2)
    config = write_log(tmp_path, Sizes(rows=300), settings)
    numbers = tmp_path / "prepare" / "train" / "numbers.npy"
    np.save(numbers, np.full_like(np.load(numbers), np.nan))
    with pytest.raises(LarrError, match="the loss is nan after"):
        align(config)
    assert not artifacts.is_current(config, "align")


def _killed(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_worker_is_no_silence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = small_align(models=["ple", "larr"], workers=2)
    config = write_log(tmp_path, Sizes(rows=300), settings)
    monkeypatch.setattr(stage, "_make", _killed)
    with pytest.raises(LarrError, match=r"was killed, .* set align.workers to 1"):
        align(config)


def test_another_seed_gives_another_model(tmp_path: Path) -> None:
    found = []
    for seed in (1, 2):
        config = write_log(tmp_path / str(seed), Sizes(rows=300), small_align(models=["ple"]), seed)
        align(config)
        found.append(digests(config)["ple"])
    assert found[0] != found[1]


def test_an_unknown_model_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    config = write_log(tmp_path, Sizes(rows=300), small_align(models=["ple", "p6"]))
    with pytest.raises(ConfigError, match="no model 'p6'"):
        align(config)
    assert not (tmp_path / "align").exists()


def test_a_loss_that_is_no_number_stops_the_run(tmp_path: Path) -> None:
    config = write_log(tmp_path, Sizes(rows=300), small_align(models=["ple"]))
    numbers = tmp_path / "prepare" / "train" / "numbers.npy"
    np.save(numbers, np.full_like(np.load(numbers), np.nan))
    with pytest.raises(LarrError, match=r"ple: the loss is nan after .* expected a finite number"):
        align(config)


def test_steps_by_default_are_of_a_size_that_suits_the_log(tmp_path: Path) -> None:
    logs = (10_000, 300_000, 3_000_000, 1_000_000_000)
    assert [training.step_rows(rows) for rows in logs] == [60, 200, 2_000, 2_400]
    config = write_log(tmp_path, align=small_align(models=["ple"], batch_size=0, epochs=1))
    align(config)
    curve = artifacts.read_json(config.output / "align" / "ple" / "train.json")["curve"]
    assert [point["samples"] % 60 for point in curve] == [0] * len(curve)
    assert curve[-1]["samples"] == 3_000


def test_the_learning_rate_rises_for_a_twentieth_and_falls_to_nothing() -> None:
    found = [rate_at(done, "linear") for done in (0.0, 0.025, 0.05, 0.5, 1.0)]
    assert found == pytest.approx([0.01, 0.51 * 0.975, 0.95, 0.5, 0.0])
    assert rate_at(0.7, "constant") == 1.0


def test_what_reads_texts_has_a_rate_and_a_decay_of_its_own(tmp_path: Path) -> None:
    scene = SceneConfig(heads=2, feedforward=16, weight_decay=0.3)
    config = write_log(tmp_path, align=small_align(scene=scene))
    settings = config.align
    model = rankers.build(config, "larr")
    trainer = Trainer(model, settings)
    trainer.set_rate(0.5)
    rates = {
        id(parameter): (group["lr"], group["weight_decay"])
        for group in trainer.dense.param_groups
        for parameter in group["params"]
    }
    assert rates[id(model.scene.agg)] == (0.5 * settings.scene.learning_rate, 0.3)
    assert rates[id(model.first.linear.weight)] == (0.5 * settings.learning_rate, 0.0)
    assert trainer.rows.rate == 0.5 * settings.learning_rate
    assert len(rates) == sum(parameter.requires_grad for parameter in model.parameters())


def test_undoing_the_sampling_by_hand() -> None:
    probabilities = torch.tensor([[0.5, 0.2], [1.0, 0.6], [0.0, 0.0]])
    # of 100 kept rows 50 have no click and stand for 500, so 50 of 550 are clicks, 20 orders
    expected = torch.tensor([[50 / 550, 20 / 550], [1.0, 0.6], [0.0, 0.0]])
    torch.testing.assert_close(undo_sampling(probabilities, 0.1), expected)
    assert torch.equal(undo_sampling(probabilities, 1.0), probabilities)


def test_predict_gives_the_test_rows_in_their_order(tmp_path: Path) -> None:
    config = write_log(tmp_path, Sizes(rows=300), small_align(models=["larr"]))
    align(config)
    model = rankers.build(config, "larr").eval()
    model.load_state_dict(load_file(weights(config, "larr")))
    (whole,) = in_order(tmp_path / "prepare" / "test", 1_000)
    with torch.no_grad():
        expected: Tensor = model(whole).logits.sigmoid()
    np.testing.assert_allclose(predict(config, "larr"), expected.numpy(), atol=1e-6)


def test_a_model_more_leaves_the_others_as_they_are(tmp_path: Path) -> None:
    config = write_log(tmp_path, Sizes(rows=300), small_align(models=["ple", "deepfm"]))
    align(config)
    before = (tmp_path / "align" / "ple" / "train.json").stat().st_mtime_ns
    other = config.model_copy(update={"align": small_align(models=["ple", "din"], workers=2)})
    with pytest.raises(StaleError, match="larr embed"):
        align(other)
    with artifacts.making(other, "embed"):
        pass
    align(other)
    assert artifacts.is_current(other, "align")
    assert (tmp_path / "align" / "ple" / "train.json").stat().st_mtime_ns == before
    (tmp_path / "align" / "din" / "model.safetensors").unlink()
    align(other)
    assert artifacts.is_current(other, "align")
    changed = small_align(models=["ple", "din"], dropout=0.1, workers=2)
    align(config.model_copy(update={"align": changed}))
    assert (tmp_path / "align" / "ple" / "train.json").stat().st_mtime_ns > before


def test_a_variant_has_its_settings_vectors_and_name(tmp_path: Path) -> None:
    settings = small_align(
        models=["larr", "mean"],
        variants={
            "mean": {"of": "larr", "settings": {"scene.pooling": "mean"}},
            "noft": {"of": "larr", "vectors": "untuned"},
        },
        tuned={"larr": {"learning_rate": 0.02}},
    )
    config = write_log(tmp_path, Sizes(rows=300), settings)
    assert settings.of("mean").scene.pooling == "mean"
    assert settings.of("mean").learning_rate == 0.02
    assert rankers.find(config, "noft").vectors == "untuned"
    align(config)
    assert not np.allclose(predict(config, "mean"), predict(config, "larr"))
    with pytest.raises(ConfigError, match=r"no model 'larrr'; the models are .*, noft"):
        rankers.find(config, "larrr")
