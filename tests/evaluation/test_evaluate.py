"""`evaluate` and `pool` on a simulated run: report.json has the metrics of the scores."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from larr import artifacts, metrics
from larr.config import Config
from larr.config.rankers import CONTROLS
from larr.errors import DataError, InputError, LarrError, StaleError
from larr.evaluation.evaluate import evaluate, pool
from larr.evaluation.findings import mean_tree
from larr.metrics import METRICS, Metric, mean_of, task_metrics
from larr.stages import RUN
from tests.fake_run import SLOTS, STRENGTHS, make_run, read_report


def rows_of(config: Config) -> tuple[pl.DataFrame, np.ndarray]:
    test = config.output / "prepare" / "test"
    return pl.read_parquet(test / "rows.parquet"), np.load(test / "labels.npy")


def scores_of(config: Config, model: str) -> np.ndarray:
    if model == "ceiling":
        rows = rows_of(config)[0]
        return rows.select("probability_click", "probability_order").to_numpy().astype(np.float32)
    return np.load(config.output / f"{model}.npy")


def test_metrics_of_each_model_equal_those_of_its_scores(configs, found) -> None:
    rows, label = rows_of(configs[0])
    user = rows["user_id"].rank("dense").to_numpy().astype(int) - 1
    assert list(found["models"]) == [*STRENGTHS, "ceiling"]
    for model, estimates in found["models"].items():
        assert list(estimates) == list(task_metrics())
        for column, task in enumerate(("ctr", "ctcvr")):
            label_N, score = label[:, column], scores_of(configs[0], model)[:, column]
            expected = {
                "auc": roc_auc_score(label_N, score),
                "gauc": metrics.gauc(label_N, score, user).under(np.ones((user.max() + 1, 1)))[0],
                "logloss": log_loss(label_N, score.astype(np.float64)),
            }
            for kind, value in expected.items():
                estimate = estimates[f"{task}_{kind}"]
                assert estimate["mean"] == pytest.approx(value, abs=1e-7)
                assert estimate["by_seed"] == [estimate["mean"]]
                assert estimate["low"] < estimate["mean"] < estimate["high"]


def test_gains_are_ratios_of_the_metrics_and_name_every_control(found) -> None:
    pairs = [("larr", "ple")]
    pairs += [("larr", control) for control in CONTROLS]
    pairs += [(control, "ple") for control in CONTROLS]
    assert list(found["gains"]) == [f"{first}_over_{second}" for first, second in pairs]
    for first, second in pairs:
        for metric, gain in found["gains"][f"{first}_over_{second}"].items():
            high, low = (found["models"][model][metric]["mean"] for model in (first, second))
            assert gain["percent"] == pytest.approx(100 * (high / low - 1), abs=1e-5)
            assert ("relaimpr_percent" in gain) == ("auc" in metric)
    gain = found["gains"]["larr_over_ple"]["ctr_auc"]
    high, low = (found["models"][model]["ctr_auc"]["mean"] for model in ("larr", "ple"))
    assert gain["relaimpr_percent"] == pytest.approx(
        100 * ((high - 0.5) / (low - 0.5) - 1), abs=1e-4
    )


def test_the_interval_of_a_gain_is_paired(found) -> None:
    gain = found["gains"]["larr_over_ple"]["ctr_logloss"]
    larr, ple = (found["models"][model]["ctr_logloss"] for model in ("larr", "ple"))
    unpaired = 100 * (larr["high"] - larr["low"] + ple["high"] - ple["low"]) / ple["mean"]
    assert gain["high"] - gain["low"] < unpaired / 2


def test_distance_closed_is_a_share_of_the_distance_to_the_ceiling(found) -> None:
    mean = {model: metric["ctr_auc"]["mean"] for model, metric in found["models"].items()}
    expected = 100 * (mean["larr"] - mean["ple"]) / (mean["ceiling"] - mean["ple"])
    closed = found["distance_closed"]["all"]["larr"]["ctr_auc"]
    assert closed["percent"] == pytest.approx(expected, abs=1e-3)
    assert closed["low"] < closed["percent"] < closed["high"]
    assert set(found["distance_closed"]["cold_places"]) == set(STRENGTHS) - {"ple"}


def test_slices_and_cold_parts_equal_the_auc_of_their_rows(configs, found) -> None:
    rows, label = rows_of(configs[0])
    score = scores_of(configs[0], "larr")
    assert set(found["slices"]["meal_slot"]) == set(SLOTS)
    for slot in SLOTS:
        in_slot = (rows["meal_slot"] == slot).to_numpy()
        expected = roc_auc_score(label[in_slot, 0], score[in_slot, 0])
        assert found["slices"]["meal_slot"][slot]["larr"]["ctr_auc"] == pytest.approx(expected)
        assert found["sizes"]["slices"]["meal_slot"][slot]["impressions"] == in_slot.sum()
    cold = (rows["poi_impressions"] < 50).to_numpy()
    expected = roc_auc_score(label[cold, 0], score[cold, 0])
    estimate = found["cold"]["places"]["models"]["larr"]["ctr_auc"]
    assert estimate["mean"] == pytest.approx(expected)
    assert found["sizes"]["cold"]["places"]["clicks"] == label[cold, 0].sum()


def test_the_mean_within_scenes_is_weighted_by_impressions(found) -> None:
    aucs, sizes = found["slices"]["meal_slot"], found["sizes"]["slices"]["meal_slot"]
    impressions = [sizes[slot]["impressions"] for slot in SLOTS]
    expected = np.average([aucs[slot]["ple"]["ctr_auc"] for slot in SLOTS], weights=impressions)
    estimate = found["within"]["meal_slot"]["models"]["ple"]["ctr_auc"]
    assert estimate["mean"] == pytest.approx(expected, abs=1e-7)
    assert estimate["low"] < estimate["mean"] < estimate["high"]


def test_small_parts_have_no_metric(configs, found) -> None:
    rows, _ = rows_of(configs[0])
    small = [
        city
        for city, size in found["sizes"]["slices"]["city"].items()
        if size["impressions"] < 200 or size["clicks"] < 10
    ]
    assert 0 < len(small) < rows["city"].n_unique()
    for city in small:
        assert set(found["slices"]["city"][city]["larr"].values()) == {None}
        assert found["slice_gains"]["city"][city]["larr_over_ple"]["ctr_auc"] is None


def test_gauc_coverage_and_calibration_are_reported(configs, found) -> None:
    rows, label = rows_of(configs[0])
    by_user = rows.select("user_id", click=pl.Series(label[:, 0])).group_by("user_id")
    mixed = by_user.agg(pl.len(), pl.col("click").sum()).filter(
        (pl.col("click") > 0) & (pl.col("click") < pl.col("len"))
    )
    assert found["gauc_coverage"]["ctr"]["users_left"] == mixed.height
    assert found["gauc_coverage"]["ctr"]["impressions_left"] == mixed["len"].sum()
    ratio = found["calibration"]["ceiling"]["ctr"]["observed_over_expected"]
    truth = scores_of(configs[0], "ceiling")[:, 0]
    assert ratio == pytest.approx(label[:, 0].sum() / truth.sum(dtype=float))


def test_stages_and_figures_come_from_the_manifests(found) -> None:
    optional = ("distill", "instruct", "choose")
    assert list(found["stages"]) == [verb for verb in RUN if verb not in optional]
    for stage in found["stages"].values():
        assert {"seconds", "rate", "unit", "peak_memory_mb"} <= set(stage)
        assert stage["peak_memory_mb"] > 0
    assert found["language_model"]["pretrain"]["perplexity_y_after"] == 4.31
    assert found["data"]["distinct_texts"] == 5210
    assert found["dataset"] == "fake"
    assert found["seeds"] == [1]


def test_the_same_run_gives_the_same_report(configs, found, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("larr.evaluation.report.page", lambda _: "")
    again = make_run(tmp_path, monkeypatch, 1)
    evaluate(again)
    other = read_report(again.output)
    assert found.pop("stages").keys() == other.pop("stages").keys()
    assert json.dumps(found) == json.dumps(other)
    draws = [config.output / "evaluate" / "draws.parquet" for config in (configs[0], again)]
    assert draws[0].read_bytes() == draws[1].read_bytes()


def test_pool_is_the_mean_of_the_seeds_and_needs_no_scores(configs, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("larr.rankers.predict.predict", lambda *_: pytest.fail("scored again"))
    pool(configs, tmp_path)
    pooled = read_report(tmp_path)
    singles = [read_report(config.output) for config in configs]
    assert pooled["seeds"] == [1, 2, 3]
    for model in pooled["models"]:
        for metric in task_metrics():
            by_seed = [report["models"][model][metric]["mean"] for report in singles]
            estimate = pooled["models"][model][metric]
            assert estimate["by_seed"] == by_seed
            assert estimate["mean"] == pytest.approx(np.mean(by_seed))
    assert pooled["sizes"]["all"]["clicks"] == pytest.approx(
        np.mean([report["sizes"]["all"]["clicks"] for report in singles])
    )
    table = pl.read_parquet(tmp_path / "evaluate" / "metrics.parquet")
    row = table.filter(
        pl.col("seed").is_null(),
        part="slice",
        column="meal_slot",
        value="lunch",
        ranker="larr",
        metric="ctr_auc",
    ).to_dicts()
    expected = pooled["slices"]["meal_slot"]["lunch"]["larr"]["ctr_auc"]
    assert [cell["estimate"] for cell in row] == [pytest.approx(expected)]
    assert (tmp_path / "evaluate" / "report.html").stat().st_size > 10_000


def test_a_registered_metric_appears_everywhere(tmp_path, monkeypatch, capsys) -> None:
    """A metric, here the Brier score, needs only one entry."""

    def brier(label: np.ndarray, score: np.ndarray, user: np.ndarray) -> metrics.Statistic:
        return mean_of((score - label) ** 2, user)

    metric = Metric("Brier score", brier, "the mean squared error", higher_is_better=False)
    monkeypatch.setitem(METRICS, "brier", metric)
    config = make_run(tmp_path, monkeypatch, rows=1_500, models=["ple", "larr"])
    evaluate(config)
    found, (_, label) = read_report(config.output), rows_of(config)
    expected = np.mean((scores_of(config, "larr")[:, 0] - label[:, 0]) ** 2)
    assert found["models"]["larr"]["ctr_brier"]["mean"] == pytest.approx(expected, abs=1e-7)
    assert found["gains"]["larr_over_ple"]["ctr_brier"]["percent"] < 0
    assert found["within"]["meal_slot"]["models"]["ple"]["ctr_brier"]["low"] > 0
    assert "Brier" in capsys.readouterr().err  # the terminal
    page = (tmp_path / "evaluate" / "report.html").read_text()
    assert "Gains in CTR Brier score" in page
    assert "Brier score: the mean squared error; lower is better." in page


def test_pool_refuses_a_seed_without_a_report(configs, tmp_path) -> None:
    missing = configs[0].model_copy(update={"output": tmp_path / "none"})
    with pytest.raises(StaleError, match="larr evaluate"):
        pool([configs[0], missing], tmp_path)
    with pytest.raises(InputError, match="no report"):
        pool([], tmp_path)


def test_a_log_without_orders_has_null_for_ctcvr_and_no_ceiling(clicks_only) -> None:
    found = read_report(clicks_only.output)
    for by_metric in [*found["models"].values(), *found["gains"].values()]:
        assert by_metric["ctr_auc"] is not None
        assert by_metric["ctcvr_auc"] is by_metric["ctcvr_gauc"] is by_metric["ctcvr_logloss"]
        assert by_metric["ctcvr_auc"] is None
    assert "ceiling" not in found["models"]
    assert found["distance_closed"] == {"all": {}, "cold_places": {}}


def test_pairs_of_untrained_rankers_are_omitted(tmp_path, monkeypatch) -> None:
    config = make_run(tmp_path, monkeypatch, rows=1_000, models=["deepfm", "larr"])
    monkeypatch.setattr("larr.evaluation.report.page", lambda _: "")
    evaluate(config)
    found = read_report(config.output)
    assert found["gains"] == {}
    assert found["distance_closed"] == {"all": {}, "cold_places": {}}


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (np.zeros((7, 2), np.float32), r"shape \(7, 2\)"),
        (np.full((300, 2), np.nan, np.float32), "are NaN"),
    ],
)
def test_an_invalid_evaluation_is_refused_with_a_reason(
    tmp_path, monkeypatch, scores, message
) -> None:
    config = make_run(tmp_path, monkeypatch, rows=300)
    monkeypatch.setattr("larr.rankers.predict.predict", lambda *_: scores)
    with pytest.raises(LarrError, match=message):
        evaluate(config)
    assert not (config.output / "evaluate" / "manifest.json").exists()


def test_probabilities_of_an_order_given_a_click_are_refused_as_a_ceiling(
    tmp_path, monkeypatch
) -> None:
    config = make_run(tmp_path, monkeypatch, rows=3_000, order_given_click=True)
    with pytest.raises(DataError, match="click and order"):
        evaluate(config)


def test_mean_tree_averages_numbers_and_lists_distinct_words() -> None:
    trees = [
        {"a": 1, "b": [1.0, 3.0], "c": "x", "d": None, "e": "same"},
        {"a": 2, "b": [3.0, 5.0], "c": "y", "d": 4, "e": "same", "f": {"g": 1}},
    ]
    assert mean_tree(trees) == {
        "a": 1.5,
        "b": [2.0, 4.0],
        "c": "x, y",
        "d": 4,
        "e": "same",
        "f": {"g": 1},
    }


def test_a_current_report_lists_all_its_files(configs) -> None:
    for config in configs:
        assert artifacts.stage(config, "evaluate").is_current()
        manifest = artifacts.manifest(artifacts.folder(config, "evaluate"))
        assert sorted(manifest["files"]) == [
            "draws.parquet",
            "gains.parquet",
            "metrics.parquet",
            "report.html",
            "report.json",
        ]
        assert "larr_over_ple" in manifest["figures"]["gains"]
        assert not list(Path(config.output / "evaluate").glob("*.partial"))
