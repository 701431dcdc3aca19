"""A request read row by row has the inputs that `larr prepare` gave its rows in the log."""

from __future__ import annotations

from datetime import datetime

import numpy as np
import pytest

from larr.config import Config
from larr.serve.features import Reader
from tests.serving import SENT, log


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
