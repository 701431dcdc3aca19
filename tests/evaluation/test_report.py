"""The page and the terminal tables: what they say, and that the page stands alone."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any

import pytest
from rich.console import Console

from larr.evaluation import report
from larr.evaluation.evaluate import evaluate
from larr.evaluation.plots import COLOURS, Effect, forest
from tests.fake_run import make_run

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


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        config = make_run(tmp_path_factory.mktemp("run"), patch)
        evaluate(config)
        yield config.output / "evaluate"


@pytest.fixture
def found(run: Any) -> dict[str, Any]:
    return json.loads((run / "report.json").read_text())


def test_the_page_stands_alone(run: Any) -> None:
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


def test_the_page_says_every_metric_and_no_nan(run: Any, found: dict[str, Any]) -> None:
    text = Page((run / "report.html").read_text()).text
    assert not re.search(r"\bnan\b|\bNone\b|Undefined", text)
    for model, told in found["models"].items():
        assert report.name(model) in text
        for estimate in told.values():
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
    ("low", "high", "said"),
    [
        (0.1, 0.5, "above zero"),
        (-0.5, -0.1, "worse"),
        (-0.1, 0.5, "no difference"),
        (None, None, "few"),
    ],
)
def test_the_verdict_follows_the_interval(
    found: dict[str, Any], low: float | None, high: float | None, said: str
) -> None:
    found["gains"]["larr_over_ple"]["ctr_auc"] |= {"low": low, "high": high}
    assert said in next(report.sentences(found))


def test_a_handful_of_test_users_gives_no_verdict(found: dict[str, Any]) -> None:
    found["gains"]["larr_over_ple"]["ctr_auc"] |= {"low": 0.1, "high": 0.5}
    found["sizes"]["all"]["users"] = 12
    assert "12 users: too few" in next(report.sentences(found))


def test_a_collapsed_language_model_is_said(found: dict[str, Any]) -> None:
    found["language_model"]["contrast"]["collapsed"] = True
    assert any("collapsed:" in sentence for sentence in report.sentences(found))
    found["language_model"]["contrast"]["collapsed"] = 1 / 3
    assert any("collapsed on 33% of the seeds" in sentence for sentence in report.sentences(found))


def test_texts_of_the_data_cannot_become_markup(found: dict[str, Any]) -> None:
    bad = "<script>alert(1)</script>$x^2$"
    for part in (found["slices"], found["slice_gains"], found["sizes"]["slices"]):
        part["meal_slot"][bad] = part["meal_slot"].pop("lunch")
    page = Page(report.page(found))
    assert "script" not in page.tags
    assert bad in page.text


def test_a_data_set_without_orders_says_so(tmp_path: Any) -> None:
    with pytest.MonkeyPatch.context() as patch:
        config = make_run(tmp_path, patch, rows=1_500, tasks=1)
        evaluate(config)
    text = Page((tmp_path / "evaluate" / "report.html").read_text()).text
    assert "no orders, so nothing is said of CTCVR" in text
    assert "CTCVR AUC" not in text


def test_what_is_too_small_is_a_dash(tmp_path: Any) -> None:
    """With 150 impressions no slice and no cold part has a figure, and the page still stands."""
    with pytest.MonkeyPatch.context() as patch:
        config = make_run(tmp_path, patch, rows=150, simulated=False)
        evaluate(config)
    page = Page((tmp_path / "evaluate" / "report.html").read_text())
    assert "–" in page.text
    slices = json.loads((tmp_path / "evaluate" / "report.json").read_text())["slices"]["meal_slot"]
    assert {told["larr"]["ctr_auc"] for told in slices.values()} == {None}


def test_one_model_alone_makes_a_page(tmp_path: Any) -> None:
    with pytest.MonkeyPatch.context() as patch:
        config = make_run(tmp_path, patch, rows=600, models=["deepfm"], simulated=False)
        evaluate(config)
    text = Page((tmp_path / "evaluate" / "report.html").read_text()).text
    assert "No pair of models was compared" in text


def test_no_clicks_at_all_makes_a_page(tmp_path: Any) -> None:
    with pytest.MonkeyPatch.context() as patch:
        config = make_run(tmp_path, patch, rows=300, simulated=False, clicks=False)
        evaluate(config)
    content = json.loads((tmp_path / "evaluate" / "report.json").read_text())
    assert content["models"]["larr"]["ctr_auc"]["mean"] is None
    assert content["gains"]["larr_over_ple"]["ctr_auc"]["percent"] is None
    Page((tmp_path / "evaluate" / "report.html").read_text())


def test_several_seeds_are_listed(found: dict[str, Any]) -> None:
    several = copy.deepcopy(found)
    several["seeds"] = [1, 2]
    for told in several["models"].values():
        for estimate in told.values():
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
    ("value", "said"), [(0.5, "+0.50"), (-0.5, "-0.50"), (-0.001, "+0.00"), (0.0, "+0.00")]
)
def test_a_signed_number_is_never_minus_zero(value: float, said: str) -> None:
    assert report.signed(value) == said


def test_a_plot_is_the_same_each_time() -> None:
    effects = [Effect("one", 0.5, 0.2, 0.8), Effect("two", -0.5, -0.8, -0.2)]
    assert forest("gains", effects) == forest("gains", effects)


def test_names_in_other_scripts_reach_the_plot(recwarn: pytest.WarningsRecorder) -> None:
    assert "西安" in forest("gains", [Effect("西安", 0.5, 0.2, 0.8)])
    assert not [one for one in recwarn if "Glyph" in str(one.message)]


def test_a_position_among_the_features_is_said(found: dict[str, Any]) -> None:
    assert "no feature of any model" in Page(report.page(found)).text
    found["settings"]["features"]["numbers"] = ["position"]
    assert "position in the list is a feature here" in Page(report.page(found)).text
