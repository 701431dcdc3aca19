"""Tables read from official layouts of public data sets: labels, candidates and splits."""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from larr.config import Config
from larr.data.datasets import Tables, own_tables
from larr.data.prepare import prepare
from larr.errors import DataError
from larr.settings import load_config
from tests.conftest import ROOT

from .look_alikes import COUPONS, LAYOUTS, NEWS, PEOPLE, SPLITS, TASKS


def loaded(name: str, folder: Path, *settings: str) -> Config:
    """Returns a configuration of the repository for a look-alike in the folder."""
    path, files = ROOT / "configs" / f"{name}.toml", folder / LAYOUTS[name].__name__
    if not files.exists():
        files.mkdir()
        LAYOUTS[name](files)
    return load_config(path, [f"output={folder}/out", f"dataset.folder={files}", *settings])


def tables_of(config: Config) -> Tables:
    """Returns the tables of a configuration's SQL."""
    return own_tables(config, config.output / "copies")


def draw(key: str) -> int:
    """Returns a pseudorandom integer that depends only on the key."""
    return int(hashlib.sha256(key.encode()).hexdigest(), 16)


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_configuration_prepares_its_data_set(name: str, tmp_path: Path) -> None:
    config = loaded(name, tmp_path)
    prepare(config)
    texts = pl.read_parquet(config.output / "prepare" / "texts.parquet")
    assert {keyword.name for keyword in config.scene_keywords} == {*texts["keyword"]}
    rejected = [path.name for path in (config.output / "prepare" / "rejected").glob("*")]
    assert not [name for name in rejected if not name.endswith("-values.parquet")]


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_missing_file_is_named(name: str, tmp_path: Path) -> None:
    config = load_config(ROOT / "configs" / f"{name}.toml", [f"dataset.folder={tmp_path}/gone"])
    with pytest.raises(DataError, match=r"gone.*: no such file or folder"):
        tables_of(config)


def test_a_visit_to_the_canteen_is_a_request_and_the_split_is_by_day(tmp_path: Path) -> None:
    log = tables_of(loaded("canteen", tmp_path)).impressions.collect()
    assert log.height == 11 * PEOPLE * 3
    clicks = log.group_by("request_id").agg(
        pl.col("click").cast(pl.Int64).sum(), pl.col("poi_id").n_unique()
    )
    assert clicks.select("click", "poi_id").unique().rows() == [(1, 3)]
    days = log.group_by("split").agg(pl.col("time").str.slice(8, 2).unique().sort())
    by_split = {split: list(map(int, numbers)) for split, numbers in days.rows()}
    assert by_split == {"train": [*range(1, 8)], "test": [*range(8, 12)]}


def test_an_answer_about_a_coupon_is_an_impression(tmp_path: Path) -> None:
    config = loaded("coupon", tmp_path)
    tables = tables_of(config)
    log, users = tables.impressions.collect(), tables.users.collect()
    assert log["user_id"].to_list() == [person for person in range(PEOPLE) for _ in range(COUPONS)]
    assert log["click"].to_list()[:7] == ["1", "0", "0", "1", "0", "0", "0"]
    assert log["time"].dt.hour().to_list()[:6] == [7, 10, 14, 18, 22, 7]
    assert log["temperature_c"][0] == pytest.approx((30 - 32) / 1.8)
    assert log["distance"][:6].str.extract(r"(\d+ to \d+|\w+ than \d+)").to_list() == [
        *["less than 15"] * 2,
        *["15 to 25"] * 2,
        *["more than 25"] * 2,
    ]
    assert users["bar"].to_list()[:3] == ["never", "less than once a month", "1 to 3 times a month"]
    assert users["children"].to_list()[:2] == ["no children", "with children"]
    assert set(tables.places.collect()["expires"]) == {"valid for 2 hours", "valid for a day"}


def test_coupon_answers_do_not_leak_into_texts_and_numbers(tmp_path: Path) -> None:
    """All answers are on one day, so all statistics are those of unknown users and places."""
    given = loaded("coupon", tmp_path)
    flipped = loaded("coupon", tmp_path, f"output={tmp_path}/flipped")
    prepare(given)
    path = given.dataset.folder / "coupon.csv"
    pl.read_csv(path).with_columns(Y=1 - pl.col("Y")).write_csv(path)
    prepare(flipped)
    for name in ("train/categories", "test/categories", "train/texts", "test/texts"):
        before, after = (np.load(c.output / "prepare" / f"{name}.npy") for c in (given, flipped))
        assert (before == after).all(), name
    labels = [np.load(c.output / "prepare" / "train" / "labels.npy") for c in (given, flipped)]
    assert (labels[0] == 1 - labels[1]).all()


def test_new_apps_and_a_fifth_of_the_situations_are_tested(tmp_path: Path) -> None:
    tables = tables_of(loaded("frappe", tmp_path))
    log = tables.impressions.collect()
    for row in log.iter_rows(named=True):
        context = ("daytime", "weekday", "isweekend", "homework", "weather", "country", "city")
        values = [row["user_id"], *(row[name] for name in context if row[name] != "unknown")]
        situation = "|".join(values)
        is_tested = draw(f"app-{row['poi_id']}") % 20 == 0 or draw(situation) % 5 == 0
        assert row["situation"] == situation
        assert row["split"] == ("test" if is_tested else "train")
    monday = log.filter(weekday="monday")["time"]
    assert {(time.isoweekday(), time.hour) for time in monday} == {(1, 9), (1, 23)}
    names = dict(tables.places.collect().select("poi_id", "name").rows())
    assert (names["9"], names["10"]) == ("app 9", "Thing 10")


def test_chosen_apps_are_clicks_and_tested_tasks_are_new(tmp_path: Path) -> None:
    kept = {number for number in range(TASKS) if draw(f"task-{number}") % 10 < 3}
    for name, tested in (("unimobile", 30), ("unimobile_final", len(kept))):
        rows = tables_of(loaded(name, tmp_path)).impressions.collect()
        chosen = rows.filter("click")
        assert rows.height == 19 * rows["request_id"].n_unique() == 19 * chosen.height
        assert chosen["task"].str.extract("on (.*)\\.").str.to_lowercase().equals(chosen["poi_id"])
        by_split = rows.select("split", task=pl.col("task").str.extract(r"(\d+)").cast(pl.Int64))
        tasks = dict(by_split.group_by("split").agg(pl.col("task").unique()).rows())
        assert len(tasks["test"]) == tested
        if name == "unimobile":
            # The other tasks with the largest hashes.
            order = sorted(set(range(TASKS)) - kept, key=lambda number: draw(f"task-{number}"))
            assert set(tasks["test"]) == set(order[-30:])
        else:
            assert set(tasks["test"]) == kept
        assert set(tasks["train"]) == set(range(TASKS)) - kept - set(tasks["test"])
        train, test = (rows.filter(split=split)["time"] for split in ("train", "test"))
        assert (train.n_unique(), test.n_unique()) == (6, 1)
        assert train.max() < test.min()


def test_songs_rated_three_or_more_are_clicks_in_the_split_of_the_seed(tmp_path: Path) -> None:
    for seed in (SPLITS[0], SPLITS[-1]):
        tables = tables_of(loaded("situnes2", tmp_path, f"seed={seed}"))
        log = tables.impressions.collect()
        number = (log["time"].cast(pl.Int64) - 1_600_056_000) // 86_400
        rating = (log["user_id"].cast(pl.Int64) + number + seed) % 5 + 1
        assert log["click"].equals((rating >= 3).alias("click"))
        assert set(number.filter(log["split"] == "test")) == {8, 9}
    assert set(log["weather"]) == {"sunny", "rainy"}
    assert set(log["activity"]) == {None, "walking"}
    names = dict(tables.places.select("poi_id", "name").collect().rows())
    assert (names["0"], names["1"]) == ("song 0", "Song 1")


@pytest.mark.parametrize("name", ["films", "films_1m"])
def test_films_of_four_stars_are_clicks(name: str, tmp_path: Path) -> None:
    tables = tables_of(loaded(name, tmp_path))
    log, places = tables.impressions.collect(), tables.places.collect()
    assert log["click"].mean() == pytest.approx(2 * log["order"].mean(), rel=0.1)
    assert log.filter(pl.col("order") & ~pl.col("click")).is_empty()
    assert log.group_by("request_id").len()["len"].unique().to_list() == [2]
    assert places["genres"].to_list()[:2] == ["Comedy, Drama", "Action"]
    assert places["release_year"].unique().to_list() == ["1990"]
    assert places["name"][3] == ('Café "3", The' if name == "films" else "Film 3")
    assert set(tables.users.collect()["occupation"].drop_nulls()) >= (
        {"baker"} if name == "films" else {"artist", "lawyer"}
    )


def test_check_ins_have_local_times_and_other_venues_of_the_neighbourhood(tmp_path: Path) -> None:
    config = loaded("foursquare", tmp_path)
    log = tables_of(config).impressions.collect()
    assert log["time"].min() == datetime(2012, 4, 3, 12)
    prepare(config)
    requests = pl.read_parquet(config.output / "prepare" / "requests.parquet")
    places = tables_of(config).places.collect().select("poi_id", of_place="cell", name="name")
    assert set(places["name"]) == {"Café", "Bar"}
    beside = requests.join(places, on="poi_id")
    assert (beside["cell"] == beside["of_place"]).all()
    assert set(requests.group_by("request_id").agg(pl.col("click").sum())["click"]) == {1}
    assert (~requests["click"]).any()


def test_an_order_of_several_products_is_one_click(tmp_path: Path) -> None:
    tables = tables_of(loaded("delivery_hero", tmp_path))
    log, places = tables.impressions.collect(), tables.places.collect()
    assert log.height == log["request_id"].n_unique() == 20 * PEOPLE
    assert log["click"].all()
    first = log.filter(request_id="o3-1").row(0, named=True)
    assert (first["poi_id"], first["weekday"], first["split"]) == ("v4", "Wednesday", "train")
    assert first["time"] == datetime(2022, 1, 4, 12, 30)
    assert (first["area"], first["customer_area"]) == ("w21z0", "w21zu")
    assert places.filter(poi_id="v1").select("menu", "category", "area").rows() == [
        ("dish 3, dish 4, dish 5", "chinese", "w21z1")
    ]


def test_dishes_shown_together_are_a_request_on_the_day_of_the_file(tmp_path: Path) -> None:
    log = tables_of(loaded("eleme", tmp_path)).impressions.collect()
    requests = log.group_by("request_id").agg(
        pl.len(), pl.col("click").cast(pl.Int64).sum(), pl.col("time").n_unique()
    )
    assert requests.select(pl.exclude("request_id")).unique().rows() == [(3, 1, 1)]
    assert set(log["time"]) == {datetime(2021, 1, day, 12) for day in (1, 2, 3)}


def test_lists_of_news_are_requests_and_histories_are_orders_of_the_day_before(
    tmp_path: Path,
) -> None:
    tables = tables_of(loaded("mind", tmp_path))
    log = tables.impressions.collect()
    orders = tables.orders.collect()
    requests = log.group_by("request_id").agg(pl.len(), pl.col("click").cast(pl.Int64).sum())
    assert requests.select("len", "click").unique().rows() == [(4, 1)]
    assert set(log.filter(split="test")["time"].dt.day()) == {13}
    first = log.filter(user_id="U3")["time"].min()
    assert first == datetime(2019, 11, 10, 16, 36, 57)
    assert set(orders.filter(user_id="U3").rows()) == {
        ("U3", f"N{number}", first - timedelta(days=1)) for number in (6, 7)
    }
    assert tables.places.collect().height == NEWS


def test_a_persona_lists_the_entities_that_others_read_about_less_first(tmp_path: Path) -> None:
    config = loaded("mind", tmp_path)
    prepare(config)
    texts = pl.read_parquet(config.output / "prepare" / "texts.parquet")
    personas = texts.filter(keyword="persona")["text"].to_list()
    assert "interested in Club 6 FC, Club 7 FC, Cup" in personas
