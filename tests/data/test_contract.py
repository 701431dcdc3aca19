"""Each way to break the data contract is named, counted and shown with examples."""

from datetime import datetime

import polars as pl
import pytest

from larr.data.contract import check_columns, check_rows, summarise
from larr.errors import DataError

NOW = datetime(2024, 5, 1)
KNOWN = {"poi_id": pl.Series(["p1", "p2"]), "user_id": pl.Series(["u1"])}
GOOD = {
    "request_id": "r1",
    "user_id": "u1",
    "poi_id": "p1",
    "time": datetime(2024, 4, 1),
    "click": True,
    "order": False,
}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"poi_id": "p9"}, "unknown poi_id"),
        ({"user_id": None}, "user_id is missing"),
        ({"user_id": ""}, "unknown user_id; user_id is empty"),
        ({"click": False, "order": True}, "order without a click"),
        ({"time": datetime(2025, 1, 1)}, "time in the future"),
        ({"time": 20240408}, "time before 1980"),
        ({"time": None}, "time is missing"),
        ({"time": "04/05/2024 12:00:00"}, "time cannot be read"),
        ({"time": "noon"}, "time cannot be read"),
        ({"click": None}, "click is missing"),
        ({"lat": float("nan")}, "lat is above its range (max 90); lat is NaN"),
        ({"position": 0}, "position is below its range (min 1)"),
        ({"probability_click": 1.5}, "probability_click is above its range (max 1)"),
    ],
)
def test_a_broken_impression_is_rejected_with_its_reason(
    change: dict[str, object], reason: str
) -> None:
    rows = pl.DataFrame([GOOD | {"lat": 30.0, "position": 1, "probability_click": 0.1} | change])
    checked = check_rows("impressions", rows, KNOWN, NOW)
    assert checked.good.height == 0
    assert checked.rejected["reason"].to_list() == [reason]


def test_the_first_of_two_equal_keys_is_kept() -> None:
    rows = pl.DataFrame([GOOD, GOOD | {"click": False}, GOOD | {"poi_id": "p2"}])
    checked = check_rows("impressions", rows, KNOWN, NOW)
    assert checked.good["poi_id"].to_list() == ["p1", "p2"]
    assert checked.good["click"].to_list() == [True, True]
    assert checked.rejected["reason"].to_list() == ["duplicate key request_id + poi_id"]


def test_values_of_a_text_file_are_read_into_their_types() -> None:
    text = {"time": "2024-04-01 12:00:00", "click": "yes", "order": "0", "user_id": "u1"}
    rows = pl.DataFrame([GOOD | text, GOOD | text | {"request_id": "r2", "click": "perhaps"}])
    checked = check_rows("impressions", rows, KNOWN, NOW)
    assert checked.good.schema["time"] == pl.Datetime("us")
    assert checked.good["click"].to_list() == [True]
    assert checked.rejected["reason"].to_list() == ["click cannot be read"]


def test_columns_beyond_the_contract_are_kept() -> None:
    rows = pl.DataFrame({"poi_id": ["a", "b"], "name": ["n", " "], "stars": [1, 2]})
    checked = check_rows("places", rows, {}, NOW)
    assert checked.good.to_dicts() == [{"poi_id": "a", "name": "n", "stars": 1}]
    assert checked.rejected["stars"].to_list() == [2]
    assert checked.rejected["reason"].to_list() == ["name is empty"]


def test_a_number_of_ones_own_that_is_nan_is_missing() -> None:
    rows = pl.DataFrame({"poi_id": ["a", "b"], "name": ["n", "m"], "stars": [1.5, float("nan")]})
    assert check_rows("places", rows, {}, NOW).good["stars"].to_list() == [1.5, None]


def test_a_summary_counts_and_gives_three_examples() -> None:
    rows = pl.DataFrame({"poi_id": [f"p{i}" for i in range(5)], "name": [""] * 5})
    (row,) = summarise("places", check_rows("places", rows, {}, NOW).rejected)
    assert (row["table"], row["reason"], row["rows"]) == ("places", "name is empty", 5)
    assert [example["poi_id"] for example in row["examples"]] == ["p0", "p1", "p2"]


def test_a_missing_column_says_how_to_rename_one() -> None:
    with pytest.raises(DataError, match=r"no column name.*dataset\.tables\.rename\.places"):
        check_columns("places", ["poi_id", "title"])


@pytest.mark.parametrize(
    "time",
    [
        pl.Series(["2024-04-01T12:10:00+08:00"]),
        pl.Series(["2024-04-01 12:10:00Z"]),
        pl.Series(["2024-04-01 12:10:00"]),
        pl.Series([datetime(2024, 4, 1, 12, 10)]).dt.replace_time_zone("Asia/Shanghai"),
        pl.Series([1_711_973_400]),
        pl.Series([1_711_973_400_000.0]),
        pl.Series([1_711_973_400_000_000]),
        pl.Series([1_711_973_400_000_000_000]),
    ],
)
def test_a_time_is_what_the_clock_shows(time: pl.Series) -> None:
    rows = pl.DataFrame([GOOD]).with_columns(time=time)
    checked = check_rows("impressions", rows, KNOWN, NOW)
    assert checked.good["time"].to_list() == [datetime(2024, 4, 1, 12, 10)]


def test_labels_may_be_floats() -> None:
    given = (1.0, 2.0, 0.5, None)
    rows = pl.DataFrame([GOOD | {"request_id": str(one), "click": one} for one in given])
    checked = check_rows("impressions", rows, KNOWN, NOW)
    assert checked.good["click"].to_list() == [True, True], "two clicks are a click"
    assert checked.rejected["reason"].to_list() == ["click cannot be read", "click is missing"]
