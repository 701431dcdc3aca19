"""`larr real`: data sets run, pairs compared, content of the page and the file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from larr import artifacts
from larr import run as runner
from larr.config import Config
from larr.data.prepare import prepare
from larr.errors import ConfigError
from larr.evaluation.evaluate import evaluate
from larr.evaluation.findings import RIVALS
from larr.settings import load_config
from larr_lab.studies.real import PAGE, RESULTS, compared, real
from tests.conftest import ROOT
from tests.evaluation.test_report import Page

from .real import look_alikes

STRENGTHS = {"wide_deep": 0.5, "ple": 1.5, "lightgbm": 1.0, "larr": 3.0}
"""How far a ranker's logits of clicks are above the others."""
SETTINGS = [f"align.models={[*STRENGTHS]}", "evaluate.bootstrap=40"]


def configuration(name: str) -> Config:
    return load_config(ROOT / "configs" / f"{name}.toml", SETTINGS)


@pytest.fixture(autouse=True)
def fast_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs only prepare and evaluate; rankers score by labels plus noise."""

    def run(config: Config, *, force: bool = False) -> None:
        prepare(config)
        for verb in ("pretrain", "contrast", "embed", "align"):
            with artifacts.building(config, verb):
                pass
        evaluate(config)

    def predict(config: Config, ranker: str) -> np.ndarray:
        label_NT = np.load(config.output / "prepare" / "test" / "labels.npy")
        noise_NT = np.random.default_rng(config.seed).normal(size=label_NT.shape)
        return 1 / (1 + np.exp(2 - STRENGTHS[ranker] * label_NT - noise_NT))

    monkeypatch.setattr(runner, "run", run)
    monkeypatch.setattr("larr.rankers.predict.predict", predict)


def test_data_sets_with_files_are_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    look_alikes.write_canteen(tmp_path)
    look_alikes.write_unimobile(tmp_path / "unimobile")
    names = ("canteen", "unimobile", "situnes2")
    real({name: configuration(name) for name in names}, tmp_path, "1,2", tmp_path / "out")
    assert f"skipped: situnes2 ({tmp_path}/SiTunes_dataset/" in capsys.readouterr().err
    content = artifacts.read_json(tmp_path / "out" / RESULTS)
    assert content["seeds"] == [1, 2]
    assert list(content["sizes"]) == ["canteen", "unimobile"]
    for metric, is_better in (("ctr_auc", 1), ("ctr_gauc", 1), ("ctr_logloss", -1)):
        for row in content["metrics"][metric].values():
            assert row["best_rival"] == "ple"
            assert [*row["rankers"]] == [*STRENGTHS]
            means = {name: values["mean"] for name, values in row["rankers"].items()}
            gain = row["gains"]["larr"]
            assert [*row["gains"]] == ["larr"]
            assert gain["percent"] == pytest.approx(100 * (means["larr"] / means["ple"] - 1), abs=1)
            assert min(is_better * gain["low"], is_better * gain["high"]) > 0
    page = Page((tmp_path / "out" / PAGE).read_text(encoding="utf-8"))
    assert page.tags.count("svg") == 4
    assert page.tags.count("b") == 4 * 2 - 1  # UniMobile has no cold places
    assert "CTR AUC, cold places" in page.text


def test_the_error_for_missing_files_names_them(tmp_path: Path) -> None:
    configs = {name: configuration(name) for name in ("frappe", "films")}
    with pytest.raises(
        ConfigError, match=r"frappe \(.*frappe\.csv does not exist\); films.*u\.data"
    ):
        real(configs, tmp_path, "1", tmp_path / "out")


def test_each_ranker_is_compared_with_every_rival(tmp_path: Path) -> None:
    suited = compared(configuration("canteen"), tmp_path, tmp_path / "out")
    assert suited.output == tmp_path / "out"
    assert {("larr", rival) for rival in RIVALS} <= {*suited.evaluate.gains}
