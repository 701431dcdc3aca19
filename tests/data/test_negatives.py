"""Negatives are sampled for logs in which every row is a click."""

from datetime import datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from larr.data.datasets import own_tables
from larr.data.log import Log, check_tables
from larr.errors import LarrError
from tests.own_tables import own_config, write_own

DAYS, PLACES = 8, 30
NOON = datetime(2024, 4, 1, 12)
CLICKS = pl.DataFrame(
    {
        "user_id": [f"u{n % 7}" for n in range(20 * DAYS)],
        "poi_id": [f"p{(n * n + n // 20) % (PLACES - 9 + n // 20)}" for n in range(20 * DAYS)],
        "time": [str(NOON + timedelta(days=n // 20, seconds=n // 2)) for n in range(20 * DAYS)],
        "city": ["Bonn" if n % 3 else "Ulm" for n in range(20 * DAYS)],
    }
)
SHOPS = pl.DataFrame({"id": [f"p{n}" for n in range(PLACES)]}).with_columns(
    title="id", city=pl.Series(["Bonn", "Ulm"] * (PLACES // 2))
)


def sampled(
    folder: Path, *settings: str, clicks: pl.DataFrame = CLICKS, places: pl.DataFrame = SHOPS
) -> Log:
    folder.mkdir(exist_ok=True)
    users = pl.DataFrame({"user_id": [f"u{n}" for n in range(7)]})
    overrides = write_own(folder, places=places, users=users, impressions=clicks)
    config = own_config(folder, [*overrides, "features.candidate_columns=[]", *settings])
    (folder / "work").mkdir()
    return check_tables(config, own_tables(config, folder / "work"), folder / "work")


def test_each_request_gets_unclicked_places(tmp_path: Path) -> None:
    log = sampled(tmp_path, "dataset.negatives.per_request=3")
    rows = log.scan().collect()
    assert rows.filter("click").height == CLICKS.height
    assert rows.group_by("request_id", "poi_id").len()["len"].max() == 1
    added = rows.group_by("request_id").agg(pl.col("click").not_().sum())["click"]
    assert added.max() == 3
    assert added.mean() > 2.5
    assert rows["request_id"].rle_id().n_unique() == rows["request_id"].n_unique()
    clicked, drawn = rows.filter("click"), rows.filter(~pl.col("click"))
    known = clicked.filter(split="train")["poi_id"].unique()
    assert drawn.filter(split="train")["poi_id"].is_in(known.implode()).all()
    assert 0 < (log.sampled_share or 0) < 1


def test_places_are_available_before_and_after_their_clicks_as_long_as_between_them(
    tmp_path: Path,
) -> None:
    """Otherwise rows of a place that is rare and new would all be clicked."""
    days = {"often": [*range(DAYS)] * 20, "rare": [4], "some": [4, 6]}
    days |= {"dish": [3] * 40, "pie": [5] * 40}
    clicks = pl.DataFrame(
        [
            {"poi_id": place, "user_id": f"u{n % 7}", "time": str(NOON + timedelta(day, n))}
            for place, all_days in days.items()
            for n, day in enumerate(all_days)
        ]
    ).with_columns(city=pl.lit("Bonn"))
    places = pl.DataFrame({"id": [*days], "title": [*days], "city": "Bonn"})
    log = sampled(tmp_path, "dataset.negatives.per_request=3", clicks=clicks, places=places)
    drawn = log.scan().filter(~pl.col("click")).collect()
    after = (pl.col("day") - NOON.date()).dt.total_days()
    of_place = drawn.group_by("poi_id").agg(after.unique().sort())
    assert dict(of_place.iter_rows()) == {
        "often": [3, 4, 5, 6],
        "rare": [*range(1, DAYS)],  # as long before and after as others on average: 3.3 days
        "some": [*range(2, DAYS)],
        "dish": [3],
        "pie": [5],
    }


def test_places_are_available_from_their_start(tmp_path: Path) -> None:
    starts = [NOON + timedelta(days=n / 6) if n % 2 else None for n in range(PLACES)]
    places = SHOPS.with_columns(since=pl.Series(starts))
    log = sampled(tmp_path, "dataset.negatives.per_request=3", places=places)
    drawn = log.scan().filter(~pl.col("click")).collect()
    drawn = drawn.join(places, left_on="poi_id", right_on="id").drop_nulls("since")
    assert (drawn["since"] <= drawn["time"]).all()
    clicked = log.scan().filter("click").group_by("poi_id").agg(pl.col("time").min()).collect()
    first = drawn.join(clicked, on="poi_id", suffix="_of_click")
    assert (first["time"] < first["time_of_click"]).any()


def test_negatives_depend_only_on_the_request(tmp_path: Path) -> None:
    first = sampled(tmp_path / "a", "dataset.negatives.per_request=2")
    second = sampled(tmp_path / "b", "dataset.negatives.per_request=2", "dataset.chunk_rows=7")
    columns = ["request_id", "poi_id", "click"]
    frames = [log.scan().select(columns).collect().sort(columns) for log in (first, second)]
    assert frames[0].equals(frames[1])


def test_negatives_within_a_group_exclude_places_of_the_user(tmp_path: Path) -> None:
    log = sampled(
        tmp_path,
        "dataset.negatives={within=['city'], not_taken_in=['user_id']}",
        "dataset.tables.rename.places={poi_id='id', name='title'}",
    )
    drawn = log.scan().filter(~pl.col("click")).collect()
    cities = drawn.join(SHOPS, left_on="poi_id", right_on="id", suffix="_of_place")
    assert (cities["city"] == cities["city_of_place"]).all()
    took = drawn.join(CLICKS, on=["user_id", "poi_id"], how="semi")
    assert took.is_empty()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            ["dataset.negatives={within=['place']}"],
            "no column place; expected some of poi_id, city",
        ),
        (["dataset.negatives={not_taken_in=['x']}"], "not_taken_in: no column x"),
        (["dataset.negatives={}", "features.candidate_columns=['city']"], "city is unknown for"),
        ([], r"no column click.*\[dataset\.negatives\]"),
    ],
)
def test_an_invalid_sampling_is_refused(tmp_path: Path, settings: list[str], message: str) -> None:
    with pytest.raises(LarrError, match=message):
        sampled(tmp_path, *settings)


@pytest.mark.parametrize("key", ["user_id", "poi_id", "request_id"])
def test_a_log_can_be_split_by_ids(tmp_path: Path, key: str) -> None:
    clicks = CLICKS.with_columns(click=pl.Series([n % 2 for n in range(CLICKS.height)]))
    rows = sampled(tmp_path, f"dataset.split_by={key}", "dataset.test_share=0.3", clicks=clicks)
    splits = rows.scan().group_by(key).agg(pl.col("split").n_unique()).collect()["split"]
    assert splits.max() == 1
    assert not rows.is_split_by_time


def test_the_last_share_of_the_rows_can_be_tested(tmp_path: Path) -> None:
    clicks = CLICKS.with_columns(click=pl.Series([n % 2 for n in range(CLICKS.height)]))
    rows = sampled(tmp_path, "dataset.test_share=0.25", clicks=clicks).scan().collect()
    assert rows["split"].to_list() == ["train"] * 120 + ["test"] * 40


def test_users_of_a_log_without_times_get_days(tmp_path: Path) -> None:
    """Statistics count earlier days of other users, as for test users."""
    clicks = CLICKS.drop("time").with_columns(click=pl.Series([n % 2 for n in range(160)]))
    settings = ("features.categories=['user_id','poi_id']", "dataset.test_share=0.5")
    log = sampled(tmp_path, *settings, clicks=clicks)
    rows = log.scan().collect()
    by_user = rows.group_by("user_id").agg(
        pl.col("day", "split").n_unique(), last=pl.col("day").max()
    )
    assert by_user["day"].max() == by_user["split"].max() == 1
    assert rows.filter(split="test")["day"].min() > rows.filter(split="train")["day"].max()
    assert not log.is_dated
