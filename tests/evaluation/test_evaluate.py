"""evaluate and pool on a made-up run: every figure of report.json against the scores themselves."""

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
from larr.errors import ConfigError, DataError, InputError, LarrError, StaleError
from larr.evaluation.evaluate import evaluate, pool
from larr.evaluation.findings import METRICS, mean_tree
from larr.stages import RUN
from tests.fake_run import SLOTS, STRENGTHS, make_run

RUNS = 3


@pytest.fixture(scope="module")
def patch():
    with pytest.MonkeyPatch.context() as one:
        yield one


@pytest.fixture(scope="module")
def configs(tmp_path_factory, patch) -> list[Config]:
    output = tmp_path_factory.mktemp("fake")
    made = [make_run(output / f"seed-{seed}", patch, seed) for seed in range(1, RUNS + 1)]
    for config in made:
        evaluate(config)
    return made


def read(config: Config) -> dict:
    return json.loads(
        (config.output / "evaluate" / "report.json").read_text(), parse_constant=refuse
    )


def refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is no JSON")


def rows_of(config: Config) -> tuple[pl.DataFrame, np.ndarray]:
    test = config.output / "prepare" / "test"
    return pl.read_parquet(test / "rows.parquet"), np.load(test / "labels.npy")


def scores_of(config: Config, model: str) -> np.ndarray:
    if model == "ceiling":
        rows = rows_of(config)[0]
        return rows.select("probability_click", "probability_order").to_numpy().astype(np.float32)
    return np.load(config.output / f"{model}.npy")


def test_metrics_of_every_model_equal_those_of_its_scores(configs) -> None:
    found, (rows, label) = read(configs[0]), rows_of(configs[0])
    user = rows["user_id"].rank("dense").to_numpy().astype(int) - 1
    assert list(found["models"]) == [*STRENGTHS, "ceiling"]
    for model, told in found["models"].items():
        assert set(told) == set(METRICS)
        for column, task in enumerate(("ctr", "ctcvr")):
            one, score = label[:, column], scores_of(configs[0], model)[:, column]
            expected = {
                "auc": roc_auc_score(one, score),
                "gauc": metrics.gauc(one, score, user),
                "logloss": log_loss(one, score.astype(np.float64)),
            }
            for kind, value in expected.items():
                told_here = told[f"{task}_{kind}"]
                assert told_here["mean"] == pytest.approx(value, abs=1e-7)
                assert told_here["by_seed"] == [told_here["mean"]]
                assert told_here["low"] < told_here["mean"] < told_here["high"]


def test_gains_are_ratios_of_the_metrics_and_name_every_control(configs) -> None:
    found = read(configs[0])
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


def test_the_interval_of_a_gain_is_paired(configs) -> None:
    found = read(configs[0])
    gain = found["gains"]["larr_over_ple"]["ctr_logloss"]
    larr, ple = (found["models"][model]["ctr_logloss"] for model in ("larr", "ple"))
    unpaired = 100 * (larr["high"] - larr["low"] + ple["high"] - ple["low"]) / ple["mean"]
    assert gain["high"] - gain["low"] < unpaired / 2


def test_distance_closed_is_a_share_of_the_way_to_the_ceiling(configs) -> None:
    found = read(configs[0])
    mean = {model: told["ctr_auc"]["mean"] for model, told in found["models"].items()}
    expected = 100 * (mean["larr"] - mean["ple"]) / (mean["ceiling"] - mean["ple"])
    closed = found["distance_closed"]["all"]["larr"]["ctr_auc"]
    assert closed["percent"] == pytest.approx(expected, abs=1e-3)
    assert closed["low"] < closed["percent"] < closed["high"]
    assert set(found["distance_closed"]["cold_places"]) == set(STRENGTHS) - {"ple"}


def test_slices_and_cold_parts_equal_the_auc_of_their_rows(configs) -> None:
    found, (rows, label) = read(configs[0]), rows_of(configs[0])
    score = scores_of(configs[0], "larr")
    assert set(found["slices"]["meal_slot"]) == set(SLOTS)
    for slot in SLOTS:
        own = (rows["meal_slot"] == slot).to_numpy()
        expected = roc_auc_score(label[own, 0], score[own, 0])
        assert found["slices"]["meal_slot"][slot]["larr"]["ctr_auc"] == pytest.approx(expected)
        assert found["sizes"]["slices"]["meal_slot"][slot]["impressions"] == own.sum()
    cold = (rows["poi_impressions"] < 50).to_numpy()
    expected = roc_auc_score(label[cold, 0], score[cold, 0])
    told = found["cold"]["places"]["models"]["larr"]["ctr_auc"]
    assert told["mean"] == pytest.approx(expected)
    assert found["sizes"]["cold"]["places"]["clicks"] == label[cold, 0].sum()


def test_the_mean_within_scenes_is_weighted_by_impressions(configs) -> None:
    found = read(configs[0])
    aucs, sizes = found["slices"]["meal_slot"], found["sizes"]["slices"]["meal_slot"]
    impressions = [sizes[slot]["impressions"] for slot in SLOTS]
    expected = np.average([aucs[slot]["ple"]["ctr_auc"] for slot in SLOTS], weights=impressions)
    told = found["within"]["meal_slot"]["models"]["ple"]["ctr_auc"]
    assert told["mean"] == pytest.approx(expected, abs=1e-7)
    assert told["low"] < told["mean"] < told["high"]


def test_small_parts_have_no_figure(configs) -> None:
    found, (rows, _) = read(configs[0]), rows_of(configs[0])
    small = [
        city
        for city, size in found["sizes"]["slices"]["city"].items()
        if size["impressions"] < 200 or size["clicks"] < 10
    ]
    assert 0 < len(small) < rows["city"].n_unique()
    for city in small:
        assert set(found["slices"]["city"][city]["larr"].values()) == {None}
        assert found["slice_gains"]["city"][city]["larr_over_ple"]["ctr_auc"] is None


def test_gauc_coverage_and_calibration_are_told(configs) -> None:
    found, (rows, label) = read(configs[0]), rows_of(configs[0])
    by_user = rows.select("user_id", click=pl.Series(label[:, 0])).group_by("user_id")
    mixed = by_user.agg(pl.len(), pl.col("click").sum()).filter(
        (pl.col("click") > 0) & (pl.col("click") < pl.col("len"))
    )
    assert found["gauc_coverage"]["ctr"]["users_left"] == mixed.height
    assert found["gauc_coverage"]["ctr"]["impressions_left"] == mixed["len"].sum()
    ratio = found["calibration"]["ceiling"]["ctr"]["observed_over_expected"]
    truth = scores_of(configs[0], "ceiling")[:, 0]
    assert ratio == pytest.approx(label[:, 0].sum() / truth.sum(dtype=float))


def test_stages_and_figures_come_from_the_manifests(configs) -> None:
    found = read(configs[0])
    assert list(found["stages"]) == list(RUN)
    for stage in found["stages"].values():
        assert {"seconds", "rate", "unit", "peak_memory_mb"} <= set(stage)
        assert stage["peak_memory_mb"] > 0
    assert found["language_model"]["pretrain"]["perplexity_y_after"] == 4.31
    assert found["data"]["distinct_texts"] == 5210
    assert found["dataset"] == "fake"
    assert found["seeds"] == [1]


def test_the_same_run_gives_the_same_report(configs, tmp_path, patch) -> None:
    again = make_run(tmp_path, patch, 1)
    evaluate(again)
    one, other = read(configs[0]), read(again)
    assert one.pop("stages").keys() == other.pop("stages").keys()
    assert json.dumps(one) == json.dumps(other)
    draws = [config.output / "evaluate" / "draws.npz" for config in (configs[0], again)]
    assert draws[0].read_bytes() == draws[1].read_bytes()


def test_pool_is_the_mean_of_the_seeds_and_needs_no_scores(configs, tmp_path, patch) -> None:
    patch.setattr("larr.rankers.predict.predict", lambda *_: pytest.fail("scored again"))
    pool(configs, tmp_path)
    pooled = json.loads((tmp_path / "evaluate" / "report.json").read_text(), parse_constant=refuse)
    singles = [read(config) for config in configs]
    assert pooled["seeds"] == [1, 2, 3]
    for model in pooled["models"]:
        for metric in METRICS:
            by_seed = [one["models"][model][metric]["mean"] for one in singles]
            assert pooled["models"][model][metric]["by_seed"] == by_seed
            assert pooled["models"][model][metric]["mean"] == pytest.approx(np.mean(by_seed))
    assert pooled["sizes"]["all"]["clicks"] == pytest.approx(
        np.mean([one["sizes"]["all"]["clicks"] for one in singles])
    )
    assert (tmp_path / "evaluate" / "report.html").stat().st_size > 10_000


def test_pool_refuses_a_seed_without_a_report(configs, tmp_path) -> None:
    missing = configs[0].model_copy(update={"output": tmp_path / "none"})
    with pytest.raises(StaleError, match="larr evaluate"):
        pool([configs[0], missing], tmp_path)
    with pytest.raises(InputError, match="no report"):
        pool([], tmp_path)


def test_a_data_set_without_orders_has_null_for_ctcvr(tmp_path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        config = make_run(tmp_path, patch, rows=1_500, tasks=1)
        evaluate(config)
    found = read(config)
    for told in [*found["models"].values(), *found["gains"].values()]:
        assert told["ctr_auc"] is not None
        assert told["ctcvr_auc"] is told["ctcvr_gauc"] is told["ctcvr_logloss"] is None
    assert found["distance_closed"]["all"]["larr"]["ctcvr_auc"] is None


def test_real_data_has_no_ceiling(tmp_path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        config = make_run(tmp_path, patch, rows=1_500, simulated=False)
        evaluate(config)
    found = read(config)
    assert "ceiling" not in found["models"]
    assert found["distance_closed"] == {"all": {}, "cold_places": {}}


def test_pairs_that_were_not_trained_are_left_out(tmp_path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        config = make_run(tmp_path, patch, rows=1_500, models=["deepfm", "larr"])
        evaluate(config)
    assert read(config)["gains"] == {}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"evaluate": {"slices": ["moon_phase"]}}, ConfigError, "no column moon_phase"),
        ({"scores": np.zeros((7, 2), np.float32)}, LarrError, r"shape \(7, 2\)"),
        ({"scores": np.full((1_500, 2), np.nan, np.float32)}, LarrError, "are NaN"),
    ],
)
def test_what_cannot_be_judged_is_refused_with_a_reason(tmp_path, change, error, message) -> None:
    with pytest.MonkeyPatch.context() as patch:
        config = make_run(tmp_path, patch, rows=1_500)
        if "evaluate" in change:
            wanted = config.evaluate.model_copy(update=change["evaluate"])
            config = config.model_copy(update={"evaluate": wanted})
        else:
            patch.setattr("larr.rankers.predict.predict", lambda *_: change["scores"])
        with pytest.raises(error, match=message):
            evaluate(config)
    assert not (config.output / "evaluate" / "manifest.json").exists()


def test_probabilities_of_an_order_given_a_click_are_refused_as_a_ceiling(tmp_path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        config = make_run(tmp_path, patch, rows=3_000, order_given_click=True)
        with pytest.raises(DataError, match="click and order"):
            evaluate(config)


def test_mean_tree_takes_means_of_numbers_and_lists_other_words() -> None:
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


def test_a_report_that_is_current_names_all_its_files(configs) -> None:
    for config in configs:
        assert artifacts.is_current(config, "evaluate")
        made = artifacts.manifest(config, "evaluate")
        assert sorted(made["files"]) == ["draws.npz", "report.html", "report.json"]
        assert "larr_over_ple" in made["figures"]["gains"]
        assert not list(Path(config.output / "evaluate").glob("*.partial"))
