"""A request read row by row has the inputs that `larr prepare` gave its rows in the log."""

from __future__ import annotations

from datetime import datetime

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from larr.config import Config
from larr.config.data import BucketConfig, KeywordConfig
from larr.data.keywords import level_one, parts, render, render_one, with_levels
from larr.data.time_columns import time_columns, with_time_columns
from larr.serve.features import Reader
from tests.serving import SENT, log

VALUES = st.one_of(st.none(), st.text("ab ,;\t", max_size=6))


@pytest.fixture(scope="module")
def reader(city: Config) -> Reader:
    return Reader(city, city.output / "prepare")


def test_declared_columns_and_their_levels_are_the_candidates(reader: Reader) -> None:
    names = [reader.names[column] for column in reader.categories.candidate]
    assert {"position", "distance_km_level"} <= set(names)
    numbers = [reader.features.numbers[column] for column in reader.numbers.candidate]
    assert {"distance_km", "delivery_minutes", "pair_log_clicks"} <= set(numbers)
    assert "temperature_c" not in numbers


def test_a_request_has_the_inputs_of_the_log(city: Config, reader: Reader) -> None:
    rows = log(city)
    arrays = {
        name: np.load(city.output / "prepare" / "test" / f"{name}.npy")
        for name in ("categories", "numbers", "recent", "texts")
    }
    categories_PF, numbers_PM, texts_PS = reader.place_inputs()
    place_slots = [n for n, one in enumerate(city.scene_keywords) if one.owner == "poi"]
    request_slots = [n for n in range(len(city.scene_keywords)) if n not in place_slots]
    start = 0
    for (_,), group in rows.group_by("request_id", maintain_order=True):
        part = slice(start, start + group.height)
        start += group.height
        scene = group.drop(*SENT, "request_id", "click", "order").row(0, named=True)
        asked = reader.request(scene)
        told = reader.candidates(scene["user_id"], group.select(SENT).to_dict(as_series=False))
        in_log = {name: array[part] for name, array in arrays.items()}
        assert (in_log["categories"][:, reader.categories.request] == asked.categories).all()
        assert np.allclose(in_log["numbers"][:, reader.numbers.request], asked.numbers, atol=1e-6)
        assert (in_log["texts"][:, request_slots] == asked.texts).all()
        assert (in_log["recent"] == asked.recent).all()
        assert (in_log["categories"][:, reader.categories.candidate] == told.categories).all()
        assert np.allclose(in_log["numbers"][:, reader.numbers.candidate], told.numbers, atol=1e-6)
        assert (
            in_log["categories"][:, reader.categories.place] == categories_PF[told.places]
        ).all()
        assert np.allclose(
            in_log["numbers"][:, reader.numbers.place], numbers_PM[told.places], atol=1e-6
        )
        assert (in_log["texts"][:, place_slots] == texts_PS[told.places]).all()
    assert start == rows.height


def test_nobody_and_nowhere_have_inputs_too(reader: Reader) -> None:
    asked = reader.request({"user_id": "nobody", "time": datetime(2024, 4, 8, 12)})
    assert not asked.known
    assert (asked.recent == 0).all()
    told = reader.candidates("nobody", {"poi_id": ["nowhere"]})
    assert told.places.tolist() == [0]
    assert (told.numbers <= 5).all()


@given(
    template=st.sampled_from(["{a}", "x {a}[, {b}]", "[{a}, ]{b}; [z {a} {b}]", "[{a}][{b}] end"]),
    values=st.fixed_dictionaries({"a": VALUES, "b": VALUES}),
)
def test_one_row_is_rendered_as_a_table_is(template: str, values: dict[str, str | None]) -> None:
    keyword = KeywordConfig(name="k", owner="scene", view="action", template=template)
    frame = pl.DataFrame([values], schema={"a": pl.String, "b": pl.String})
    assert render_one(values, parts(keyword)) == render(frame, keyword).item()


@given(value=st.one_of(st.none(), st.floats(-5, 5), st.sampled_from([0.0, 1.0, float("nan")])))
def test_one_level_is_that_of_a_table(value: float | None) -> None:
    bucket, edges = BucketConfig(column="n", words=["a", "b", "c"]), [0.0, 1.0]
    frame = pl.DataFrame({"n": [value]}, schema={"n": pl.Float64})
    table = with_levels(frame, [bucket], {"n": edges})
    assert level_one(value, bucket, edges) == table["n_level"].item()


@given(time=st.datetimes(datetime(2020, 1, 1), datetime(2030, 1, 1)))
def test_one_moment_is_that_of_a_table(time: datetime) -> None:
    row = with_time_columns(pl.DataFrame({"time": [time]})).drop("time").row(0, named=True)
    assert row == time_columns(time)
