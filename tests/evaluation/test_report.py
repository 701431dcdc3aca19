"""The content of the page and the terminal tables; the page is self-contained."""

from __future__ import annotations

import copy
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from larr.config import Config
from larr.evaluation import report
from larr.evaluation.evaluate import evaluate
from larr.evaluation.plots import COLOURS, forest
from tests.fake_run import make_run, read_report

VOID = {"meta", "br", "path", "use", "rect"}


class Page(HTMLParser):
    """Checks that tags close, and collects text, tags and addresses."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.text = ""
        self.feed(source)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [
            v or "" for k, v in attrs if k in ("src", "href", "xlink:href", "srcset")
        ]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [v or "" for k, v in attrs if k in ("src", "href", "xlink:href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open[-1:]:
            self.text += data


@pytest.fixture
def run(configs: list[Config]) -> Path:
    return configs[0].output / "evaluate"


@pytest.fixture
def no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skips plots, which take nearly all the time of a page."""
    kinds = ("gains", "slices", "calibration", "learning")
    monkeypatch.setattr(report, "_plots", lambda *_: {kind: {} for kind in kinds})


def test_the_page_is_self_contained(run: Path) -> None:
    source = (run / "report.html").read_text()
    page = Page(source)
    assert source.startswith("<!doctype html>")
    assert all(address.startswith("#") for address in page.addresses)
    assert not {"script", "link", "img", "iframe"} & set(page.tags)
    assert "@import" not in source
    assert "url(http" not in source
    assert page.tags.count("svg") == 8  # gains 2, slices 2, calibration 2, learning 2
    assert "prefers-color-scheme: dark" in source
    assert not set(COLOURS) & set(re.findall(r"#[0-9a-f]{6}", source))


def test_the_page_shows_every_metric_and_no_nan(run: Path, found: dict[str, Any]) -> None:
    text = Page((run / "report.html").read_text()).text
    without_settings = text.rpartition("Settings")[0]
    assert not re.search(r"\bnan\b|\bNone\b|Undefined", without_settings)
    for model, estimates in found["models"].items():
        assert report.name(model) in text
        for estimate in estimates.values():
            assert f"{estimate['mean']:.4f}" in text
    assert "95 % of 60 resamples" in text


def test_the_page_begins_with_the_finding(found: dict[str, Any]) -> None:
    gain = found["gains"]["larr_over_ple"]["ctr_auc"]
    first, second, third, fourth = report.sentences(found)
    assert first.startswith("LARR over PLE: ")
    assert (
        f"{gain['percent']:+.2f}\u00a0%\u00a0[{gain['low']:+.2f},\u00a0{gain['high']:+.2f}]"
        in first
    )
    assert "distance from PLE to the ceiling" in second
    assert "shuffled" in third
    assert "LARR (TF-IDF)" in fourth


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.1, 0.5, "above zero"),
        (-0.5, -0.1, "worse"),
        (-0.1, 0.5, "no difference"),
        (None, None, "few"),
    ],
)
def test_the_verdict_follows_the_interval(
    found: dict[str, Any], low: float | None, high: float | None, verdict: str
) -> None:
    found["gains"]["larr_over_ple"]["ctr_auc"] |= {"low": low, "high": high}
    assert verdict in next(report.sentences(found))


def test_few_test_users_give_no_verdict(found: dict[str, Any]) -> None:
    found["gains"]["larr_over_ple"]["ctr_auc"] |= {"low": 0.1, "high": 0.5}
    found["sizes"]["all"]["users"] = 12
    assert "12 users: too few" in next(report.sentences(found))


def test_tuning_without_gain_is_reported(found: dict[str, Any]) -> None:
    found["language_model"]["contrast"]["kept_start"] = True
    assert any("held-out orders:" in sentence for sentence in report.sentences(found))
    found["language_model"]["contrast"]["kept_start"] = 1 / 3
    assert any("orders on 33% of the seeds:" in sentence for sentence in report.sentences(found))


def test_texts_of_the_data_are_escaped(found: dict[str, Any]) -> None:
    bad = "<script>alert(1)</script>$x^2$"
    for part in (found["slices"], found["slice_gains"], found["sizes"]["slices"]):
        part["meal_slot"][bad] = part["meal_slot"].pop("lunch")
    page = Page(report.page(found))
    assert "script" not in page.tags
    assert bad in page.text


def test_without_orders_and_with_few_impressions(clicks_only: Config) -> None:
    """With 150 impressions no slice and no cold part has a metric, and the page is rendered."""
    page = Page((clicks_only.output / "evaluate" / "report.html").read_text())
    assert "contains no orders, so it has no figures of CTCVR" in page.text
    assert "CTCVR AUC" not in page.text
    assert "–" in page.text
    slices = read_report(clicks_only.output)["slices"]["meal_slot"]
    assert {by_ranker["larr"]["ctr_auc"] for by_ranker in slices.values()} == {None}


def test_a_page_of_one_ranker_without_clicks_is_rendered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_run(
        tmp_path, monkeypatch, rows=300, models=["deepfm"], simulated=False, clicks=False
    )
    evaluate(config)
    content = read_report(tmp_path)
    assert content["models"]["deepfm"]["ctr_auc"]["mean"] is None
    text = Page((tmp_path / "evaluate" / "report.html").read_text()).text
    assert "No pair of models was compared" in text


def test_a_pair_without_clicks_has_no_gain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_plots: None
) -> None:
    config = make_run(
        tmp_path, monkeypatch, rows=300, models=["ple", "larr"], simulated=False, clicks=False
    )
    evaluate(config)
    content = read_report(tmp_path)
    assert content["gains"]["larr_over_ple"]["ctr_auc"]["percent"] is None


def test_several_seeds_are_listed(found: dict[str, Any], no_plots: None) -> None:
    several = copy.deepcopy(found)
    several["seeds"] = [1, 2]
    for estimates in several["models"].values():
        for estimate in estimates.values():
            estimate["by_seed"] = [0.1234, 0.9876]
    text = Page(report.page(several)).text
    assert "Seeds 1, 2" in text
    assert "0.12340.9876" in text
    assert "rather too narrow" in text


def test_the_terminal_shows_the_table(
    found: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(report, "console", Console(width=100))
    report.print_tables(found)
    printed = capsys.readouterr().out
    assert f"{found['models']['ceiling']['ctr_auc']['mean']:.4f}" in printed
    assert "LARR (untuned LM)" in printed
    assert "LARR over PLE:" in printed


@pytest.mark.parametrize(
    ("value", "text"), [(0.5, "+0.50"), (-0.5, "-0.50"), (-0.001, "+0.00"), (0.0, "+0.00")]
)
def test_a_signed_number_is_never_minus_zero(value: float, text: str) -> None:
    assert report.signed(value) == text


def test_plots_are_deterministic() -> None:
    gains = [
        ("one", {"percent": 0.5, "low": 0.2, "high": 0.8}),
        ("two", {"percent": -0.5, "low": -0.8, "high": -0.2}),
        ("none", None),
    ]
    assert forest("gains", gains) == forest("gains", gains[:2])
    assert not forest("gains", gains[2:])


def test_names_in_other_scripts_are_drawn(recwarn: pytest.WarningsRecorder) -> None:
    assert "西安" in forest("gains", [("西安", {"percent": 0.5, "low": 0.2, "high": 0.8})])
    assert not [warning for warning in recwarn if "Glyph" in str(warning.message)]


def test_position_as_a_feature_is_reported(found: dict[str, Any], no_plots: None) -> None:
    assert "no model reads it" in Page(report.page(found)).text
    found["settings"]["features"]["numbers"] = ["position"]
    assert "position in the list is a feature here" in Page(report.page(found)).text
