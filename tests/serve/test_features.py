"""A request read row by row has the same inputs as its rows in `larr prepare`."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import msgspec
import numpy as np
import polars as pl
import pytest

from larr.config import Config
from larr.data.prepare import prepare
from larr.serve.features import Reader
from larr.serve.request import candidate_columns
from tests.own_tables import TABLES, own_config, write_own
from tests.serving import log, request_of

PAIRS = [
    ["user_id", "poi_tags"],
    ["poi_category", "meal_slot"],
    ["distance_km_level", "user_id"],
    ["user_gender", "weather"],
    ["poi_id", "temperature_c_level"],
    ["poi_tags", "poi_price_yuan_level"],
    ["user_id", "poi_name_words"],
]
FIGURES = ["log_clicks", "share", "ctr", "cvr"]


@pytest.fixture(scope="module")
def reader(city: Config) -> Reader:
    return Reader(city, city.output / "prepare")


@pytest.fixture(scope="module")
def crossed(city: Config, tmp_path_factory: pytest.TempPathFactory) -> Config:
    """The same city with other cross statistics, levels of them, and figures within requests."""
    tree = city.model_dump(exclude={"encoders"})
    tree["output"] = tmp_path_factory.mktemp("crossed")
    tree["statistics"] = [{"columns": pair, "figures": FIGURES} for pair in PAIRS]
    for name in ("user_id_x_poi_tags_share", "user_gender_x_weather_ctr"):
        tree["buckets"] = [*tree["buckets"], {"column": name, "words": ["low", "high"]}]
        tree["features"]["categories"] = [*tree["features"]["categories"], f"{name}_level"]
    tree["features"]["within_request"] = True
    config = Config.model_validate(tree)
    prepare(config)
    return config


def test_candidates_have_the_declared_columns_and_their_levels(reader: Reader) -> None:
    names = [reader.names[column] for column in reader.categories.candidate]
    assert {"position", "distance_km_level"} <= set(names)
    numbers = [reader.features.numbers[column] for column in reader.numbers.candidate]
    assert {"distance_km", "delivery_minutes", "pair_log_clicks"} <= set(numbers)
    assert "temperature_c" not in numbers


def test_use_of_the_time_is_detected(reader: Reader, tmp_path: Path) -> None:
    assert reader.reads_time
    for categories, expected in (("'poi_id'", False), ("'poi_id', 'meal_slot'", True)):
        settings = [*write_own(tmp_path), f"features.categories=['user_id', {categories}]"]
        config = own_config(tmp_path, settings)
        prepare(config)
        assert Reader(config, config.output / "prepare").reads_time == expected


@pytest.fixture(params=["city", "crossed"])
def prepared(request: pytest.FixtureRequest) -> Config:
    config: Config = request.getfixturevalue(request.param)
    return config


def test_a_request_has_the_inputs_of_the_log(city: Config, prepared: Config) -> None:
    reader, rows = Reader(prepared, prepared.output / "prepare"), log(city)
    arrays = {
        name: np.load(prepared.output / "prepare" / "test" / f"{name}.npy")
        for name in ("categories", "numbers", "recent", "texts")
    }
    categories_PF, numbers_PM, texts_PS = reader.place_inputs()
    owners = np.array([keyword.owner for keyword in city.scene_keywords])
    start = 0
    for (_,), group in rows.group_by("request_id", maintain_order=True):
        of_log = {name: array[start : start + group.height] for name, array in arrays.items()}
        start += group.height
        row, sent = request_of(group)
        request = reader.request(row)
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


def test_the_age_of_a_place_is_that_at_the_time_of_the_request(tmp_path: Path) -> None:
    places = pl.DataFrame(
        {
            "id": ["p1", "p2", "p3"],
            "title": ["Noodles", "Tea", "Rice"],
            "since": ["2024-03-31 12:00:00", "2024-03-01", None],
        }
    )
    bucket = "buckets=[{column='poi_log_age', words=['new', 'old'], edges=[3.5]}]"
    settings = [*write_own(tmp_path, places=places), "features.numbers=['poi_log_age']", bucket]
    settings.append("features.categories=['user_id', 'poi_id', 'poi_log_age_level']")
    config = own_config(tmp_path, settings)
    prepare(config)
    reader = Reader(config, config.output / "prepare")
    assert reader.reads_time
    number_NM = np.load(config.output / "prepare" / "train" / "numbers.npy")
    scales = reader.encoder.scales
    expected_N = (np.log1p([24, 31.5 * 24, 24]) - scales.mean_M) / scales.deviation_M
    np.testing.assert_allclose(number_NM[:, 0], expected_N, rtol=1e-6)

    def at(hours: float, *places: str) -> tuple[list[float], list[str]]:
        moment = datetime(2024, 3, 31, 12) + timedelta(hours=hours)
        rows = pl.DataFrame({"poi_id": places, "request_id": "r", "user_id": "1", "time": moment})
        request = reader.request(rows.row(0, named=True))
        inputs = reader.candidates(request, {"poi_id": [*places]})
        if "p4" not in places:
            arrays, column = reader.table(rows), reader.categories.candidate
            np.testing.assert_array_equal(inputs.numbers, arrays["numbers"])
            np.testing.assert_array_equal(inputs.categories, arrays["categories"][:, column])
        ages = inputs.numbers[:, 0] * scales.deviation_M[0] + scales.mean_M[0]
        levels = ["", *reader.encoder.vocabularies["poi_log_age_level"].texts]
        return ages.tolist(), [levels[index] for index in inputs.categories[:, 0]]

    ages, levels = at(3, "p1", "p2", "p3")
    np.testing.assert_allclose(ages, [np.log1p(3), np.log1p(30.5 * 24 + 3), scales.mean_M[0]])
    assert levels == ["new", "old", ""]
    assert at(-5, "p1")[0] == pytest.approx([0.0], abs=1e-6)
    new = pl.DataFrame({"poi_id": "p4", "poi_name": "Pie", "poi_since": datetime(2024, 3, 31, 11)})
    reader.add(new, [4])
    assert at(3, "p4", "p1")[0] == pytest.approx(np.log1p([4, 3]))


def test_values_of_any_type_are_sent_as_json(tmp_path: Path) -> None:
    """The rows of a request in the log give the same inputs after a JSON round trip."""
    moment = datetime(2024, 4, 1, 9, 5)
    values = {
        "fee": pl.Series(["5.40", "6"], dtype=pl.Decimal(10, 2)),
        "share": pl.Series([5.4, None], dtype=pl.Float32),
        "campaign": pl.Series([2 * 10**15, 2**62]),
        "serial": pl.Series([10**20, 1], dtype=pl.Decimal(38, 0)),
        "code": pl.Series(["a", "b"], dtype=pl.Categorical),
        "is_new": pl.Series([True, None]),
        "turnover": pl.Series([3e18, -1e100]),
        "promo": pl.Series([moment, None]).dt.date(),
        "since": pl.Series([moment, moment]),
        "opens": pl.Series([moment.time(), None]),
        "waited": pl.Series([timedelta(seconds=3), timedelta(0)]),
        "words": pl.Series([["a", "b"], []]),
    }
    settings = write_own(tmp_path)
    rows = TABLES["impressions"].with_columns(
        pl.concat([column, column]).reverse().alias(name) for name, column in values.items()
    )
    rows.write_parquet(tmp_path / "log.parquet")
    settings.append(f"dataset.tables.impressions={tmp_path}/log.parquet")
    settings.append(f"features.categories={['user_id', 'poi_id', *values]}")
    numbers = ["fee", "share", "is_new", "turnover", "waited", "campaign"]
    settings.append(f"features.numbers={numbers}")
    settings.append(f"features.candidate_columns={[*values]}")
    config = own_config(tmp_path, settings)
    prepare(config)
    reader = Reader(config, config.output / "prepare")
    log = pl.read_parquet(config.output / "prepare" / "requests.parquet")
    _, accepted = reader.client_columns()
    sent = msgspec.json.decode(msgspec.json.encode(log.select(*accepted).to_dicts()))
    columns = candidate_columns(sent, accepted)
    request = reader.request(log.row(0, named=True))
    candidates, arrays = reader.candidates(request, columns), reader.table(log)
    positions = reader.categories.candidate
    np.testing.assert_array_equal(candidates.categories, arrays["categories"][:, positions])
    positions = reader.numbers.candidate
    np.testing.assert_array_equal(candidates.numbers, arrays["numbers"][:, positions])
    assert candidates.categories[0].all()
    assert not candidates.unknown


def test_unknown_users_places_and_values_have_inputs(reader: Reader) -> None:
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


def test_an_added_place_has_the_cross_statistics_of_its_values(crossed: Config) -> None:
    reader = Reader(crossed, crossed.output / "prepare")
    known, row = reader.snapshot.places.head(1), len(reader.snapshot.places) + 1
    copied = ["poi_name", "poi_category", "poi_tags", "poi_price_yuan"]
    like_it = known.select(*copied, poi_id=pl.lit("new"))
    user = reader.snapshot.users["user_id"][0]
    request = reader.request({"user_id": user, "time": datetime(2024, 4, 8, 12)})
    unknown = reader.candidates(request, {"poi_id": ["new"]})
    reader.add(like_it, [row])
    both = reader.candidates(request, {"poi_id": [known["poi_id"].item(), "new"]})
    names = [reader.features.numbers[column] for column in reader.numbers.candidate]
    shared = [n for n, name in enumerate(names) if name.startswith(("user_id_x", "poi_category_x"))]
    shared = [n for n in shared if not names[n].endswith(("_rank", "_difference"))]
    assert both.places.tolist() == [1, row]
    assert (both.numbers[0, shared] == both.numbers[1, shared]).all()
    assert (both.numbers[1, shared] != unknown.numbers[0, shared]).any()
