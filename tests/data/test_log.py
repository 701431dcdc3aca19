"""The checked log: rejected rows, the split, and logs that are refused."""

import shutil
from contextlib import nullcontext
from datetime import date
from pathlib import Path

import polars as pl
import pytest

from larr.data.datasets import own_tables
from larr.data.log import Log, check_sampling, check_tables
from larr.errors import DataError
from tests.own_tables import TABLES, WITH_DUPLICATE, own_config, write_own


def checked(folder: Path, *settings: str, **tables: pl.DataFrame) -> Log:
    """Returns the log of `TABLES` with changes, checked in `folder/work`."""
    config = own_config(folder, [*write_own(folder, **tables), *settings])
    work = folder / "work"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    return check_tables(config, own_tables(config, work), work)


def test_rejected_rows_are_kept_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A given column `reason` is kept as well."""
    places = pl.DataFrame({"id": ["p1", "p2", "p2"], "title": ["Noodles", "Tea", "Tee"]})
    log = checked(tmp_path, places=places.with_columns(reason=pl.lit("mine")))
    kept = pl.read_parquet(tmp_path / "work" / "rejected" / "places-00000.parquet")
    assert kept.select("reason", "name", "reason_given").rows() == [
        ("duplicate key poi_id", "Tee", "mine")
    ]
    assert kept["columns"].to_list() == [["poi_id"]]
    assert log.rejected == [
        {
            "table": "places",
            "reason": "duplicate key poi_id",
            "columns": ["poi_id"],
            "rows": 1,
            "examples": [{"poi_id": "p2", "name": "Tee"}],
        }
    ]
    printed = " ".join(capsys.readouterr().err.split())
    assert "duplicate key poi_id" in printed
    assert f"kept in {tmp_path}" in printed.replace(" /", "/").replace("in/", "in /")


def test_rejected_rows_can_stop_the_run(tmp_path: Path) -> None:
    places = pl.DataFrame({"id": ["p1", "p2", "p2"], "title": ["Noodles", "Tea", "Tee"]})
    with pytest.raises(DataError, match="1 rows and 0 single values break the data contract"):
        checked(tmp_path, "dataset.bad_rows=stop", places=places)


def test_rows_of_a_rejected_place_are_counted_as_such(tmp_path: Path) -> None:
    places = pl.DataFrame({"id": ["p1", "p2", "p3"], "title": ["Noodles", "Tea", None]})
    rows = [TABLES["impressions"].with_columns(pl.col("request_id") + end) for end in "xyz"]
    rows[0] = rows[0].with_columns(pl.col("poi_id").replace("p2", "p3"))
    log = checked(tmp_path, places=places, impressions=pl.concat(rows))
    assert {group["reason"]: group["rows"] for group in log.rejected} == {
        "name is missing": 1,
        "poi_id of a rejected row of places or users": 2,
    }


def test_invalid_values_become_missing_and_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ratings = pl.DataFrame({"rating": ["12", "-3"], "tags": ["NULL", "hot"]})
    places = pl.concat([TABLES["places"], ratings], how="horizontal")
    log = checked(tmp_path, places=places)
    assert log.places["poi_rating"].to_list() == [12.0, None]
    assert log.places["poi_tags"].to_list() == [None, "hot"]
    assert log.rejected == []
    reason = "rating is below its range (min 0)"
    word = {
        "column": "tags",
        "reason": "NULL is a word for a missing value (dataset.missing)",
        "examples": [],
    }
    bad = {"column": "rating", "reason": reason, "examples": ["-3"]}
    assert [*log.blanked] == [{"table": "places", "cells": 1} | group for group in (word, bad)]
    kept = pl.read_parquet(tmp_path / "work" / "rejected" / "places-00000-values.parquet")
    assert kept.rows() == [("p2", "Tea", "rating", "-3", reason)]
    printed = " ".join(capsys.readouterr().err.split())
    assert "NULL is a word for a missing value" in printed
    assert "50% of the values of rating are invalid" in printed
    with pytest.raises(DataError, match="0 rows and 1 single values break"):
        checked(tmp_path, "output=b", "dataset.bad_rows=stop", places=places)


def test_a_numeric_feature_of_texts_is_refused(tmp_path: Path) -> None:
    rows = TABLES["impressions"].with_columns(mood=pl.Series(["glad", "sad", "glad", "1"]))
    with pytest.raises(DataError, match="75% of the values of mood are invalid"):
        checked(tmp_path, "features.numbers=['mood']", impressions=rows)


@pytest.mark.parametrize(
    ("table", "frame", "message"),
    [
        ("users", pl.DataFrame({"id": [1]}), "table users: no column user_id"),
        ("impressions", pl.DataFrame({"request_id": []}), "table impressions: no column"),
        ("impressions", TABLES["impressions"].cast(pl.String).clear(), "it has no valid rows"),
        (
            "places",
            TABLES["places"].with_columns(poi_name=pl.lit("x")),
            "duplicate columns poi_name",
        ),
    ],
)
def test_an_incomplete_table_is_refused(
    tmp_path: Path, table: str, frame: pl.DataFrame, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        checked(tmp_path, **{table: frame})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"click": [0, 0, 0, 0, 0]}, "click is false in all training rows"),
        ({"order": [0, 0, 0, 0, 0]}, "without a column order"),
        ({"user_id": [1, 1, 7, 7, 7]}, "3 of 5 rows break"),
        ({"click": [1, 0, -1, 0, 0]}, "click cannot be read in 1 of 5 rows.* number of clicks"),
        ({"position": [0, 1, 0, 1, 0]}, "position is below its range .* expected 1 for the place"),
        ({"split": ["test"] * 5}, "0 training rows and 4 test rows"),
    ],
)
def test_a_log_without_training_signal_is_refused(
    tmp_path: Path, changes: dict[str, list[int]], message: str
) -> None:
    log = WITH_DUPLICATE.with_columns(pl.Series(name, values) for name, values in changes.items())
    with pytest.raises(DataError, match=message):
        checked(tmp_path, impressions=log)


def test_keys_are_unique_across_chunks(tmp_path: Path) -> None:
    log = checked(tmp_path, "dataset.chunk_rows=2", impressions=WITH_DUPLICATE)
    assert log.scan().collect()["click"].to_list() == [True, False, False, True]
    kept = tmp_path / "work" / "rejected" / "impressions-00001-repeated.parquet"
    assert pl.read_parquet(kept)["reason"].to_list() == ["duplicate key request_id + poi_id"]


def test_ids_of_a_column_with_gaps_are_integers(tmp_path: Path) -> None:
    impressions = WITH_DUPLICATE.with_columns(pl.col("user_id").cast(pl.Float64))
    log = checked(tmp_path, impressions=impressions, users=pl.DataFrame({"user_id": [1.0, 2.0]}))
    assert log.scan().collect()["user_id"].to_list() == ["1", "1", "2", "1"]


@pytest.mark.parametrize("splits", [None, ["test", "train", "test", "train"]])
def test_the_last_days_are_the_test_set_unless_the_log_has_a_split(
    tmp_path: Path, splits: list[str] | None, capsys: pytest.CaptureFixture[str]
) -> None:
    impressions = TABLES["impressions"].with_columns(
        [pl.Series("split", splits)] if splits else [], click=pl.Series([1, 1, 0, 0])
    )
    log = checked(tmp_path, impressions=impressions)
    expected = splits or ["train", "train", "train", "test"]
    assert log.scan().collect()["split"].to_list() == expected
    chunks = [chunk["split"].to_list() for chunk in log.chunks("test")]
    assert chunks == [["test"] * expected.count("test")]
    printed = capsys.readouterr().err
    assert f"{expected.count('train')} rows of 2024-04-01 to" in printed
    assert "midnight" not in printed


def test_orders_in_the_log_or_after_it_are_ignored(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A table of orders often overlaps with the log; no order counts twice or too early."""
    impressions = TABLES["impressions"].with_columns(order=pl.Series([1, 0, 0, 0]))
    orders = pl.DataFrame(
        {
            "user_id": [1, 1, 2, 2],
            "poi_id": ["p1", "p1", "p2", "p2"],
            "time": [f"2024-{day} 12:00:00" for day in ("03-30", "04-01", "04-02", "04-03")],
        }
    )
    log = checked(tmp_path, impressions=impressions, orders=orders)
    assert log.tasks == ["click", "order"]
    assert log.history.select("user_id", "poi_id", "day").rows() == [
        ("1", "p1", date(2024, 3, 30)),
        ("2", "p2", date(2024, 4, 2)),
    ]
    assert "orders: 2 ignored" in capsys.readouterr().err


def test_a_replaced_column_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = TABLES["impressions"].with_columns(season=pl.lit("monsoon"))
    assert "monsoon" not in checked(tmp_path, impressions=rows).scan().collect()["season"]
    assert "season will be computed from the time" in capsys.readouterr().err


def test_times_that_may_be_dates_are_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checked(tmp_path, impressions=WITH_DUPLICATE.with_columns(pl.col("time").str.head(10)))
    assert "100% of the times are exactly midnight" in " ".join(capsys.readouterr().err.split())


def test_a_log_without_times_can_have_a_time_zone(tmp_path: Path) -> None:
    rows = TABLES["impressions"].drop("time").with_columns(user_id=pl.Series([1, 2, 1, 2]))
    log = checked(
        tmp_path,
        "dataset.tables.time_zone=Asia/Shanghai",
        "dataset.split_by=request_id",
        "dataset.test_share=0.5",
        impressions=pl.concat([rows, rows.with_columns(request_id="x" + pl.col("request_id"))]),
    )
    assert not log.is_dated


@pytest.mark.parametrize(("test_ctr", "is_good"), [(0.02, True), (0.4, False)])
def test_a_sampled_test_day_is_refused(test_ctr: float, *, is_good: bool) -> None:
    """A tenth of the unclicked training rows was kept, so the CTR of the test days is lower."""
    with nullcontext() if is_good else pytest.raises(DataError, match="Keep all impressions"):
        check_sampling(0.1, train_ctr=0.4, test_ctr=test_ctr)
