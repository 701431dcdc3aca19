"""The built-in city: data contract, seeds, and the latent model against computed values."""

import hashlib
import math
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from matplotlib.figure import Figure
from scripts import city_pictures as pictures

from larr_lab import city, knowledge
from larr_lab.city.choice import Model, expose, logit_parts, make_offer
from larr_lab.city.days import RAIN, SNOW, SUNNY, Calendar
from larr_lab.city.draws import hash_uniform
from larr_lab.city.effects import AFTERNOON, ATTRIBUTES, BREAKFAST, KINDS, LATE_NIGHT
from larr_lab.city.requests import Scenes, draw_scenes
from larr_lab.city.tables import impressions, rows_of_days
from larr_lab.city.texts import place_texts
from larr_lab.city.world import World
from larr_lab.settings import CityConfig

CONFIG = CityConfig(places=420, users=600, impressions=20_003, history_days=14)


@pytest.fixture(scope="module")
def world() -> World:
    return World(CONFIG, 3)


@pytest.fixture(scope="module")
def model(world: World) -> Model:
    return Model(world)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tables")
    written: list[int] = []
    city.write(CONFIG, 3, folder, written.append)
    assert sum(written) == CONFIG.impressions
    return folder


@pytest.fixture(scope="module")
def log(written: Path) -> pl.DataFrame:
    return pl.read_parquet(written / "impressions" / "*.parquet")


def digests(folder: Path) -> dict[str, str]:
    files = sorted(folder.rglob("*.parquet"))
    return {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def test_a_seed_gives_the_same_bytes_and_another_seed_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("larr_lab.city.choice.PILOT_REQUESTS", 100)
    small = CityConfig(places=40, users=30, impressions=300, history_days=1, train_days=1)
    for name, seed in (("first", 1), ("again", 1), ("other", 2)):
        city.write(small, seed, tmp_path / name, lambda _: None)
    first, again, other = (digests(tmp_path / name) for name in ("first", "again", "other"))
    assert first == again
    assert first.keys() == other.keys()
    assert not set(first.values()) & set(other.values())


def test_a_day_does_not_depend_on_the_days_before(
    world: World, model: Model, log: pl.DataFrame
) -> None:
    rows = int(rows_of_days(world)[5])
    alone = pl.concat(impressions(world, model, 5, rows))
    assert alone.equals(log.filter(pl.col("time").dt.date() == date(2024, 4, 6)))


def test_impressions_meet_the_contract(log: pl.DataFrame) -> None:
    assert log.height == CONFIG.impressions
    assert log.null_count().sum_horizontal().item() == 0
    assert not log.select(pl.struct("request_id", "position").is_duplicated().any()).item()
    assert not log.select(pl.struct("request_id", "poi_id").is_duplicated().any()).item()
    assert log["request_id"].rle().len() == log["request_id"].n_unique()
    assert log["time"].is_sorted()
    assert log.filter(pl.col("order") & ~pl.col("click")).is_empty()
    assert log.filter(pl.col("probability_order") > pl.col("probability_click")).is_empty()
    assert log["time"].dt.date().unique().to_list() == [date(2024, 4, d) for d in range(1, 9)]


def test_rows_agree_with_places_and_users(written: Path, log: pl.DataFrame) -> None:
    places = pl.read_parquet(written / "places.parquet")
    users = pl.read_parquet(written / "users.parquet")
    full = log.join(places, on="poi_id", suffix="_poi").join(users, on="user_id")
    assert full.height == log.height
    assert full.filter(pl.col("city") != pl.col("city_poi")).is_empty()
    assert full.filter(pl.col("time") < pl.col("opened")).is_empty()
    assert full.filter(pl.col("time") < pl.col("joined")).is_empty()
    assert full.filter(pl.col("away") != (pl.col("city") != pl.col("home_city"))).is_empty()
    orders = pl.read_parquet(written / "orders" / "*.parquet")
    assert orders["time"].max() < log["time"].min()
    assert 8 < orders.height / CONFIG.users * 56 / CONFIG.history_days < 15


def test_probabilities_are_the_truth(log: pl.DataFrame) -> None:
    for outcome, probability in (("click", "probability_click"), ("order", "probability_order")):
        p = log[probability].to_numpy()
        z = (log[outcome].sum() - p.sum()) / math.sqrt((p * (1 - p)).sum())
        assert abs(z) < 4
    assert 0.05 < log["probability_click"].mean() < 0.09


def test_new_places_and_users_appear_on_every_day(written: Path) -> None:
    start = pl.lit(date(2024, 4, 1))
    for table, column in (("places", "opened"), ("users", "joined")):
        when = pl.read_parquet(written / f"{table}.parquet").filter(pl.col(column) >= start)
        assert when[column].dt.date().n_unique() == 8


def test_the_hash_equals_one_with_python_integers() -> None:
    def naive(one: int, two: int, salt: int) -> float:
        z = one * 0x9E3779B97F4A7C15 + two * 0xD1B54A32D192ED03 + salt * 0x8CB92BA72F3D8DD7
        z &= 2**64 - 1
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & (2**64 - 1)
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB & (2**64 - 1)
        return ((z ^ (z >> 31)) >> 11) / 2**53

    got = hash_uniform(np.arange(50), np.arange(50) * 7, 11)
    assert got.tolist() == [naive(i, 7 * i, 11) for i in range(50)]
    assert abs(hash_uniform(np.arange(100_000), 3, 1).mean() - 0.5) < 0.004


def test_parts_of_a_row_equal_a_naive_twin(world: World) -> None:
    rng = np.random.default_rng(0)
    scenes = draw_scenes(world, 16, 40, rng)
    place_RK = expose(world, scenes, CONFIG.candidates, rng)
    offer = make_offer(world, scenes, place_RK, rng)
    parts = logit_parts(world, scenes, place_RK, offer)
    places, users = world.places, world.users
    r, k = 7, 2
    user, place, slot = int(scenes.user_R[r]), int(place_RK[r, k]), int(scenes.slot_R[r])
    taste_A = users.taste_UA[user].astype(float)
    taste_A[users.habit_US[user, slot]] += users.habit_strength_US[user, slot]
    expected = sum(t * a for t, a in zip(taste_A, places.attributes_PA[place], strict=True))
    assert parts["taste"][r, k] == pytest.approx(expected, rel=1e-5)
    assert parts["position"][r, k] == pytest.approx(-math.log(3))
    km = 1.3 * math.hypot(
        places.x_P[place] - scenes.x_R[r], places.y_P[place] - scenes.y_R[r]
    )  # fmt: skip
    assert offer.distance_km_RK[r, k] == pytest.approx(max(km, 0.1), abs=0.006)
    assert parts["fee"][r, k] == -offer.fee_yuan_RK[r, k]


def one_scene(world: World, **changes: object) -> Scenes:
    scenes = draw_scenes(world, 16, 1, np.random.default_rng(0))
    plain = {"slot_R": 1, "kind_R": 0, "away_R": False, "free_R": False, "weather_R": SUNNY}
    values = plain | {"temperature_R": 16.0} | changes
    return replace(scenes, **{name: np.array([value]) for name, value in values.items()})


def gain(world: World, attribute: str, **changes: object) -> float:
    """Returns the scene part of the place with the most of an attribute, less the mean part."""
    scenes = one_scene(world, **changes)
    place_RK = np.arange(world.places.count)[None, :]
    offer = make_offer(world, scenes, place_RK, np.random.default_rng(0))
    scene_P = logit_parts(world, scenes, place_RK, offer)["scene"][0]
    richest = world.places.share_PA[:, ATTRIBUTES.index(attribute)].argmax()
    return float(scene_P[richest] - scene_P.mean())


def test_scenes_have_the_expected_effects(world: World) -> None:
    hospital = KINDS.index("hospital")
    assert gain(world, "cold", temperature_R=30.0) > gain(world, "cold") + 1
    assert gain(world, "soup", temperature_R=0.0) > gain(world, "soup") + 1
    assert gain(world, "soup", weather_R=RAIN) > gain(world, "soup")
    assert gain(world, "grilled", slot_R=LATE_NIGHT) > gain(world, "grilled") + 1
    assert gain(world, "breakfast", slot_R=BREAKFAST) > gain(world, "breakfast") + 1
    assert gain(world, "drink", slot_R=AFTERNOON) > gain(world, "drink") + 1
    assert gain(world, "light", kind_R=hospital) > gain(world, "light") + 1


def test_travellers_prefer_local_dishes(world: World) -> None:
    place_RK = np.arange(world.places.count)[None, :]
    values = []
    for away in (False, True):
        scenes = one_scene(world, away_R=away)
        offer = make_offer(world, scenes, place_RK, np.random.default_rng(0))
        values.append(logit_parts(world, scenes, place_RK, offer)["scene"][0])
    difference_P = values[1] - values[0]
    assert np.corrcoef(difference_P, world.places.local_P)[0, 1] == pytest.approx(1, abs=1e-5)


def test_a_kilometre_matters_more_in_the_rain(world: World) -> None:
    place_RK = np.arange(world.places.count)[None, :]
    dry, wet = one_scene(world), one_scene(world, weather_R=RAIN)
    offer = make_offer(world, dry, place_RK, np.random.default_rng(0))
    parts_dry = logit_parts(world, dry, place_RK, offer)["distance"]
    parts_wet = logit_parts(world, wet, place_RK, offer)["distance"]
    assert parts_dry / parts_wet == pytest.approx(1.1 / 1.4)


def test_parts_have_their_shares_of_the_variance(world: World, model: Model) -> None:
    rng = np.random.default_rng(1)
    pieces: dict[str, list[np.ndarray]] = {}
    for day in range(14, 22):
        scenes = draw_scenes(world, day, 800, rng)
        place_RK = expose(world, scenes, CONFIG.candidates, rng)
        parts = logit_parts(world, scenes, place_RK, make_offer(world, scenes, place_RK, rng))
        for name, scale in model.click.scales.items():
            pieces.setdefault(name, []).append(scale * parts[name][place_RK >= 0])
    variance = {name: float(np.concatenate(parts).var()) for name, parts in pieces.items()}
    assert variance["taste"] == pytest.approx(0.37 * 1.44, rel=0.15)
    assert variance["scene"] == pytest.approx(0.23 * 1.44, rel=0.15)
    assert variance["position"] == pytest.approx(0.12 * 1.44, rel=0.05)


def test_weather_follows_the_climate() -> None:
    world = World(CityConfig(places=1_500, users=10, start=date(2024, 7, 1)), 1)
    names = world.geography.cities["city"].to_list()
    july_D = slice(world.days.history_days, None)
    kind_CDB, temperature_CDB = world.weather.kind_CDB, world.weather.temperature_CDB
    assert temperature_CDB[names.index("Guangzhou"), july_D].mean() > 26
    harbin = names.index("Harbin")
    assert temperature_CDB[harbin, july_D].mean() < temperature_CDB[:, july_D].mean()
    assert (temperature_CDB[kind_CDB == SNOW] < 1.5).all()
    rainy_C = (kind_CDB >= RAIN).mean(axis=(1, 2))
    days_C = world.geography.cities.select("rain_5", "rain_6").mean_horizontal().to_numpy()
    assert np.corrcoef(rainy_C, days_C)[0, 1] > 0.5
    same = (kind_CDB[:, :, 1:] == kind_CDB[:, :, :-1]).mean()
    shuffled = (kind_CDB[:, 1:, 0] == kind_CDB[:, :-1, -3]).mean()
    assert same > shuffled


def test_trips_last_a_block_and_are_more_frequent_in_holidays(world: World) -> None:
    days, users, everyone = world.days, world.users, np.arange(world.users.count)
    cities = [world.trips.city(users, days, d, everyone)[0] for d in range(len(days.dates))]
    away_D = np.array([(c != users.city_U).mean() for c in cities])
    assert away_D[days.holiday_D].mean() > 1.5 * away_D[~days.holiday_D].mean()
    for day in range(1, len(days.dates)):
        same = days.block_D[day] == days.block_D[day - 1]
        assert (cities[day] == cities[day - 1]).all() == same


def test_qingming_is_one_block() -> None:
    days = Calendar(CONFIG)
    holiday = [d for d, is_holiday in zip(days.dates, days.holiday_D, strict=True) if is_holiday]
    assert holiday == [date(2024, 4, 4), date(2024, 4, 5), date(2024, 4, 6)]
    assert len(set(days.block_D[days.holiday_D].tolist())) == 1


def test_menus_name_known_dishes_and_follow_the_latent_menu(world: World) -> None:
    texts = place_texts(world, np.random.default_rng(0))
    table = knowledge.dishes()
    number_of: dict[str, set[int]] = {}
    for number, (dish, also) in enumerate(table.select("dish", "also").iter_rows()):
        for name in (dish, *also.split("|")):
            number_of.setdefault(name, set()).add(number)
    for place, menu in enumerate(texts["menu"]):
        if menu is not None:
            latent = set(world.places.menu_PM[place].tolist())
            shown = menu.split(", ")
            assert 3 <= len(shown) <= 9
            assert all(number_of[name] & latent for name in shown)
    assert 0.04 < texts["menu"].null_count() / texts.height < 0.13
    assert 0.12 < texts["intro"].null_count() / texts.height < 0.28
    assert texts["tags"].str.split(", ").list.len().is_between(1, 4).all()
    assert texts["name"].str.contains("{", literal=True).sum() == 0


def test_a_request_shows_fewer_places_where_there_are_few(tmp_path: Path) -> None:
    tiny = CityConfig(places=6, users=20, impressions=200, history_days=2, train_days=1)
    city.write(tiny, 1, tmp_path, lambda _: None)
    log = pl.read_parquet(tmp_path / "impressions" / "*.parquet")
    assert 0 < log.height <= 200
    assert log["position"].max() <= 6


def test_pictures_are_drawn(written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = pictures.read_log(written)
    for draw in pictures.PICTURES.values():
        figure = Figure()
        draw(figure.subplots(), log)
        assert figure.axes[0].get_title()
        assert figure.axes[0].has_data()
    monkeypatch.setattr(pictures, "PICTURES", {"hours": pictures.hours})  # a file takes 0.2 s
    pictures.main(written, tmp_path)
    assert [path.name for path in tmp_path.rglob("*.png")] == ["city_hours.png"]
