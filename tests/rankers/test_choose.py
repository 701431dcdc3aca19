"""The choice of `best` on held-back rows, its training and scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from larr import artifacts
from larr.config import Config
from larr.config.rankers import ChooseConfig, VariantConfig
from larr.data.holdout import folds
from larr.errors import StaleError
from larr.rankers import align, best, choose, predict
from larr.rankers.neural import DivergedError
from larr.rankers.predict import row_losses
from tests.ranking_log import Sizes, small_align, write_log

SIZES = Sizes(rows=600, test_rows=60)


def choosing(tmp_path: Path, align: dict[str, Any] | None = None, **settings: Any) -> Config:
    models = {"models": ["ple", "best"], "epochs": 1}
    defaults = {"kinds": ["ple", "lightgbm", "larr"], "sources": ["encoder"], "trials": 7}
    settings = defaults | settings
    align = small_align(**models | (align or {}))
    return write_log(tmp_path, SIZES, align, choose=ChooseConfig(**settings))


def choice_of(config: Config) -> Any:
    return artifacts.read_json(artifacts.folder(config, "choose") / best.CHOICE)


def test_the_choice_is_the_best_mean_on_held_back_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choose, "FEW_ROWS", 0)
    config = choosing(tmp_path)
    choose.choose(config)
    assert artifacts.stage(config, "choose").is_current()
    choice = choice_of(config)
    assert len(choice["trials"]) == 7
    kinds = {
        (trial["of"], bool(trial["settings"]["figures"])) for trial in choice["trials"].values()
    }
    assert {("ple", False), ("ple", True), ("lightgbm", False), ("larr", False)} <= kinds
    lowest = min(trial["loss"] for trial in choice["trials"].values())
    assert choice["best"]["loss"] <= lowest
    assert sum(member["weight"] for member in choice["members"].values()) == pytest.approx(1)
    assert 1 <= len(choice["members"]) <= choose.MEMBERS


def test_the_members_are_trained_on_all_days_and_best_is_their_mean(tmp_path: Path) -> None:
    config = choosing(tmp_path, trials=5, members=2)
    choose.choose(config)
    align.align(config)
    weights = best.weights(config)
    assert set(best.names_to_train(config)) == {"ple", *weights}
    extended = best.with_members(config)
    logits = {
        name: np.log(score / (1 - score))
        for name in weights
        for score in [predict.predict(extended, name).astype(np.float64)]
    }
    mean = sum(weight * logits[name] for name, weight in weights.items())
    np.testing.assert_allclose(predict.predict(config, "best"), 1 / (1 + np.exp(-mean)), rtol=1e-4)
    predict.require_ranker(config, "best")


def test_larr_starts_without_figures_of_the_tuned_encoder(tmp_path: Path) -> None:
    config = choosing(tmp_path, kinds=["ple", "larr"], sources=["encoder", "letters"])
    started = [(v.of, v.vectors, v.settings["figures"]) for v in choose._starts(config)]
    assert started == [
        ("ple", None, []),
        ("ple", None, ["encoder", "letters"]),
        ("larr", "encoder", []),
        ("larr", "letters", []),
        ("larr", "letters", ["letters"]),
    ]


def test_a_member_that_equals_a_trained_ranker_is_trained_once(tmp_path: Path) -> None:
    config = choosing(tmp_path, kinds=["ple"], sources=[], trials=1)
    choose.choose(config)
    assert best.names_to_train(config) == ["ple"]


def test_the_choice_does_not_read_test_rows(tmp_path: Path) -> None:
    config = choosing(tmp_path, trials=4)
    choose.choose(config)
    before = choice_of(config)
    labels = artifacts.folder(config, "prepare") / "test" / "labels.npy"
    np.save(labels, 1 - np.load(labels))
    artifacts.forget(config, "choose")
    choose.choose(config)
    after = choice_of(config)
    for choice in (before, after):
        for trial in choice["trials"].values():
            del trial["seconds"]
    assert before == after


def test_a_stopped_choice_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = choosing(tmp_path, trials=3)
    scores, calls = choose.held_back_probabilities, list[str]()

    def stopped(config: Config, name: str, *arguments: Any) -> np.ndarray:
        calls.append(name)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return scores(config, name, *arguments)

    monkeypatch.setattr(choose, "held_back_probabilities", stopped)
    with pytest.raises(KeyboardInterrupt):
        choose.choose(config)
    choose.choose(config)
    assert len(calls) == 4
    assert calls[1] == calls[2]


def test_a_candidate_that_diverges_is_not_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = choose.held_back_probabilities

    def diverging(config: Config, name: str, *arguments: Any) -> np.ndarray:
        if name.startswith("ple"):
            raise DivergedError("the loss is nan")
        return scores(config, name, *arguments)

    monkeypatch.setattr(choose, "held_back_probabilities", diverging)
    config = choosing(tmp_path, trials=4)
    choose.choose(config)
    assert not any(
        trial["weight"] for trial in choice_of(config)["trials"].values() if trial["of"] == "ple"
    )


def test_variations_change_one_setting_of_a_leader(tmp_path: Path) -> None:
    config = choosing(tmp_path, kinds=["ple"], sources=[], rows=2_000)
    parts = folds(config)
    variant = VariantConfig(of="ple", settings={"figures": []})
    trials = choose._run_trials(config, [variant], parts, tmp_path / "trials")
    varied = choose._variations(config, trials, rows=300)
    changes = [{k: v for k, v in v.settings.items() if k != "figures"} for v in varied]
    # ten and thirty epochs of 300 rows are too long
    hidden = {"hidden": ("user_id", "poi_id")}
    crosses = {"ple.cross_layers": 2}
    assert changes == [crosses, {"epochs": 3}, {"dropout": 0.2}, {"id_dropout": 0.3}, hidden]


def test_few_held_back_rows_are_drawn_again_and_the_weights_averaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`lucky` differs from `plain` for a single user, so it wins where this user is drawn."""
    config = choosing(tmp_path)
    parts = folds(config)
    labels = np.concatenate([fold.validation.array("labels") for fold in parts])
    users = np.concatenate([fold.validation.array("keys")[:, 0] for fold in parts])
    logits = {"plain": np.zeros(labels.shape), "lucky": np.zeros(labels.shape)}
    is_lucky = users == users.min()
    logits["lucky"][is_lucky] = np.where(labels[is_lucky], 3, -3)
    trials = [
        choose.Trial(name, VariantConfig(of="ple"), False, logit, {}, 0.0, False)
        for name, logit in logits.items()
    ]
    random, count = np.random.default_rng(config.seed), len(np.unique(users))
    drawn = [(random.integers(count, size=count) == 0).any() for _ in range(choose.BAGS)]
    assert 0 < np.mean(drawn) < 1
    weights = choose._blend(config, trials, parts)
    assert weights == pytest.approx({"lucky": np.mean(drawn), "plain": 1 - np.mean(drawn)})
    monkeypatch.setattr(choose, "FEW_ROWS", len(users) - 1)
    assert choose._blend(config, trials, parts) == {"lucky": 1.0}


def test_few_held_back_rows_allow_twice_as_many_members_by_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = choosing(tmp_path)
    parts = folds(config)
    assert choose.most_members(config, parts) == 6
    assert choose.most_members(choosing(tmp_path, members=1), parts) == 1
    monkeypatch.setattr(choose, "FEW_ROWS", 10)
    assert choose.most_members(config, parts) == 3


def test_the_loss_of_logits_is_that_of_their_probabilities(tmp_path: Path) -> None:
    config = choosing(tmp_path)
    parts = folds(config)
    labels = np.concatenate([fold.validation.array("labels") for fold in parts])
    logits = np.random.default_rng(1).normal(size=labels.shape)
    expected = choose.fold_metrics(config, 1 / (1 + np.exp(-logits)), parts)["loss"]
    assert row_losses(logits, labels).mean() == pytest.approx(expected)


def test_best_needs_a_choice(tmp_path: Path) -> None:
    with pytest.raises(StaleError, match="larr choose"):
        best.weights(choosing(tmp_path))


def test_no_variant_is_named_best() -> None:
    with pytest.raises(ValueError, match="give another name"):
        small_align(variants={"best": VariantConfig(of="ple")})
