"""The search for stage 3's settings: equal budgets, the validation day, going on after a stop."""

from __future__ import annotations

import tomllib
from pathlib import Path

import numpy as np
import pytest

from larr import artifacts
from larr.config import Config
from larr.config.rankers import AlignConfig, Range, TuneConfig
from larr.data.batches import count_rows
from larr.errors import DataError, LarrError
from larr.rankers import tune
from tests.ranking_log import Sizes, small_align, write_log


def small_tune(tmp_path: Path, models: list[str], **changes: object) -> Config:
    config = write_log(tmp_path, Sizes(rows=400), small_align(models=models, epochs=1))
    return config.model_copy(update={"tune": TuneConfig(trials=3, random=2, **changes)})


def test_every_ranker_gets_its_trials_and_the_best_goes_into_the_configuration(
    tmp_path: Path,
) -> None:
    config = small_tune(tmp_path, ["ple", "larr", "lightgbm"])
    tune.tune(config)
    assert artifacts.is_current(config, "tune")
    found = artifacts.read_json(tmp_path / "tune" / "found.json")
    for one in found.values():
        assert len(one["trials"]) == 3
        best = min(one["trials"], key=lambda trial: trial["loss"])
        assert one["best"] == best["settings"]
        assert all(0 < trial["ctr_auc"] < 1 and trial["seconds"] > 0 for trial in one["trials"])
    assert found["ple"]["trials"][0]["settings"]["learning_rate"] == config.align.learning_rate
    assert set(found["ple"]["best"]) == set(config.tune.networks)
    assert set(found["lightgbm"]["best"]) == set(config.tune.trees)
    assert set(found["larr"]["best"]) == set(config.tune.networks) | set(config.tune.texts)

    tuned = tomllib.loads((tmp_path / "tune" / "tuned.toml").read_text())["align"]
    settings = AlignConfig.model_validate(tuned).of("larr")
    expected = found["larr"]["best"]["scene.weight_decay"]
    assert settings.scene.weight_decay == pytest.approx(expected, rel=1e-3)
    leaves = found["lightgbm"]["best"]["trees.leaves"]
    assert AlignConfig.model_validate(tuned).of("lightgbm").trees.leaves == leaves
    assert AlignConfig.model_validate(tuned).of("deepfm").dropout == 0.0


def test_the_latest_rows_alone_can_be_searched(tmp_path: Path) -> None:
    config = small_tune(tmp_path, ["ple"])
    config = config.model_copy(update={"align": config.align.model_copy(update={"rows": 100})})
    tune.tune(config)
    assert len(artifacts.read_json(tmp_path / "tune" / "found.json")["ple"]["trials"]) == 3


def test_the_last_training_day_is_set_aside(tmp_path: Path) -> None:
    config = small_tune(tmp_path, ["ple"])
    log = tmp_path / "prepare" / "train"
    np.save(log / "days.npy", np.random.default_rng(1).permutation(np.load(log / "days.npy")))
    tune.tune(config)
    labels, held = np.load(log / "labels.npy"), np.load(log / "days.npy")[:, 0] == 3
    folder = tmp_path / "tune" / "split"
    np.testing.assert_array_equal(np.load(folder / "validation" / "labels.npy"), labels[held])
    np.testing.assert_array_equal(np.load(folder / "train" / "labels.npy"), labels[~held])


def test_users_are_set_aside_where_there_is_one_day(tmp_path: Path) -> None:
    config = small_tune(tmp_path, ["ple"])
    log = tmp_path / "prepare" / "train"
    np.save(log / "days.npy", np.zeros((400, 1), np.int32))
    tune.tune(config)
    held = set(np.load(tmp_path / "tune" / "split" / "validation" / "keys.npy")[:, 0])
    kept = set(np.load(tmp_path / "tune" / "split" / "train" / "keys.npy")[:, 0])
    assert held
    assert not held & kept
    assert count_rows(tmp_path / "tune" / "split" / "train") > 200


def test_one_user_on_one_day_is_too_little(tmp_path: Path) -> None:
    config = small_tune(tmp_path, ["ple"])
    log = tmp_path / "prepare" / "train"
    np.save(log / "days.npy", np.zeros((400, 1), np.int32))
    np.save(log / "keys.npy", np.ones((400, 2), np.int32))
    with pytest.raises(DataError, match="at least two training days"):
        tune.tune(config)


def test_a_search_that_was_stopped_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = small_tune(tmp_path, ["ple"])
    judge, judged = tune.judge, []

    def stopped(*arguments: object) -> dict[str, float]:
        judged.append(arguments)
        if len(judged) in (1, 3):
            raise KeyboardInterrupt
        return judge(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(tune, "judge", stopped)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            tune.tune(config)
    tune.tune(config)
    assert len(judged) == 5
    trials = artifacts.read_json(tmp_path / "tune" / "found.json")["ple"]["trials"]
    assert len(trials) == 3
    assert trials[0]["settings"]["learning_rate"] == config.align.learning_rate


def test_a_search_that_goes_on_draws_other_settings(tmp_path: Path) -> None:
    config = small_tune(tmp_path, ["ple"])
    (tmp_path / "ple").mkdir()
    for _ in range(2):
        study = tune._study(config, "ple", tmp_path)
        trial = study.ask()
        study.tell(trial, trial.suggest_float("dropout", 0.0, 0.3))
    first, second = (trial.params["dropout"] for trial in study.trials)
    assert first != second


def test_a_search_leaves_what_makes_a_variant_what_it_is(tmp_path: Path) -> None:
    plain = {"of": "larr", "settings": {"beta_alignment": 0.0, "scene": {"dropout": 0.1}}}
    align = small_align(models=["plain"], epochs=1, variants={"plain": plain})
    config = write_log(tmp_path, Sizes(rows=400), align)
    config = config.model_copy(update={"tune": TuneConfig(trials=2, random=2)})
    tune.tune(config)
    best = artifacts.read_json(tmp_path / "tune" / "found.json")["plain"]["best"]
    expected = {*config.tune.networks, *config.tune.texts} - {"beta_alignment"}
    assert {*best} == expected


def test_a_search_where_all_diverge_says_so(tmp_path: Path) -> None:
    wild = {"learning_rate": Range(low=1e30, high=1e31)}
    config = small_tune(tmp_path, ["ple"], networks=wild)
    with pytest.raises(LarrError, match="lower the ranges"):
        tune.tune(config)


@pytest.mark.parametrize("path", ["learning_rat", "scene.nothing", "learning_rate.x"])
def test_a_tuned_setting_that_is_none_is_refused(path: str) -> None:
    with pytest.raises((ValueError, LarrError), match=path.partition(".")[0]):
        AlignConfig(tuned={"ple": {path: 0.1}})


def test_a_further_ranker_or_what_was_found_leaves_the_trials(tmp_path: Path) -> None:
    config = small_tune(tmp_path, ["ple"])
    tune.tune(config)
    journal = tmp_path / "tune" / "ple" / "trials.journal"
    before = journal.read_bytes()
    align = config.align.model_dump() | {"models": ["ple", "deepfm"]}
    align["tuned"] = {"ple": artifacts.read_json(tmp_path / "tune" / "found.json")["ple"]["best"]}
    more = config.model_copy(update={"align": AlignConfig.model_validate(align)})
    with artifacts.making(more, "embed"):
        pass
    tune.tune(more)
    assert journal.read_bytes() == before
    assert set(artifacts.read_json(tmp_path / "tune" / "found.json")) == {"ple", "deepfm"}
