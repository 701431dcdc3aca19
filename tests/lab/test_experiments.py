"""Studies: rankers trained, pairs compared, content of the page and the file."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from larr import artifacts
from larr import run as runner
from larr.config import Config
from larr.errors import ConfigError
from larr.evaluation.evaluate import evaluate
from larr.rankers.align import align
from larr.settings import load_config
from larr_lab.settings import StudyConfig, declared_studies
from larr_lab.studies.experiments import (
    ANALYSES,
    FOLDER,
    PAGE,
    RESULTS,
    Json,
    chosen,
    experiments,
    experiments_page,
    for_studies,
    pooled,
)
from tests.evaluation.test_report import Page
from tests.fake_run import make_run
from tests.ranking_log import small_align, write_log

CONFIG = Path(__file__).parents[2] / "configs" / "experiments.toml"
STUDIES = {
    "rivals": {"title": "Rivals", "models": ["wide_deep", "larr"]},
    "line": {
        "title": "A line",
        "models": ["larr_random", "larr_tfidf"],
        "over": ["ple", "deepfm"],
        "axis": "strength",
        "at": [0, 0.5],
    },
}


def test_every_declared_study_can_be_trained() -> None:
    config = load_config(CONFIG)
    complete = for_studies(config, declared_studies(config))
    assert {"ple", "larr", "p5", "no_pretraining", "larr_10k"} <= set(complete.align.models)
    assert len(complete.align.models) == len(set(complete.align.models))
    assert complete.evaluate.gains[0] == ("larr", "ple")
    assert ("larr_10k", "ple_10k") in complete.evaluate.gains
    live = for_studies(config, {}, {"ab-test": ANALYSES["ab-test"]})
    assert live.evaluate.gains == [("larr", "ple")]


def test_all_selects_the_studies_that_suit_the_data_set() -> None:
    config = load_config(CONFIG.with_name("coupon_experiments.toml"))
    assert chosen(config, "all") == ["table2", "table3", "down-sampling"]
    assert for_studies(config, declared_studies(config)).align.models[0] == "ple"
    assert set(chosen(load_config(CONFIG), "all")) > {"table2", *ANALYSES}


def test_a_study_needs_a_position_on_the_axis_for_each_model() -> None:
    with pytest.raises(ValidationError, match="1 entries for 2 models"):
        StudyConfig(title="", models=["ple", "larr"], at=[1.0])


def test_page_and_file_contain_each_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_config = make_run(tmp_path / "seed-1", monkeypatch)
    config = Config.model_validate(run_config.model_dump() | {"studies": STUDIES})
    seed = config.model_copy()
    config = config.model_copy(update={"output": tmp_path})

    def run(seed_config: Config) -> None:
        for verb in ("embed", "align"):
            with artifacts.building(seed_config, verb):
                pass
        evaluate(seed_config)

    monkeypatch.setattr(runner, "run", run)
    with pytest.raises(
        ConfigError, match="expected rivals, line, case-study, down-sampling, ab-test"
    ):
        experiments(config, "table9", [seed])
    monkeypatch.setattr("larr_lab.studies.experiments.ANALYSES", {})
    experiments(config, "all", [seed])
    assert artifacts.stage(for_studies(seed, declared_studies(config)), "evaluate").is_current()
    results = artifacts.read_json(tmp_path / FOLDER / RESULTS)
    rivals, line = results["studies"]["rivals"], results["studies"]["line"]
    assert list(rivals["models"]) == ["ple", "wide_deep", "larr", "ceiling"]
    assert [(gain["model"], gain["over"]) for gain in line["gains"]] == [
        ("larr_random", "ple"),
        ("larr_tfidf", "deepfm"),
    ]
    gain = rivals["gains"][1]
    assert gain["all"]["ctr_auc"]["low"] > 0
    assert gain["distance_closed"]["ctr_auc"]["percent"] > 0
    page = Page((tmp_path / FOLDER / PAGE).read_text(encoding="utf-8"))
    assert "LARR over PLE" in page.text
    assert results["where"]["meal_slot"][0]["gain"]["percent"] > 0
    assert page.tags.count("svg") == 4 + len(results["where"])


def analysed(lift: float) -> dict[str, Json]:
    """Minimal results of the three analyses for one seed."""
    calibration = {"observed_over_expected": 0.4, "log_loss": 0.3}
    tasks = [f"{task}_{moment}" for task in ("ctr",) for moment in ("as_trained", "corrected")]
    sample = dict.fromkeys(tasks, calibration) | {"seconds": 3.0, "ctr_auc": 0.7}
    region = {"share_in_region": 0.9, "distinct_dishes": 40.0, "share_of_specialties": 0.2}
    visitor = {"mean": region, "by_region": {"Fujian": region}}
    example = {"query": ["Xiamen"], "found": ["Xiamen, Fujian: oyster omelette"]}
    interval = {"percent": 2.0, "low": 1.0, "high": 3.0, "draws": [lift - 0.1, lift, lift + 0.1]}
    lifts = dict.fromkeys(("ctr", "orders", "gmv"), interval | {"percent": lift})
    return {
        "down-sampling": {"kept": {"0.1": {"rows": 500, "models": {"larr": sample}}}},
        "case-study": {
            "visits": 1,
            "asked": {"scene": "the scene alone", "user_without_home": "without home"},
            "visitors": {
                "scene": {"larr": visitor},
                "user_without_home": {"larr": visitor | {"example": example}},
            },
            "moments": {"hot days": {"dishes": "cold dishes", "orders": 9, "models": {"larr": 1}}},
        },
        "ab-test": {
            "requests": 10,
            "users": 5,
            "candidates": 40,
            "shown": 10,
            "truth": lifts,
            "aa": lifts,
            "ab": lifts,
            "false_alarms": {"tests": 200, "looks": 20, "fixed": 0.24, "at_any_time": 0.01},
            "off_policy": {"ips": {"value": 0.21, "error": 0.003}},
        },
    }


def test_the_page_contains_each_analysis_with_pooled_lifts() -> None:
    seeds = [analysed(lift) for lift in (2.0, 4.0)]
    results = {name.replace("-", "_"): pooled([seed[name] for seed in seeds]) for name in ANALYSES}
    lift = results["ab_test"]["truth"]["ctr"]
    assert lift["percent"] == pytest.approx(3.0)
    assert 1.9 <= lift["low"] < lift["high"] <= 4.1
    assert lift["by_seed"] == [2.0, 4.0]
    assert "draws" not in lift
    shared = {"dataset": "city", "seeds": [1, 2], "tasks": ["ctr"], "trials": 10}
    page = Page(experiments_page(shared | {"studies": {}, "where": {}} | results))
    assert page.tags.count("svg") == 1
    for text in ("True lift", "Xiamen, Fujian: oyster omelette", "hot days: cold dishes", "10 %"):
        assert text in page.text


def test_a_variant_can_read_the_latest_rows_and_hide_categories(tmp_path: Path) -> None:
    variants = {
        "few": {"of": "ple", "settings": {"rows": 500}},
        "blind": {"of": "ple", "settings": {"hidden": ["user_id", "poi_id"]}},
    }
    models = ["ple", "few", "blind"]
    config = write_log(tmp_path, align=small_align(models=models, variants=variants, epochs=1))
    align(config)
    trained = {
        name: artifacts.read_json(config.output / "align" / name / "train.json")["samples"]
        for name in ("ple", "few")
    }
    assert trained["few"] == 500 < trained["ple"]
