"""Studies: what they train, what they compare, what the page and the file say."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from larr import artifacts
from larr import run as runner
from larr.config import Config
from larr.errors import ConfigError
from larr.evaluation.evaluate import evaluate
from larr.rankers import build
from larr.rankers.align import align
from larr.settings import load_config
from larr_lab.settings import StudyConfig, studies_of
from larr_lab.studies.experiments import (
    ANALYSES,
    FOLDER,
    PAGE,
    RESULTS,
    chosen,
    experiments,
    for_studies,
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
    whole = for_studies(config, studies_of(config))
    assert {"ple", "larr", "p5", "no_pretraining", "larr_10k"} <= set(whole.align.models)
    assert len(whole.align.models) == len(set(whole.align.models))
    assert whole.evaluate.gains[0] == ("larr", "ple")
    assert ("larr_10k", "ple_10k") in whole.evaluate.gains
    live = for_studies(config, {}, {"ab-test": ANALYSES["ab-test"]})
    assert live.evaluate.gains == [("larr", "ple")]


def test_of_another_data_set_all_is_what_it_allows() -> None:
    config = load_config(CONFIG.with_name("coupon_experiments.toml"))
    assert chosen(config, "all") == ["table2", "table3", "down-sampling"]
    assert for_studies(config, studies_of(config)).align.models[0] == "ple"
    assert set(chosen(load_config(CONFIG), "all")) > {"table2", *ANALYSES}


def test_a_study_needs_a_place_on_the_axis_for_each_model() -> None:
    with pytest.raises(ValidationError, match="1 entries for 2 models"):
        StudyConfig(title="", models=["ple", "larr"], at=[1.0])


def test_the_page_and_the_file_tell_each_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make_run(tmp_path / "seed-1", monkeypatch)
    config = Config.model_validate(made.model_dump() | {"studies": STUDIES})
    seed = config.model_copy()
    config = config.model_copy(update={"output": tmp_path})

    def run(one: Config) -> None:
        for verb in ("embed", "align"):
            with artifacts.making(one, verb):
                pass
        evaluate(one)

    monkeypatch.setattr(runner, "run", run)
    with pytest.raises(
        ConfigError, match="there are rivals, line, case-study, down-sampling, ab-test"
    ):
        experiments(config, "table9", [seed])
    monkeypatch.setattr("larr_lab.studies.experiments.ANALYSES", {})
    experiments(config, "all", [seed])
    assert artifacts.is_current(for_studies(seed, studies_of(config)), "evaluate")
    told = artifacts.read_json(tmp_path / FOLDER / RESULTS)
    rivals, line = told["studies"]["rivals"], told["studies"]["line"]
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
    assert told["where"]["meal_slot"][0]["gain"]["percent"] > 0
    assert page.tags.count("svg") == 4 + len(told["where"])


def test_the_latest_rows_alone_and_hidden_categories(tmp_path: Path) -> None:
    variants = {
        "few": {"of": "ple", "settings": {"rows": 500}},
        "blind": {"of": "ple", "settings": {"hidden": ["user_id", "poi_id"]}},
        "wrong": {"of": "ple", "settings": {"hidden": ["no_such"]}},
    }
    models = ["ple", "few", "blind"]
    config = write_log(tmp_path, align=small_align(models=models, variants=variants, epochs=1))
    align(config)
    trained = {
        name: artifacts.read_json(config.output / "align" / name / "train.json")["samples"]
        for name in ("ple", "few")
    }
    assert trained["few"] == 500 < trained["ple"]
    with pytest.raises(ConfigError, match="hidden names no_such; the categories are"):
        build(config, "wrong")
