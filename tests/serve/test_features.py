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
    owners = np.array([keyword.owner for keyword in city.scene_keywords])
    start = 0
    for (_,), group in rows.group_by("request_id", maintain_order=True):
        of_log = {name: array[start : start + group.height] for name, array in arrays.items()}
        start += group.height
        scene = group.drop(*SENT, "request_id", "click", "order").row(0, named=True)
        request = reader.request(scene)
        sent = group.select(SENT).to_dict(as_series=False)
        candidates = reader.candidates(request, sent)
        parts = {
            "request": (request.categories, request.numbers),
            "candidate": (candidates.categories, candidates.numbers),
            "place": (categories_PF[candidates.places], numbers_PM[candidates.places]),
        }
        for part, (categories, numbers) in parts.items():
            columns = getattr(reader.categories, part)
            assert (of_log["categories"][:, columns] == categories).all(), part
            columns = getattr(reader.numbers, part)
            assert (of_log["numbers"][:, columns] == numbers).all(), part
        assert (of_log["texts"][:, owners != "poi"] == request.texts).all()
        assert (of_log["texts"][:, owners == "poi"] == texts_PS[candidates.places]).all()
        assert (of_log["recent"] == request.recent).all()
        assert request.missing == []
    assert start == rows.height


def test_unknown_users_places_and_values_have_inputs_too(reader: Reader) -> None:
    scene = {"user_id": "nobody", "time": datetime(2024, 4, 8, 12), "weather": "frogs"}
    request = reader.request(scene)
    assert not request.known
    assert request.unknown == ["weather"]
    assert (request.recent == 0).all()
    candidates = reader.candidates(request, {"poi_id": ["nowhere"], "position": [10_000]})
    assert candidates.places.tolist() == [0]
    assert candidates.unknown == ["position"]
    assert (candidates.numbers <= 5).all()
    assert reader.candidates(request, {"poi_id": ["nowhere"]}).unknown == []
