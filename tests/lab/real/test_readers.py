"""Files of real data sets become tables of the contract: their labels, candidates and splits."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import polars as pl
import pytest

from larr.config import Config
from larr.data.datasets import Tables, dataset
from larr.data.prepare import prepare
from larr.errors import DataError
from larr.settings import load_config
from larr_lab.real import frappe, unimobile
from larr_lab.real.files import draw
from tests.conftest import ROOT

from . import look_alikes
from .look_alikes import PEOPLE, TASKS

CONFIGS = {
    "canteen": "canteen",
    "frappe": "frappe",
    "unimobile": "unimobile",
    "situnes2": "situnes",
    "situnes3": "situnes",
    "films": "films",
}
"""The configuration of each look-alike -> the kind of its data set."""


def loaded(name: str, folder: Path, *settings: str) -> Config:
    """Returns a configuration of the repository for a look-alike in the folder."""
    kind, path = CONFIGS[name], ROOT / "configs" / f"{name}.toml"
    file = folder / getattr(load_config(path).dataset, kind).path
    if not file.exists():
        getattr(look_alikes, f"write_{kind}")(folder)
    return load_config(path, [f"output={folder}/out", f"dataset.{kind}.path={file}", *settings])


def tables_of(config: Config) -> Tables:
    """Returns what the reader gives for a configuration."""
    return dataset(config).tables(config, Path())


@pytest.mark.parametrize("name", CONFIGS)
def test_a_configuration_prepares_its_data_set(name: str, tmp_path: Path) -> None:
    config = loaded(name, tmp_path)
    prepare(config)
    texts = pl.read_parquet(config.output / "prepare" / "texts.parquet")
    assert {keyword.name for keyword in config.scene_keywords} == {*texts["keyword"]}
    assert not [*(config.output / "prepare" / "rejected").glob("*")]


@pytest.mark.parametrize("name", CONFIGS)
def test_a_missing_file_is_named_with_its_source(name: str, tmp_path: Path) -> None:
    config = loaded(name, tmp_path, f"dataset.{CONFIGS[name]}.path={tmp_path / 'gone'}")
    with pytest.raises(DataError, match=r"gone.*it can be had from .* on GitHub"):
        tables_of(config)


def test_files_of_another_kind_are_refused(tmp_path: Path) -> None:
    canteen, apps = loaded("canteen", tmp_path), loaded("frappe", tmp_path)
    (tmp_path / "canteen.csv.gz").write_text("visit\n1\n")
    with pytest.raises(DataError, match="no column day, date"):
        tables_of(canteen)
    (tmp_path / "Mobile_Frappe.zip").write_bytes(b"no archive")
    with pytest.raises(DataError, match=r"no archive with Mobile_Frappe/frappe/frappe\.csv"):
        tables_of(apps)


def test_a_visit_to_the_canteen_is_a_request_and_its_days_decide_the_split(tmp_path: Path) -> None:
    log = tables_of(loaded("canteen", tmp_path)).impressions.collect()
    assert log.height == 11 * PEOPLE * 3
    clicks = log.group_by("request_id").agg(pl.col("click").sum(), pl.col("poi_id").n_unique())
    assert clicks.select("click", "poi_id").unique().rows() == [(1, 3)]
    days = log.group_by("split").agg(pl.col("time").str.slice(8, 2).unique().sort())
    by_split = {split: list(map(int, numbers)) for split, numbers in days.rows()}
    assert by_split == {"train": [*range(1, 8)], "test": [*range(8, 12)]}
    places = log.group_by("split").agg(pl.col("poi_id").unique())
    train, test = (set(ids) for _, ids in places.sort("split", descending=True).rows())
    assert not train & test


def test_apps_that_the_user_does_not_use_then_are_sampled_beside_the_one_used(
    tmp_path: Path,
) -> None:
    log = tables_of(loaded("frappe", tmp_path)).impressions.collect()
    requests = log.group_by("request_id").agg(
        pl.col("click").sum(), pl.len(), pl.col("poi_id", "user_id", "split").n_unique()
    )
    assert requests.select(pl.exclude("request_id")).unique().rows() == [(1, 5, 5, 1, 1)]
    situation = ["user_id", "time"]
    used = log.filter("click").select(*situation, "poi_id")
    sampled = log.filter(~pl.col("click")).join(used, on=[*situation, "poi_id"])
    assert sampled.is_empty()


def test_new_apps_and_a_fifth_of_the_situations_are_tested(tmp_path: Path) -> None:
    log = tables_of(loaded("frappe", tmp_path)).impressions.collect()
    new = {app for app in log["poi_id"].unique() if draw(f"app-{app}") % frappe.NEW_SHARE == 0}
    train, test = (log.filter(split=split) for split in ("train", "test"))
    assert new
    assert not new & {*train["poi_id"]}
    assert new <= {*test["poi_id"]}
    known = log.filter("click", ~pl.col("poi_id").is_in([*new]))
    assert known.group_by("user_id", "time").agg(pl.col("split").n_unique())["split"].max() == 1
    assert 0.1 < (known["split"] == "test").mean() < 0.3
    monday = log.filter(weekday="monday")["time"]
    assert {(time.isoweekday(), time.hour) for time in monday} == {(1, 9), (1, 23)}


def test_an_app_without_a_page_has_its_number_as_name(tmp_path: Path) -> None:
    places = tables_of(loaded("frappe", tmp_path)).places.collect()
    names = dict(places.select("poi_id", "name").rows())
    assert names["9"] == "app 9"
    assert names["10"] == "Thing 10"
    assert places.filter(poi_id="9")["category"].to_list() == [None]
    assert places["description"][1] == 'An app to do "thing 1".'


def test_chosen_apps_are_clicks_and_tested_tasks_are_new(tmp_path: Path) -> None:
    config = loaded("unimobile", tmp_path)
    final = loaded("unimobile", tmp_path, "dataset.unimobile.final=true")
    kept = {number for number in range(TASKS) if draw(f"task-{number}") % 10 < 3}
    log, final_log = (tables_of(setting).impressions.collect() for setting in (config, final))
    for rows, tested in ((log, unimobile.TEST_TASKS), (final_log, len(kept))):
        chosen = rows.filter("click")
        assert chosen.height == rows["request_id"].n_unique()
        assert chosen["task"].str.extract("on (.*)\\.").str.to_lowercase().equals(chosen["poi_id"])
        train, test = (rows.filter(split=split) for split in ("train", "test"))
        assert not {*train["task"]} & {*test["task"]}
        assert test["task"].n_unique() == tested
        assert train["time"].max() < test["time"].min()
        assert train["time"].n_unique() == unimobile.TRAIN_DAYS
    numbers = {int(text.split()[2][:-1]) for text in log["task"].unique()}
    assert numbers == set(range(TASKS)) - kept


def test_songs_rated_three_or_more_are_clicks_in_the_split_of_the_seed(tmp_path: Path) -> None:
    for seed, split in ((1, 101), (10, 110), (11, 101)):
        tables = tables_of(loaded("situnes2", tmp_path, f"seed={seed}"))
        log = tables.impressions.collect()
        number = (log["time"] - log["time"].min()).dt.total_days()
        rating = (log["user_id"].cast(pl.Int64) + number + split) % 5 + 1
        assert log["click"].equals((rating >= 3).alias("click"))
        assert set(number.filter(log["split"] == "test")) == {8, 9}
    assert set(log["time"].dt.hour()) == {12}
    assert set(log["weather"]) == {"sunny", "rainy"}
    assert set(log["activity"]) == {None, "walking"}
    names = dict(tables.places.select("poi_id", "name").collect().rows())
    assert (names["0"], names["1"]) == ("song 0", "Song 1")


def test_films_of_four_stars_are_clicks_and_the_last_days_are_tested(tmp_path: Path) -> None:
    config = loaded("films", tmp_path)
    tables = tables_of(config)
    log = tables.impressions.collect()
    assert log["click"].mean() == pytest.approx(2 * log["order"].mean(), rel=0.1)
    assert log.filter(pl.col("order") & ~pl.col("click")).is_empty()
    assert log.group_by("request_id").len()["len"].unique().to_list() == [2]
    assert tables.places.collect()["genres"].unique().sort().to_list() == [
        "Action",
        "Comedy, Drama",
    ]
    assert log["time"].min() == datetime(1997, 11, 19, 22, 26, 40)  # 04:26:40 UTC of the next day
