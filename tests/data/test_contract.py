"""Rows that break the data contract are rejected with a reason; values are converted."""

from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import polars as pl
import pytest

from larr.config import Config
from larr.data.checks import Checked, Checks
from larr.data.rejected import check_required
from larr.data.values import plain
from larr.errors import DataError

NOW = datetime(2024, 5, 1)
KNOWN = {"poi_id": pl.Series(["p1", "p2"]), "user_id": pl.Series(["u1"])}
REJECTED = {"poi_id": pl.Series(["p3"])}
GOOD = {
    "request_id": "r1",
    "user_id": "u1",
    "poi_id": "p1",
    "time": datetime(2024, 4, 1),
    "click": True,
    "order": False,
}


def check(table: str, rows: pl.DataFrame, **settings: object) -> Checked:
    """Checks some rows; `settings` are those of [dataset.tables] and [features]."""
    tables = {name: settings.pop(name) for name in ("time_zone", "naive_times") if name in settings}
    config = Config.model_validate({"dataset": {"tables": tables}, "features": settings})
    plain_rows = plain(rows.lazy(), table).collect()
    return Checks(config, KNOWN, REJECTED, NOW).check(table, plain_rows)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"poi_id": "p9"}, "unknown poi_id"),
        ({"user_id": None}, "user_id is missing"),
        ({"user_id": " "}, "user_id is missing"),
        ({"user_id": "NULL"}, "user_id is missing"),
        ({"poi_id": "p3"}, "poi_id of a rejected row of places or users"),
        ({"click": False, "order": True}, "order without a click"),
        ({"time": datetime(2025, 1, 1)}, "time in the future"),
        ({"time": 20240408}, "time before 1980"),
        ({"time": None}, "time is missing"),
        ({"time": "04/05/2024 12:00:00"}, "time cannot be read"),
        ({"time": "noon"}, "time cannot be read"),
        ({"click": None}, "click is missing"),
        ({"click": "perhaps"}, "click cannot be read"),
        ({"position": 0}, "position is below its range (min 1)"),
        ({"probability_click": 1.5}, "probability_click is above its range (max 1)"),
    ],
)
def test_a_broken_impression_is_rejected_with_its_reason(
    change: dict[str, object], reason: str
) -> None:
    rows = pl.DataFrame([GOOD | {"lat": 30.0, "position": 1, "probability_click": 0.1} | change])
    good, rejected, *_ = check("impressions", rows)
    assert good.height == 0
    assert rejected["reason"].to_list() == [reason]
    assert rejected["columns"].to_list() == [[*change][-1:]]


def test_the_first_of_duplicate_keys_is_kept() -> None:
    rows = pl.DataFrame([GOOD, GOOD | {"click": False}, GOOD | {"poi_id": "p2"}])
    good, rejected, *_ = check("impressions", rows)
    assert good["poi_id"].to_list() == ["p1", "p2"]
    assert good["click"].to_list() == [True, True]
    assert rejected["reason"].to_list() == ["duplicate key request_id + poi_id"]


def test_other_columns_are_kept_with_nan_as_missing() -> None:
    rows = pl.DataFrame(
        {"poi_id": list("abc"), "name": ["n", "m", " "], "stars": [1.5, float("nan"), 2.0]}
        | {"chain": [" ", "x", "y"]}
    )
    good, rejected, *_ = check("places", rows)
    assert good.rows() == [("a", "n", None, 1.5), ("b", "m", "x", None)]
    assert good.columns == ["poi_id", "name", "chain", "stars"]
    assert rejected.rows() == [("name is missing", ["name"], "c", " ", 2.0, "y")]


def test_the_error_for_a_missing_column_explains_renaming() -> None:
    with pytest.raises(DataError, match=r"no column name.*dataset\.tables\.rename\.places"):
        check_required("places", ["poi_id", "title"])


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
        ([1_711_944_600.0], "Asia/Shanghai"),
        (["1711944600"], "Asia/Shanghai"),
        (["1711973400000000"], ""),
        (["1711973400.0"], ""),
        ([datetime(2024, 4, 1, 4, 10, tzinfo=ZoneInfo("UTC"))], "Asia/Shanghai"),
    ],
)
def test_times_are_converted_to_local_time(times: list[object], zone: str) -> None:
    rows = pl.DataFrame([GOOD]).with_columns(time=pl.Series(times))
    good = check("impressions", rows, time_zone=zone).good
    assert good["time"].to_list() == [datetime(2024, 4, 1, 12, 10)]


NAIVE = pl.Series([datetime(2024, 4, 1, 12, 10)])


@pytest.mark.parametrize(
    "times", [NAIVE, NAIVE.cast(pl.Datetime("ns")), NAIVE.dt.to_string("%Y-%m-%d %H:%M")]
)
def test_times_without_an_offset_need_a_setting_if_there_is_a_zone(times: pl.Series) -> None:
    rows = pl.DataFrame([GOOD]).with_columns(time=times)
    with pytest.raises(DataError, match=r"2024-04-01 12:10.* has no offset .*naive_times"):
        check("impressions", rows, time_zone="Asia/Shanghai")
    for naive_times, hour in (("local", 12), ("utc", 20)):
        checked = check("impressions", rows, time_zone="Asia/Shanghai", naive_times=naive_times)
        assert checked.good["time"].to_list() == [datetime(2024, 4, 1, hour, 10)]


def test_a_date_is_the_same_in_every_zone() -> None:
    for dates in (NAIVE.dt.date(), NAIVE.dt.to_string("%Y-%m-%d")):
        rows = pl.DataFrame([GOOD]).with_columns(time=dates)
        good = check("impressions", rows, time_zone="Asia/Shanghai", naive_times="utc").good
        assert good["time"].to_list() == [datetime(2024, 4, 1)]


@pytest.mark.parametrize("as_text", [False, True])
@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        ("lat", 200.0, "lat is above its range (max 90)"),
        ("lon", -181.0, "lon is below its range (min -180)"),
        ("temperature_c", 75.0, "temperature_c is above its range (max 70)"),
    ],
)
def test_an_invalid_optional_value_becomes_missing(
    column: str, value: float, reason: str, *, as_text: bool
) -> None:
    rows = pl.DataFrame([GOOD | {column: value}, GOOD | {"poi_id": "p2", column: 20.0}])
    rows = rows.with_columns(pl.col(column).cast(pl.String)) if as_text else rows
    checked = check("impressions", rows)
    assert checked.good[column].to_list() == [None, 20.0]
    kept = ("r1", "p1", column, str(value), reason)
    assert checked.blanked.select("request_id", "poi_id", "column", "value", "reason").rows() == [
        kept
    ]
    assert not checked.rejected.height


@pytest.mark.parametrize("zone", ["", "America/Chicago"])
def test_a_year_is_not_the_start_of_a_place(zone: str) -> None:
    starts = ["2019", "2019-05-01", "yesterday"]
    places = pl.DataFrame({"poi_id": ["a", "b", "c"], "name": "x", "since": starts})
    checked = check("places", places, time_zone=zone)
    years = check("places", places.with_columns(since=pl.Series([2019.0, 2020.0, None])))
    assert years.good["since"].null_count() == 3
    assert checked.good["since"].to_list() == [None, datetime(2019, 5, 1), None]
    assert {*checked.blanked["reason"]} == {
        "since is a year; write a date such as 2019-07-01",
        "since cannot be read",
    }


def test_invalid_values_of_rejected_rows_are_not_counted() -> None:
    checked = check("impressions", pl.DataFrame([GOOD | {"lat": 200.0, "poi_id": "p9"}]))
    assert (checked.blanked.height, checked.rejected.height) == (0, 1)


@pytest.mark.parametrize("dtype", [pl.Float64, pl.Float32, pl.String])
def test_markers_of_missing_numbers_are_missing(dtype: type[pl.DataType]) -> None:
    numbers = pl.Series([float("nan"), None, 7.5])
    rows = pl.DataFrame({"poi_id": list("abc"), "name": "n", "rating": numbers, "own": numbers})
    checked = check("places", rows.cast({"rating": dtype, "own": dtype}), numbers=["poi_own"])
    assert checked.good.select("rating", "own").rows() == [(None, None), (None, None), (7.5, 7.5)]
    assert not checked.blanked.height + checked.rejected.height


WORDS = ["-", "N/A", "None", "null", r"\N", "nan", "NA", "#N/A", "<NA>", " NULL "]


def test_markers_of_missing_values_are_counted() -> None:
    rows = pl.DataFrame(
        {"poi_id": [f"p{n}" for n in range(len(WORDS) + 1)], "name": "n"}
        | {name: [*WORDS, "4"] for name in ("rating", "tags", "count", "stars")}
    )
    checked = check("places", rows, numbers=["poi_stars"])
    last = checked.good[-1].select("rating", "tags", "count", "stars")
    assert last.row(0) == (4.0, "4", "4", 4.0)
    for column in ("rating", "tags", "count", "stars"):
        assert checked.good[column].null_count() == len(WORDS)
        assert [checked.markers[column, word.strip()] for word in WORDS] == [1] * len(WORDS)
    assert not checked.blanked.height


def test_an_invalid_number_in_another_column_is_missing() -> None:
    own = ["3", " 4.5 ", "TRUE", "cheap", "1e3"]
    rows = pl.DataFrame([GOOD | {"request_id": str(n), "fee": fee} for n, fee in enumerate(own)])
    checked = check("impressions", rows, numbers=["fee"])
    assert checked.good["fee"].to_list() == [3.0, 4.5, 1.0, None, 1000.0]
    assert checked.blanked.select("value", "reason").rows() == [("cheap", "fee is not a number")]
    assert check("impressions", rows).good["fee"].to_list() == own


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        (pl.Series([2**24 - 1], dtype=pl.Float32), "16777215"),
        (pl.Series([2.0**53 - 1]), "9007199254740991"),
        (pl.Series([2**64 - 1], dtype=pl.UInt64), "18446744073709551615"),
        (pl.Series([7], dtype=pl.Int8), "7"),
        (pl.Series([10**30], dtype=pl.Decimal(38, 0)), "1" + "0" * 30),
        (pl.Series([2**100], dtype=pl.Int128), str(2**100)),
        (pl.Series(["u1"], dtype=pl.Categorical), "u1"),
        (pl.Series(["1e3"]), "1e3"),
        (pl.Series(["9e+05"]), "900000"),
        (pl.Series(["4.0128e+10"]), "40128000000"),
    ],
)
def test_ids_of_any_type_are_texts(ids: pl.Series, expected: str) -> None:
    assert check("users", ids.alias("user_id").to_frame()).good["user_id"].to_list() == [expected]


@pytest.mark.parametrize(
    "ids",
    [
        pl.Series([2**24], dtype=pl.Float32),
        pl.Series([1.0, None, -(2.0**53)]),
        pl.Series(["4.0", "9007199254740992.0"]),
        pl.Series(["1.23457E+15"]),
        pl.Series(["1.23457e+11"]),
        pl.Series(["1e+16"]),
    ],
)
def test_ids_rounded_to_floats_are_refused(ids: pl.Series) -> None:
    with pytest.raises(DataError, match=r"table users: user_id holds floats.*Export the column as"):
        check("users", ids.alias("user_id").to_frame())
    if ids.dtype != pl.String:
        rows = pl.DataFrame({"user_id": [f"u{n}" for n in range(len(ids))], "club": ids})
        with pytest.raises(DataError, match="table users: club holds floats"):
            check("users", rows, categories=["user_club"])
        assert check("users", rows).good.height == len(ids)


@pytest.mark.parametrize(
    ("clicks", "good", "reasons"),
    [
        (["yes", "F", "1.0", "0"], [True, False, True, False], []),
        ([1.0, 2.0, 0.5, None], [True, True], ["click cannot be read", "click is missing"]),
        ([3, 0, -1, 1], [True, False, True], ["click cannot be read"]),
        (["3", "0", "-1", "NULL"], [True, False], ["click cannot be read", "click is missing"]),
    ],
)
def test_a_label_may_be_a_word_or_a_count(
    clicks: list[object], good: list[bool], reasons: list[str]
) -> None:
    rows = pl.DataFrame([GOOD | {"request_id": str(i)} for i in range(4)])
    labelled, rejected, *_ = check("impressions", rows.with_columns(click=pl.Series(clicks)))
    assert labelled["click"].to_list() == good
    assert rejected["reason"].to_list() == reasons


MANY = {
    "code": (pl.Series(["a", " "], dtype=pl.Categorical), ["a", None]),
    "mood": (pl.Series(["a", "b"], dtype=pl.Enum(["b", "a"])), ["a", "b"]),
    "fee": (pl.Series(["5.40", "6"], dtype=pl.Decimal(10, 2)), [5.4, 6.0]),
    "serial": (pl.Series([10**20, 1], dtype=pl.Decimal(38, 0)), ["1" + "0" * 20, "1"]),
    "day_of": (pl.Series([datetime(2024, 4, 1)] * 2).dt.date(), ["2024-04-01"] * 2),
    "renewed": (pl.Series([datetime(2024, 4, 1, 9, 5)] * 2), ["2024-04-01T09:05:00"] * 2),
    "opens": (pl.Series([datetime(2024, 4, 1, 9, 5)] * 2).dt.time(), ["09:05:00"] * 2),
    "waited": (pl.Series([timedelta(minutes=1, milliseconds=500), None]), [60.5, None]),
    "share": (pl.Series([5.4, float("inf")], dtype=pl.Float32), [5.4, None]),
    "words": (pl.Series([["hot, mild", "new"], []]), ["hot; mild, new", None]),
    "shelves": (pl.Series([[3, None, 4], [1, 2, 3]], dtype=pl.List(pl.Int8)), ["3, 4", "1, 2, 3"]),
    "pair": (pl.Series([[1, 2], [3, 4]], dtype=pl.Array(pl.Int64, 2)), ["1, 2", "3, 4"]),
    "none": (pl.Series([None, None]), [None, None]),
    "bytes": (pl.Series(["é".encode(), b"\xff\x00"]), ["é", "ff00"]),
    "spots": (pl.Series([{"a": 1}, None]), [{"a": 1}, None]),
}


def test_other_columns_hold_json_types() -> None:
    rows = pl.DataFrame({"poi_id": ["a", "b"], "name": "n"})
    rows = rows.with_columns(values.alias(name) for name, (values, _) in MANY.items())
    good = check("places", rows).good
    assert {name: good[name].to_list() for name in MANY} == {n: v for n, (_, v) in MANY.items()}


@pytest.mark.parametrize("dtype", [pl.Categorical, pl.Enum(["1", "0", "3", " "])])
def test_categorical_labels_and_numbers_are_read(dtype: pl.DataType) -> None:
    rows = pl.DataFrame([GOOD | {"request_id": str(n)} for n in range(3)])
    encoded = pl.Series(["3", "0", " "], dtype=dtype)
    rows = rows.with_columns(click=encoded, lat=encoded, position=pl.Series(["3", "1", " "]))
    checked = check("impressions", rows)
    assert checked.good.select("click", "lat", "position").rows() == [
        (True, 3.0, 3),
        (False, 0.0, 1),
    ]
    assert checked.rejected["reason"].to_list() == ["click is missing"]


@pytest.mark.parametrize(
    ("column", "values"),
    [("click", [{"a": 1}]), ("lat", [[1.5]])],
)
def test_nested_columns_of_the_contract_are_refused(column: str, values: list[object]) -> None:
    rows = pl.DataFrame([GOOD]).with_columns(pl.Series(column, values))
    with pytest.raises(DataError, match=f"table impressions: column {column} holds"):
        check("impressions", rows)


def test_lists_of_texts_are_tags() -> None:
    rows = pl.DataFrame({"poi_id": ["a"], "name": "n", "tags": [["hot", "new"]]})
    assert check("places", rows).good["tags"].to_list() == ["hot, new"]
