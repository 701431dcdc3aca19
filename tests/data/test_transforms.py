"""Both forms of each transform, for tables and for requests, have equal results."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from larr.config import Config
from larr.config.data import BucketConfig, KeywordConfig
from larr.data.snapshot import PAIR_FIGURES, Snapshot
from larr.data.transforms import (
    Levels,
    Scales,
    Template,
    TextIds,
    Vocabulary,
    text_column,
    text_value,
    time_columns,
    with_time_columns,
)

TEXTS = st.one_of(st.none(), st.text("ab ,;\t", max_size=6))
NUMBERS = st.one_of(
    st.none(), st.floats(), st.sampled_from([0.0, -0.0, 1.0, 5e-5, 1e16, 2.0**63, float("nan")])
)
TIMES = st.datetimes(datetime(2020, 1, 1), datetime(2030, 1, 1))
VALUES = {
    pl.String: st.text(max_size=4),
    pl.Int64: st.integers(-(2**63), 2**63 - 1),
    pl.Float64: NUMBERS.filter(lambda number: number is not None),
    pl.Boolean: st.booleans(),
    pl.Datetime("us"): TIMES,
}
COLUMNS = st.sampled_from(sorted(VALUES, key=str)).flatmap(
    lambda kind: st.lists(st.one_of(st.none(), VALUES[kind]), min_size=1, max_size=9).map(
        lambda values: pl.Series("x", values, dtype=kind)
    )
)


def template(text: str, owner: str = "poi") -> Template:
    view = "basic" if owner == "poi" else "action"
    return Template(KeywordConfig(name="k", owner=owner, view=view, template=text))


@given(values=COLUMNS)
def test_a_value_has_the_text_of_its_column(values: pl.Series) -> None:
    column = values.to_frame().select(text_column("x", values.dtype)).to_series()
    assert [None if value is None else text_value(value) for value in values] == column.to_list()


@given(values=COLUMNS, data=st.data())
def test_a_value_has_the_index_of_its_column(values: pl.Series, data: st.DataObject) -> None:
    texts = {text_value(value) for value in values if value is not None}
    known = data.draw(st.sets(st.sampled_from(sorted(texts or {""}))))
    vocabulary = Vocabulary(pl.Series(sorted(known), dtype=pl.String))
    indices = vocabulary.column(values).tolist()
    assert [vocabulary.value(value) for value in values] == indices
    assert {index > 0 for index, value in zip(indices, values, strict=True) if value is None} <= {
        False
    }


@given(lists=st.lists(st.lists(st.sampled_from("abcd"), max_size=4), min_size=1, max_size=5))
def test_recent_places_equal_those_of_a_table(lists: list[list[str]]) -> None:
    vocabulary = Vocabulary(pl.Series(["a", "b", "c"]))
    table_NL = vocabulary.padded_column(pl.Series(lists, dtype=pl.List(pl.String)), 3)
    for values, row_L in zip(lists, table_NL, strict=True):
        assert (vocabulary.padded_value(values, 3) == row_L).all()


@given(rows=st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=9))
def test_numbers_are_standardised_as_in_a_table(
    rows: list[tuple[float | None, float | None]],
) -> None:
    scales = Scales(("a", "b"), np.array([1.0, -2.0]), np.array([2.0, 1e-3]))
    frame = pl.DataFrame(rows, schema={"b": pl.Float64, "a": pl.Float64}, orient="row")
    table_NM = scales.column(frame)
    assert table_NM.dtype == np.float32
    assert np.isfinite(table_NM).all()
    assert np.abs(table_NM).max() <= 5
    for (b, a), row_M in zip(rows, table_NM, strict=True):
        assert (scales.value(np.array([a, b], np.float64)) == row_M).all()
    swapped = scales.select([1, 0])
    assert (swapped.column(frame) == table_NM[:, ::-1]).all()


@given(
    numbers=st.lists(NUMBERS, min_size=1, max_size=9),
    edges=st.lists(st.sampled_from([-1.0, 0.0, 1.0, 5e-5]), min_size=2, max_size=2),
)
def test_a_level_equals_that_of_a_table(numbers: list[float | None], edges: list[float]) -> None:
    bucket = BucketConfig(column="n", words=["low", "middle", "high"])
    levels = Levels(bucket, sorted(edges))
    frame = pl.DataFrame({"n": numbers}, schema={"n": pl.Float64})
    expected = [
        None if number is None or np.isnan(number) else bucket.words[sum(number > e for e in edges)]
        for number in numbers
    ]
    assert levels.column(frame).to_list() == expected
    assert [levels.value(number) for number in numbers] == expected
    positions = levels.positions(np.array(numbers, np.float64))
    assert [[*bucket.words, None][position] for position in positions] == expected


@given(
    text=st.sampled_from(["{a}", "x {a}[, {b}]", "[{a}, ]{b}; [z {a} {b}]", "[{a}][{b}] end"]),
    rows=st.lists(st.tuples(TEXTS, TEXTS, NUMBERS), min_size=1, max_size=9),
    with_number=st.booleans(),
)
def test_a_text_equals_that_of_a_table(
    text: str, rows: list[tuple[str | None, str | None, float | None]], *, with_number: bool
) -> None:
    keyword = template(text + ("[ {n}]" if with_number else ""))
    schema = {"a": pl.String, "b": pl.String, "n": pl.Float64}
    frame = pl.DataFrame(rows, schema=schema, orient="row")
    assert [keyword.value(row) for row in frame.iter_rows(named=True)] == keyword.column(
        frame
    ).to_list()


@given(times=st.lists(TIMES, min_size=1, max_size=5))
def test_time_columns_equal_those_of_a_table(times: list[datetime]) -> None:
    table = with_time_columns(pl.DataFrame({"time": times})).drop("time")
    assert [time_columns(time) for time in times] == table.to_dicts()


def snapshot(folder: Path) -> Snapshot:
    """Two users, one with a past, saved and loaded."""
    profiles = [
        {"name": "user_slot", "column": "tags", "within": "meal_slot"},
        {"name": "user_mood", "column": "tags", "within": "heat_level"},
    ]
    bucket = BucketConfig(column="heat", words=["cold", "hot"])
    orders = BucketConfig(column="user_log_orders", words=["few", "many"])
    config = Config.model_validate({"profiles": profiles, "buckets": [bucket, orders]})
    Snapshot(
        places=pl.DataFrame(
            {"poi_id": ["p", "q"], "poi_name": ["P", "Q"], "poi_log_orders": [1.0, 0.0]}
        ).with_columns(poi_log_impressions_per_day=0.5),
        users=pl.DataFrame(
            {"user_id": ["u", "v"], "user_gender": ["f", None], "user_log_orders": [2.0, 0.0]}
        ).with_columns(user_log_impressions_per_day=0.5),
        scene_profiles={
            "user_slot": pl.DataFrame(
                {"user_id": ["u", "u"], "meal_slot": ["lunch", "dinner"], "user_slot": ["x", "y"]}
            ),
            "user_mood": pl.DataFrame(
                {"user_id": ["u"], "heat_level": ["hot"], "user_mood": ["spicy"]}
            ),
        },
        pairs=pl.DataFrame(
            {"user_id": ["u"], "poi_id": ["p"], "pair_log_clicks": [1.5], "pair_log_orders": [0.5]}
        ),
        recent=pl.DataFrame({"user_id": ["u"], "recent": [["q", "p"]]}),
        levels=[Levels(bucket, [20.0]), Levels(orders, [1.0])],
    ).save(folder)
    return Snapshot.load(config, folder)


def test_columns_of_a_request_equal_those_of_its_rows(tmp_path: Path) -> None:
    day = snapshot(tmp_path / "known")
    random = np.random.default_rng(1)
    rows = pl.DataFrame(
        {
            "user_id": random.choice(["u", "v", "a new one"], 60),
            "poi_id": random.choice(["p", "q", "a new one"], 60),
            "time": [datetime(2024, 4, 1, hour) for hour in random.integers(0, 24, 60)],
            "heat": [[None, np.nan, 20.0, 30.0][at] for at in random.integers(0, 4, 60)],
        }
    )
    table = day.enrich(with_time_columns(rows))
    for row, expected in zip(rows.to_dicts(), table.to_dicts(), strict=True):
        values = day.of_request({name: row[name] for name in ("user_id", "time", "heat")})
        shared = [name for name in values if name in expected]
        assert str([values[name] for name in shared]) == str([expected[name] for name in shared])
        assert {"user_log_orders_level", "heat_level", "user_slot", "user_mood"} <= values.keys()
        figures_K2 = day.pair_figures(row["user_id"], [row["poi_id"]])
        assert figures_K2[0].tolist() == [expected[name] for name in PAIR_FIGURES]
        assert day.recent_places.get(row["user_id"], []) == (expected["recent"] or [])
        assert (row["user_id"] in day.user_rows) == (row["user_id"] in "uv")


def test_a_place_without_a_past_has_no_orders_and_no_level_of_its_rates(tmp_path: Path) -> None:
    day = snapshot(tmp_path / "known")
    described = day.describe_places(pl.DataFrame({"poi_id": ["new"], "poi_name": ["N"]}))
    assert described.row(0, named=True) == {
        "poi_id": "new",
        "poi_name": "N",
        "poi_log_orders": 0.0,
        "poi_log_impressions_per_day": 0.0,
    }


def test_users_are_described_in_each_situation(tmp_path: Path) -> None:
    users = snapshot(tmp_path / "known").describe_users(["user_slot"])
    assert users.select("user_id", "user_log_orders_level", "user_slot").rows() == [
        ("u", "many", "x"),
        ("u", "many", "y"),
        ("v", "few", None),
    ]


def test_a_part_in_brackets_is_omitted_if_a_column_is_missing() -> None:
    rows = pl.DataFrame({"poi_name": ["A", None, "C"], "poi_menu": ["x, y", "z", None]})
    texts = template("{poi_name}[: {poi_menu}]").column(rows)
    assert texts.to_list() == ["A: x, y", None, "C"]
    texts = template("[{poi_name}][; {poi_menu}]").column(rows)
    assert texts.to_list() == ["A; x, y", "z", "C"]


def test_a_text_without_content_is_missing() -> None:
    rows = pl.DataFrame({"poi_menu": [None, "  "]}, schema={"poi_menu": pl.String})
    assert template("[{poi_menu}]").column(rows).to_list() == [None, None]


def test_quantile_buckets_hold_equal_shares_and_missing_stays_missing() -> None:
    bucket = BucketConfig(column="x", words=["low", "middle", "high"])
    values = pl.Series("x", [*np.arange(300.0), None, np.nan])
    levels = Levels.fit(bucket, values).column(values.to_frame())
    counts = dict(levels.value_counts().iter_rows())
    assert abs(counts["low"] - 100) <= 1
    assert abs(counts["high"] - 100) <= 1
    assert levels[-2:].to_list() == [None, None]


def test_configured_edges_must_fit_the_words() -> None:
    bucket = BucketConfig(column="t", words=["cold", "warm"], edges=[10])
    rows = pl.DataFrame({"t": [10, 11]})
    assert Levels.fit(bucket, rows["t"]).column(rows).to_list() == ["cold", "warm"]
    with pytest.raises(ValidationError, match="need 2 ascending edges"):
        BucketConfig(column="t", words=["a", "b", "c"], edges=[1])


def test_equal_texts_of_a_keyword_share_a_number() -> None:
    numbers = TextIds()
    first = numbers.add(pl.Series("a", ["x", None, "y", "x"]))
    second = numbers.add(pl.Series("b", ["x"]))
    third = numbers.add(pl.Series("a", ["y", "z"]))
    assert (first.tolist(), second.tolist(), third.tolist()) == ([0, -1, 1, 0], [2], [1, 3])
    assert numbers.table().rows() == [(0, "a", "x"), (1, "a", "y"), (2, "b", "x"), (3, "a", "z")]


def test_numbers_are_looked_up_for_columns_and_values() -> None:
    written = TextIds()
    written.add(pl.Series("a", ["x", "y"]))
    numbers = TextIds(written.table())
    texts = pl.Series("a", ["y", None, "new", "x"])
    assert numbers.column(texts).tolist() == [1, -1, -1, 0]
    assert [numbers.value("a", text) for text in texts] == [1, -1, -1, 0]
    assert numbers.value("b", "x") == -1
    assert numbers.add_value("b", "x") == len(numbers) - 1 == 2
    assert numbers.text(2) == "x"
