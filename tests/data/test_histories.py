"""Histories: the latest places of each kind on earlier days, compared with a naive twin."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from larr.config import Config
from larr.data.features import FeatureEncoder
from larr.data.histories import KINDS, LENGTH, add_latest, of_situation
from larr.data.situations import Situations
from larr.data.transforms import MISSING, TextIds, with_time_columns
from tests.fake_data import load

EVENTS = st.lists(st.tuples(st.integers(0, 3), st.integers(1, 6)), max_size=12)


@pytest.fixture(scope="module")
def events(city: Config) -> pl.DataFrame:
    """Returns all events, newest first: user_id, poi_id, context, day and kind."""
    data = city.output / "prepare"
    columns = ["user_id", "poi_id", "time", "place_kind"]
    log = pl.read_parquet(data / "raw" / "impressions")
    kind = pl.when("order").then(0).when("click").then(1).otherwise(2)
    earlier = pl.read_parquet(data / "raw" / "orders").select(*columns, kind=0)
    both = pl.concat([log.select(*columns, kind=kind), earlier], how="vertical_relaxed")
    places = pl.read_parquet(data / "places.parquet")["poi_id"].to_list()
    number = pl.col("poi_id").replace_strict(places, range(1, len(places) + 1))
    both = with_time_columns(both.with_columns(place=number))
    return both.sort("time", "place", descending=True)


@pytest.fixture(scope="module")
def situation_of(city: Config) -> Callable[[str, str], int]:
    """Returns the function that looks up the situation of a meal slot and a kind of place."""
    situations = Situations.load(city, city.output / "prepare" / "known")
    encoder = FeatureEncoder.load(city, city.output / "prepare" / "vocabularies")
    slots, kinds = (encoder.vocabularies[name] for name in city.features.situation)

    def look_up(slot: str, kind: str) -> int:
        return int(situations.of(np.array([[slots.value(slot), kinds.value(kind)]]))[0])

    return look_up


def naive(
    events: pl.DataFrame, user_id: str, day: object, is_alike: Callable[[str, str], bool]
) -> list[list[int]]:
    past = events.filter((pl.col("user_id") == user_id) & (pl.col("day") < day))
    kinds = [list(dict.fromkeys(past.filter(kind=kind)["place"])) for kind in range(len(KINDS))]
    orders = past.filter(kind=0).select("place", "meal_slot", "place_kind").rows()
    kinds.append([place for place, *context in orders if is_alike(*context)])
    return [places[:LENGTH] + [0] * (LENGTH - len(places)) for places in kinds]


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_history_holds_the_latest_places_before_the_day(
    city: Config, events: pl.DataFrame, situation_of: Callable[[str, str], int], split: str
) -> None:
    log = pl.read_parquet(city.output / "prepare" / "raw" / "impressions")
    is_test = pl.col("time").dt.date() == pl.col("time").dt.date().max()
    rows = with_time_columns(log.filter(is_test if split == "test" else ~is_test))
    histories, numbers = load(city, "histories"), load(city, f"{split}/history")
    assert len(numbers) == rows.height
    for row in range(0, rows.height, rows.height // 40):
        user_id, day, *context = rows.select("user_id", "day", "meal_slot", "place_kind").row(row)
        situation = situation_of(*context)
        assert 0 < situation <= city.features.situations
        expected = naive(events, user_id, day, lambda *other: situation_of(*other) == situation)  # noqa: B023
        assert histories[numbers[row, 0]].tolist() == expected


def test_a_user_day_has_one_history_in_each_situation(city: Config) -> None:
    histories, splits = load(city, "histories"), ("train", "test")
    numbers = np.concatenate([load(city, f"{split}/history")[:, 0] for split in splits])
    days = np.concatenate([load(city, f"{split}/days")[:, 0] for split in splits])
    users = np.concatenate([load(city, f"{split}/keys")[:, 0] for split in splits])
    situations = Situations.load(city, city.output / "prepare" / "known")
    categories = np.concatenate([load(city, f"{split}/categories") for split in splits])
    keys = zip(users, days, situations.of(categories[:, situations.columns]), strict=True)
    assert len(set(numbers)) == len(set(keys)) == len(histories) - 1
    assert not histories[0].any()


def test_known_histories_are_those_of_the_day_after_training(
    city: Config, events: pl.DataFrame, situation_of: Callable[[str, str], int]
) -> None:
    known = load(city, "known/histories")
    users = pl.read_parquet(city.output / "prepare" / "users.parquet")["user_id"].to_list()
    last = events["day"].max()  # the test day
    assert len(known) == len(users) + 1
    for number in range(0, len(users), 20):
        for situation in (0, 1, known.shape[1] - len(KINDS)):
            expected = naive(
                events,
                users[number],
                last,
                lambda *other: situation_of(*other) == (situation or -1),  # noqa: B023
            )
            found = of_situation(known[[number + 1]], np.array([situation]))[0]
            assert found.tolist() == expected
    assert (last - timedelta(days=1)) in events["day"]


@given(st.lists(EVENTS, max_size=4))
def test_adding_by_day_equals_adding_at_once(days: list[list[tuple[int, int]]]) -> None:
    latest_GL = np.zeros((4, 3), np.int32)
    repeats_G = np.array([False, True, False, True])
    for newest_first in days:
        pairs = np.array(newest_first, np.int64).reshape(-1, 2)
        add_latest(latest_GL, pairs[:, 0], pairs[:, 1], repeats_G)
    for group in range(4):
        all_days = [pair for newest_first in reversed(days) for pair in newest_first]
        places = [place for at, place in all_days if at == group]
        places = (places if repeats_G[group] else list(dict.fromkeys(places)))[:3]
        assert latest_GL[group].tolist() == places + [0] * (3 - len(places))


def test_place_texts_do_not_depend_on_statistics(city: Config) -> None:
    data = city.output / "prepare"
    table = pl.read_parquet(data / "place_texts.parquet")
    assert "poi_name" in table.columns
    assert "poi_statistics" not in table.columns
    texts = TextIds(pl.read_parquet(data / "texts.parquet"))
    descriptions = pl.read_parquet(data / "descriptions.parquet")
    for keyword in table.columns:
        assert table[keyword][0] == MISSING
        assert (table[keyword].to_numpy()[1:] == texts.column(descriptions[keyword])).all()
