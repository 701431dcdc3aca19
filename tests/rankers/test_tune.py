"""The search for stage 3's settings: equal budgets, resuming after a stop."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from larr import artifacts
from larr.config import Config
from larr.config.rankers import AlignConfig, TuneConfig
from larr.errors import LarrError
from larr.rankers import RANKERS, tune
from larr.rankers.ranker import Range
from tests.ranking_log import Sizes, small_align, write_log

SIZES = Sizes(rows=200, test_rows=10)


def small_tune(tmp_path: Path, models: list[str], **align: object) -> Config:
    config = write_log(tmp_path, SIZES, small_align(models=models, epochs=1, **align))
    return config.model_copy(update={"tune": TuneConfig(trials=3, random=2)})


def results_of(config: Config) -> Any:
    return artifacts.read_json(artifacts.folder(config, "tune") / "found.json")


def test_each_ranker_gets_its_trials_and_the_best_is_configured(
    tmp_path: Path,
) -> None:
    plain = {"of": "larr", "settings": {"beta_alignment": 0.0, "scene": {"dropout": 0.1}}}
    models = ["ple", "larr", "lightgbm", "plain"]
    config = small_tune(tmp_path, models, rows=100, variants={"plain": plain})
    tune.tune(config)
    assert artifacts.stage(config, "tune").is_current()
    results = results_of(config)
    for result in results.values():
        assert len(result["trials"]) == 3
        best = min(result["trials"], key=lambda trial: trial["loss"])
        assert result["best"] == best["settings"]
        assert all(0 < trial["ctr_auc"] < 1 and trial["seconds"] > 0 for trial in result["trials"])
    assert results["ple"]["trials"][0]["settings"]["learning_rate"] == config.align.learning_rate
    for name in ("ple", "larr", "lightgbm"):
        assert set(results[name]["best"]) == set(RANKERS[name].search_space)
    assert set(results["plain"]["best"]) == set(results["larr"]["best"]) - {"beta_alignment"}

    toml = (artifacts.folder(config, "tune") / "tuned.toml").read_text()
    tuned = AlignConfig.model_validate(tomllib.loads(toml)["align"])
    expected = results["larr"]["best"]["scene.weight_decay"]
    assert tuned.of("larr").scene.weight_decay == pytest.approx(expected, rel=1e-3)
    assert tuned.of("lightgbm").trees.leaves == results["lightgbm"]["best"]["trees.leaves"]
    assert tuned.of("deepfm").dropout == 0.0


def test_a_stopped_search_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = small_tune(tmp_path, ["ple"])
    scores, calls = tune.held_back_probabilities, list[object]()

    def stopped(*arguments: Any) -> np.ndarray:
        calls.append(arguments)
        if len(calls) in (1, 3):
            raise KeyboardInterrupt
        return scores(*arguments)

    monkeypatch.setattr(tune, "held_back_probabilities", stopped)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            tune.tune(config)
    tune.tune(config)
    assert len(calls) == 5
    trials = results_of(config)["ple"]["trials"]
    assert len(trials) == 3
    assert trials[0]["settings"]["learning_rate"] == config.align.learning_rate


def test_a_resumed_search_does_not_repeat_settings(tmp_path: Path) -> None:
    config = Config(tune=TuneConfig(trials=3, random=2))
    for _ in range(2):
        study = tune.open_study(config, "ple", tmp_path)
        trial = study.ask()
        study.tell(trial, trial.suggest_float("dropout", 0.0, 0.3))
    first, second = (trial.params["dropout"] for trial in study.trials)
    assert first != second


def test_a_search_with_only_diverged_trials_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RANKERS["ple"], "search_space", {"learning_rate": Range(1e30, 1e31)})
    config = small_tune(tmp_path, ["ple"])
    with pytest.raises(LarrError, match="diverged in every trial"):
        tune.tune(config)


@pytest.mark.parametrize("path", ["learning_rat", "scene.nothing", "learning_rate.x"])
def test_an_unknown_tuned_setting_is_refused(path: str) -> None:
    with pytest.raises((ValueError, LarrError), match=path.partition(".")[0]):
        AlignConfig(tuned={"ple": {path: 0.1}})


def test_another_ranker_or_a_tuned_setting_keeps_the_trials(tmp_path: Path) -> None:
    config = small_tune(tmp_path, ["ple"])
    tune.tune(config)
    journal = artifacts.folder(config, "tune") / "ple" / "trials.journal"
    before = journal.read_bytes()
    align = config.align.model_dump() | {"models": ["ple", "din"]}
    align["tuned"] = {"ple": results_of(config)["ple"]["best"]}
    more = config.model_copy(update={"align": AlignConfig.model_validate(align)})
    with artifacts.building(more, "embed"):
        pass
    tune.tune(more)
    assert journal.read_bytes() == before
    assert set(results_of(more)) == {"ple", "din"}
