"""Each way to break the data contract is named; other rows are read into their types."""

from datetime import datetime
from zoneinfo import ZoneInfo

import polars as pl
import pytest

from larr.data.checks import check_columns, check_rows
from larr.data.contract import SENTENCES, Rule, sentence
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


def check(table: str, rows: pl.DataFrame, zone: str = "") -> tuple[pl.DataFrame, pl.DataFrame]:
    return check_rows(table, rows, KNOWN, NOW, zone)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"poi_id": "p9"}, "unknown poi_id"),
        ({"user_id": None}, "user_id is missing"),
        ({"user_id": " "}, "user_id is empty; unknown user_id"),
        ({"click": False, "order": True}, "order without a click"),
        ({"time": datetime(2025, 1, 1)}, "time in the future"),
        ({"time": 20240408}, "time before 1980"),
        ({"time": None}, "time is missing"),
        ({"time": "04/05/2024 12:00:00"}, "time cannot be read"),
        ({"time": "noon"}, "time cannot be read"),
        ({"click": None}, "click is missing"),
        ({"click": "perhaps"}, "click cannot be read"),
        ({"lat": float("nan")}, "lat is above its range (max 90); lat is NaN"),
        ({"lat": float("-inf")}, "lat is below its range (min -90); lat is infinite"),
        ({"position": 0}, "position is below its range (min 1)"),
        ({"probability_click": 1.5}, "probability_click is above its range (max 1)"),
    ],
)
def test_a_broken_impression_is_rejected_with_its_reason(
    change: dict[str, object], reason: str
) -> None:
    rows = pl.DataFrame([GOOD | {"lat": 30.0, "position": 1, "probability_click": 0.1} | change])
    good, rejected = check("impressions", rows)
    assert good.height == 0
    assert rejected["reason"].to_list() == [reason]
    rules = [Rule(**rule) for rule in rejected["broken_rules"][0]]
    assert "; ".join(map(sentence, rules)) == reason


def test_every_kind_of_rule_has_a_sentence() -> None:
    for kind in SENTENCES:
        assert "poi" in sentence(Rule("poi", kind, 1.0))


def test_the_first_of_two_equal_keys_is_kept() -> None:
    rows = pl.DataFrame([GOOD, GOOD | {"click": False}, GOOD | {"poi_id": "p2"}])
    good, rejected = check("impressions", rows)
    assert good["poi_id"].to_list() == ["p1", "p2"]
    assert good["click"].to_list() == [True, True]
    assert rejected["reason"].to_list() == ["duplicate key request_id + poi_id"]


def test_columns_beyond_the_contract_are_kept_and_nan_is_missing_in_them() -> None:
    rows = pl.DataFrame(
        {"poi_id": list("abc"), "name": ["n", "m", " "], "stars": [1.5, float("nan"), 2.0]}
        | {"chain": [" ", "x", "y"]}
    )
    good, rejected = check("places", rows)
    assert good.rows() == [("a", "n", None, 1.5), ("b", "m", "x", None)]
    assert good.columns == ["poi_id", "name", "chain", "stars"]
    assert rejected.drop("broken_rules").rows() == [("name is empty", "c", " ", 2.0, "y")]


def test_a_missing_column_is_reported_with_how_to_rename_one() -> None:
    with pytest.raises(DataError, match=r"no column name.*dataset\.tables\.rename\.places"):
        check_columns("places", ["poi_id", "title"])


@pytest.mark.parametrize(
    ("times", "zone"),
    [
        (["2024-04-01T12:10:00+08:00"], ""),
        (["2024-04-01 12:10:00Z"], ""),
        (["2024-04-01 12:10:00"], ""),
        ([datetime(2024, 4, 1, 12, 10, tzinfo=ZoneInfo("Asia/Shanghai"))], ""),
        ([1_711_973_400], ""),
        ([1_711_973_400_000.0], ""),
        ([1_711_973_400_000_000], ""),
        ([1_711_973_400_000_000_000], ""),
        (["2024-04-01T04:10:00Z"], "Asia/Shanghai"),
        (["2024-04-01T00:10:00-0400"], "Asia/Shanghai"),
        (["2024-04-01 12:10+08:00"], "Asia/Shanghai"),
        (["2024-04-01 12:10:00"], "Asia/Shanghai"),
        ([1_711_944_600.0], "Asia/Shanghai"),
        ([datetime(2024, 4, 1, 4, 10, tzinfo=ZoneInfo("UTC"))], "Asia/Shanghai"),
    ],
)
def test_a_time_is_that_of_the_clock_in_the_zone(times: list[object], zone: str) -> None:
    good, _ = check("impressions", pl.DataFrame([GOOD]).with_columns(time=pl.Series(times)), zone)
    assert good["time"].to_list() == [datetime(2024, 4, 1, 12, 10)]


@pytest.mark.parametrize(
    ("clicks", "good", "reasons"),
    [
        (["yes", "F", "1.0", "0"], [True, False, True, False], []),
        ([1.0, 2.0, 0.5, None], [True, True], ["click cannot be read", "click is missing"]),
        ([3, 0, -1, 1], [True, False, True], ["click cannot be read"]),
    ],
)
def test_a_label_may_be_a_word_or_a_count(
    clicks: list[object], good: list[bool], reasons: list[str]
) -> None:
    rows = pl.DataFrame([GOOD | {"request_id": str(i)} for i in range(4)])
    labelled, rejected = check("impressions", rows.with_columns(click=pl.Series(clicks)))
    assert labelled["click"].to_list() == good
    assert rejected["reason"].to_list() == reasons
