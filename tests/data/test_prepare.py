"""`prepare/`: arrays with the content of the log, split by time, without leaks."""

from datetime import datetime, time
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from larr import artifacts
from larr.config import Config
from larr.config.data import StatisticConfig
from larr.data import folds, holdout
from larr.data.features import read_features, sample
from larr.data.log import SPLITS
from larr.data.prepare import prepare
from larr.data.transforms import MISSING, Template, with_time_columns
from larr.serve.features import Reader
from tests.fake_data import load

USER_EVENTS = ["user_id", "poi_id", "day", "meal_slot"]


def raw(config: Config) -> pl.DataFrame:
    return pl.read_parquet(config.output / "prepare" / "raw" / "impressions")


def read_texts(config: Config) -> np.ndarray:
    """Returns the texts of the training rows."""
    table = pl.read_parquet(config.output / "prepare" / "texts.parquet")
    return np.array([*table["text"].to_list(), None])[load(config, "train/texts")]


def test_the_last_day_is_the_test_set(city: Config) -> None:
    log = raw(city)
    last = log["time"].dt.date().max()
    assert len(load(city, "test/labels")) == log.filter(pl.col("time").dt.date() == last).height
    assert len(load(city, "train/labels")) + len(load(city, "test/labels")) == log.height


def test_labels_follow_the_log_in_order(city: Config) -> None:
    log = raw(city)
    labels = np.concatenate([load(city, "train/labels"), load(city, "test/labels")])
    assert (labels == log.select("click", "order").to_numpy()).all()


def test_texts_of_a_row_are_those_of_its_place(city: Config) -> None:
    data = city.output / "prepare"
    rows, texts = pl.read_parquet(data / "test" / "rows.parquet"), load(city, "test/texts")
    table = pl.read_parquet(data / "texts.parquet")
    places = pl.read_parquet(data / "places.parquet")
    slot, keyword = next((i, k) for i, k in enumerate(city.scene_keywords) if k.name == "poi_name")
    expected = rows.select("poi_id").join(places, on="poi_id", maintain_order="left")
    texts_of_rows = table["text"].gather(texts[:, slot].tolist())
    assert texts_of_rows.to_list() == Template(keyword).column(expected).to_list()
    assert set(table["keyword"].gather(texts[:, slot].tolist())) == {"poi_name"}


def test_categories_use_vocabularies_of_the_training_days(city: Config) -> None:
    categories = read_features(city.output / "prepare").categories
    names = [category.name for category in categories]
    sides = {category.name: category.side for category in categories}
    assert [sides[name] for name in ("user_id", "poi_id", "weather")] == ["user", "poi", "scene"]
    users = load(city, "test/categories")[:, names.index("user_id")]
    rows = pl.read_parquet(city.output / "prepare" / "test" / "rows.parquet")
    assert ((users == 0) == (rows["user_impressions"] == 0).to_numpy()).all()
    for side in ("train", "test"):
        values = load(city, f"{side}/categories")
        assert (values.max(axis=0) < [category.size for category in categories]).all()
    assert load(city, "train/categories")[:, names.index("user_id")].min() == 1


def test_numbers_are_standardised_on_the_training_days(city: Config) -> None:
    train = load(city, "train/numbers")
    column = read_features(city.output / "prepare").numbers.index("temperature_c")
    assert train[:, column].mean() == pytest.approx(0, abs=1e-3)
    assert train[:, column].std() == pytest.approx(1, abs=1e-2)
    assert np.isfinite(train).all()


def with_tables(city: Config, folder: Path, **paths: Path) -> Config:
    """Returns a configuration that reads the city's tables, some of them from other files."""
    source = city.output / "prepare" / "raw"
    tables = {"places": source / "places.parquet", "users": source / "users.parquet"}
    tables |= {name: source / name for name in ("orders", "impressions")} | paths
    settings = city.dataset.tables.model_copy(
        update={name: str(path) for name, path in tables.items()}
    )
    dataset = city.dataset.model_copy(update={"kind": "tables", "tables": settings})
    return city.model_copy(update={"output": folder, "dataset": dataset})


def test_the_test_day_does_not_change_earlier_rows(city: Config, tmp_path: Path) -> None:
    """Labels and further orders of the test day do not change earlier rows."""
    log, orders = raw(city), pl.read_parquet(city.output / "prepare" / "raw" / "orders")
    last = log["time"].max()
    tested = pl.col("time").dt.date() == last.date()
    flipped = log.with_columns(
        click=pl.when(tested).then(~pl.col("click")).otherwise("click"),
        order=pl.col("order") & ~tested,
    )
    flipped.write_parquet(tmp_path / "impressions.parquet")
    unseen = orders.head(5).with_columns(time=pl.lit(last))
    pl.concat([orders, unseen]).write_parquet(tmp_path / "orders.parquet")
    paths = {name: tmp_path / f"{name}.parquet" for name in ("impressions", "orders")}
    other = with_tables(city, tmp_path, **paths)
    prepare(other)
    for name in ("categories", "numbers", "texts", "recent", "labels"):
        assert (load(city, f"train/{name}") == load(other, f"train/{name}")).all(), name
    for name in ("numbers", "texts", "recent"):
        assert (load(city, f"test/{name}") == load(other, f"test/{name}")).all(), name
    for split in ("train", "test"):
        before, after = (
            load(c, "histories")[load(c, f"{split}/history")[:, 0]] for c in (city, other)
        )
        assert (before == after).all()
    for name in ("orders", "not_taken"):
        before, after = (
            pl.read_parquet(c.output / "prepare" / f"{name}.parquet") for c in (city, other)
        )
        assert before.equals(after), name


def test_profiles_equal_those_of_a_naive_twin(city: Config, tmp_path: Path) -> None:
    """Texts about ordered, clicked and left places, from the events before the day of the row."""
    kinds = {"taken": None, "clicked": "meal_slot", "left": None}
    template = "".join(f"[{kind} {{{kind}}}; ]" for kind in kinds)
    settings = with_tables(city, tmp_path).model_dump() | {
        "profiles": [
            {"name": kind, "column": "category", "events": kind, "within": within, "top": 2}
            for kind, within in kinds.items()
        ],
        "keywords": [
            {"name": "k", "owner": "user", "view": "action", "template": template},
            {"name": "p", "owner": "poi", "view": "basic", "template": "{poi_name}"},
        ],
        "statistics": [],
    }
    settings["features"] |= {"recent_keyword": "", "situation": []}
    config = Config.model_validate(settings)
    prepare(config)
    orders = pl.read_parquet(city.output / "prepare" / "raw" / "orders")
    rows = with_time_columns(raw(city)).with_row_index("row")
    places = pl.read_parquet(city.output / "prepare" / "raw" / "places.parquet")
    category = dict(places.select("poi_id", "category").iter_rows())
    events = [(*row, "taken") for row in with_time_columns(orders)[USER_EVENTS].iter_rows()]
    for row in rows.iter_rows(named=True):
        kind = "taken" if row["order"] else "clicked" if row["click"] else "left"
        events.append((*(row[name] for name in USER_EVENTS), kind))
    texts = [*pl.read_parquet(config.output / "prepare" / "texts.parquet")["text"], None]
    found = [texts[number] for s in SPLITS for number in load(config, f"{s}/texts")[:, 0].tolist()]
    for row in rows.sample(300, seed=1).iter_rows(named=True):
        parts = []
        for kind, within in kinds.items():
            weights: dict[str, float] = {}
            for user, place, day, slot, event in events:
                if (user, event) != (row["user_id"], kind) or day >= row["day"]:
                    continue
                if within is None or slot == row["meal_slot"]:
                    age = (row["day"] - day).days
                    weight = 0.5 ** (age / config.features.half_life_days)
                    weights[category[place]] = weights.get(category[place], 0.0) + weight
            ranked = sorted(weights, key=lambda value: (-round(weights[value], 9), value))
            parts += [f"{kind} {', '.join(ranked[:2])}"] if ranked else []
        assert found[row["row"]] == ("; ".join(parts) or None)


def test_test_rows_do_not_count_unless_split_by_time(
    city: Config,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Test labels change neither the inputs of rankers nor the orders of stage 2."""
    monkeypatch.setattr(folds, "ENOUGH_ROWS", 1)
    tested = pl.col("request_id").hash(1) % 3 == 0
    log = raw(city).with_columns(
        split=pl.when(tested).then(pl.lit("test")).otherwise(pl.lit("train"))
    )
    flipped = log.with_columns(
        click=pl.when(tested).then(~pl.col("click")).otherwise("click"),
        order=pl.when(tested).then(~pl.col("click")).otherwise("order"),
    )
    configs = []
    for name, rows in {"as_it_was": log, "flipped": flipped}.items():
        (tmp_path / name).mkdir()
        rows.write_parquet(tmp_path / name / "log.parquet")
        configs.append(
            with_tables(city, tmp_path / name, impressions=tmp_path / name / "log.parquet")
        )
        prepare(configs[-1])
    assert "statistics, profiles and histories count only training rows" in " ".join(
        capsys.readouterr().err.split()
    )
    for name in ("categories", "numbers", "recent", "history", "texts"):
        for split in ("train", "test", "held_back/0/train", "held_back/0/test"):
            before, after = (load(config, f"{split}/{name}") for config in configs)
            assert (before == after).all(), f"{split}/{name}"
    tables = ["orders.parquet", *(f"known/{name}.parquet" for name in ("users", "pairs", "recent"))]
    for table in tables:
        before, after = (pl.read_parquet(config.output / "prepare" / table) for config in configs)
        assert before.equals(after), table
    assert (load(configs[0], "histories") == load(configs[1], "histories")).all()
    assert load(configs[0], "test/numbers").any(axis=0).all(), "test rows have figures"


def decoded(config: Config, folder: str) -> dict[str, np.ndarray]:
    """Returns the content of a split's arrays, independent of the numbering of values."""
    data = config.output / "prepare"
    features = read_features(data)
    texts = pl.read_parquet(data / "texts.parquet")["text"].to_list()
    vocabularies = {
        category.name: np.array(
            [None, *pl.read_parquet(data / "vocabularies" / f"category-{number}.parquet")["value"]]
        )
        for number, category in enumerate(features.categories)
    }
    categories = load(config, f"{folder}/categories")
    histories = load(config, f"{folder.rpartition('/')[0] or '.'}/histories")
    return {
        "categories": np.stack(
            [words[index] for words, index in zip(vocabularies.values(), categories.T, strict=True)]
        ),
        "recent": vocabularies["poi_id"][load(config, f"{folder}/recent")],
        "texts": np.array([*texts, None])[load(config, f"{folder}/texts")],
        "history": histories[load(config, f"{folder}/history")[:, 0]],
        **{
            name: load(config, f"{folder}/{name}") for name in ("numbers", "labels", "keys", "days")
        },
    }


def test_a_held_back_part_resembles_test_rows(
    city: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The twin is a log of the fold alone, with the held-back rows as test rows."""
    monkeypatch.setattr(folds, "ENOUGH_ROWS", 1)
    is_new = pl.col("poi_id").hash(1) % 8 == 0
    tested = is_new | (pl.col("request_id").hash(1) % 6 == 0)
    log = raw(city).with_columns(
        split=pl.when(tested).then(pl.lit("test")).otherwise(pl.lit("train"))
    )
    log.write_parquet(tmp_path / "log.parquet")
    config = with_tables(city, tmp_path / "complete", impressions=tmp_path / "log.parquet")
    pairs = {"statistics": [StatisticConfig(columns=("user_id", "poi_category"))]}
    config = config.model_copy(update=pairs)
    prepare(config)
    (split,) = folds.splits(config.output / "prepare")
    assert {*np.unique(split)} == {"", "train", "test"}, "some places are left out of the training"
    part = log.filter(pl.col("split") == "train").with_columns(pl.Series("split", split))
    part.filter(pl.col("split") != "").write_parquet(tmp_path / "part.parquet")
    twin = with_tables(city, tmp_path / "twin", impressions=tmp_path / "part.parquet")
    prepare(twin.model_copy(update=pairs))
    for name in ("train", "test"):
        found, expected = decoded(config, f"held_back/0/{name}"), decoded(twin, name)
        for array, values in expected.items():
            assert (found[array] == values).all(), f"{name}, {array}"
    judged = load(config, "held_back/0/test/keys")[:, 1]
    new = ~np.isin(judged, load(config, "held_back/0/train/keys")[:, 1])
    assert 0.2 < new.mean() < 0.6
    (fold,) = holdout.folds(config)
    names = [category.name for category in read_features(config.output / "prepare").categories]
    assert not fold.validation.array("categories")[new, names.index("poi_id")].any()
    np.testing.assert_array_equal(fold.left_out_N, np.flatnonzero(split != "train"))


def test_a_sample_covers_all_positions_of_a_request() -> None:
    rows = pl.LazyFrame({"position": [1, 2, 3, 4, 5] * 2_000})
    counts = sample(rows, 1_000)["position"].value_counts()["count"]
    assert counts.min() > 190
    assert counts.max() < 210
    assert sample(rows, 10_000).height == 10_000


def test_texts_of_past_orders_read_only_earlier_days(city: Config) -> None:
    """A user without earlier orders has no favourites, as the order itself does not count."""
    orders = pl.read_parquet(city.output / "prepare" / "orders.parquet")
    day = pl.col("time").dt.date()
    first = orders.filter(day == day.min().over("user_id"))
    assert first["user_taste"].null_count() == first.height
    assert orders["user_taste"].null_count() < orders.height


def test_unclicked_places_of_a_request_with_an_order_are_kept(
    city: Config,
) -> None:
    log = raw(city).filter(pl.col("time").dt.date() < pl.col("time").dt.date().max())
    orders = log.filter("order")
    left = log.filter(~pl.col("click")).join(orders, on="request_id", how="semi")
    data = city.output / "prepare"
    shown = pl.read_parquet(data / "not_taken.parquet")
    assert shown.select("beside", "poi_id").rows() == left.select("request_id", "poi_id").rows()
    names = pl.read_parquet(data / "places.parquet").select("poi_id", "poi_name")
    joined = shown.join(names, on="poi_id", maintain_order="left")
    assert joined["poi_name"].to_list() == joined["poi_name_right"].to_list()
    past = pl.read_parquet(data / "orders.parquet")
    assert set(past["beside"].drop_nulls()) == set(orders["request_id"])


def test_the_same_tables_give_the_same_bytes_in_chunks_of_any_size(
    city: Config, tmp_path: Path
) -> None:
    """The size of chunks only changes the order in which texts are numbered."""
    other = with_tables(city, tmp_path)
    dataset = other.dataset.model_copy(update={"chunk_rows": 100_000})
    other = other.model_copy(update={"dataset": dataset})
    prepare(other)
    first, second = (
        artifacts.manifest(artifacts.folder(config, "prepare")) for config in (city, other)
    )
    numbered = {"features.json", "texts.parquet", "recent_texts.npy", "test/rows.parquet"}
    numbered |= {"train/texts.npy", "test/texts.npy", "place_texts.parquet"}
    for name in set(second["files"]) - numbered:
        assert second["files"][name] == first["files"][name], name
    assert (read_texts(city) == read_texts(other)).all()


def test_a_row_of_the_next_day_has_the_arrays_of_the_log(city: Config) -> None:
    log = raw(city)
    last = log.filter(pl.col("time").dt.date() == log["time"].dt.date().max())
    arrays = Reader(city, city.output / "prepare").table(last.drop("click", "order"))
    for name in ("categories", "numbers", "recent", "texts"):
        assert (arrays[name] == load(city, f"test/{name}")).all(), name


def test_all_users_and_places_have_texts_in_every_situation(city: Config) -> None:
    data, log = city.output / "prepare", raw(city)
    users = pl.read_parquet(data / "users.parquet").select("user_id")
    places = pl.read_parquet(data / "places.parquet").select("poi_id")
    day = log["time"].dt.date().max()
    moments = pl.DataFrame({"time": [datetime.combine(day, time(hour)) for hour in range(24)]})
    scene = log.head(1).drop("user_id", "poi_id", "time", "click", "order")
    rows = pl.concat(
        [
            users.join(places.head(1), how="cross"),
            users.head(1).join(places, how="cross"),
        ]
    )
    rows = rows.join(moments, how="cross").join(scene, how="cross")
    reader = Reader(city, data)
    full = reader.snapshot.enrich(with_time_columns(rows))
    texts = reader.table(rows)["texts"]
    for slot, keyword in enumerate(city.scene_keywords):
        if keyword.owner != "scene":
            has_text_N = Template(keyword).column(full).is_not_null().to_numpy()
            assert has_text_N.any()
            assert (texts[has_text_N, slot] != MISSING).all(), keyword.name
