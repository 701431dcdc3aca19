"""`prepare/` of a user's own tables: names, missing values, weights, and settings."""

import re
from itertools import chain
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from larr import artifacts
from larr.config import Config
from larr.data.features import read_features
from larr.data.prepare import prepare
from larr.errors import ConfigError, DataError
from larr.serve.features import Reader
from larr.stages import RUN, STAGES
from tests.fake_data import load
from tests.own_tables import TABLES, WITH_DUPLICATE, own_config, write_own


def test_single_candidates_are_joined_by_user(tmp_path: Path) -> None:
    alone = TABLES["impressions"].with_columns(request_id=pl.Series(["a", "b", "c", "d"]))
    config = own_config(tmp_path, write_own(tmp_path, impressions=alone))
    prepare(config)
    shown = pl.read_parquet(tmp_path / "out" / "prepare" / "not_taken.parquet")
    orders = pl.read_parquet(tmp_path / "out" / "prepare" / "orders.parquet")
    assert (shown["beside"].to_list(), orders["beside"].to_list()) == (["1"], ["1"])
    assert (shown["poi_id"].to_list(), orders["poi_id"].to_list()) == (["p2"], ["p1"])


def test_csv_tables_are_stale_after_a_change(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = own_config(tmp_path, write_own(tmp_path))
    prepare(config)
    assert "poi_title: in 100% of the rows, 2 texts, such as “Noodles”" in capsys.readouterr().err
    features = read_features(tmp_path / "out" / "prepare")
    assert (features.tasks, features.train_rows, features.test_rows) == (("click",), 3, 1)
    assert load(config, "train/labels").tolist() == [[1], [0], [0]]
    assert load(config, "test/recent").tolist() == [[1, 0]]
    assert artifacts.stage(config, "prepare").is_current()
    write_own(tmp_path, impressions=WITH_DUPLICATE)
    assert "impressions.csv" in str(artifacts.stage(config, "prepare").why_stale())


@pytest.mark.parametrize("split", [[], ["train", "test", "train", "test"]])
def test_without_test_days_all_rows_train(tmp_path: Path, split: list[str]) -> None:
    log = TABLES["impressions"].with_columns([pl.Series("split", split)] if split else [])
    config = own_config(
        tmp_path,
        [*write_own(tmp_path, impressions=log), "dataset.test_days=0", "dataset.test_share=0.5"],
    )
    prepare(config)
    data = tmp_path / "out" / "prepare"
    features = read_features(data)
    assert (features.train_rows, features.test_rows) == (4, 0)
    assert (
        len(load(config, "test/labels")) == pl.read_parquet(data / "test/rows.parquet").height == 0
    )
    assert load(config, "train/recent").tolist() == [[0, 0], [0, 0], [0, 0], [1, 0]]
    requests = pl.read_parquet(data / "requests.parquet")
    assert requests["request_id"].unique().sort().to_list() == ["a", "b"]
    latest_first = load(config, "known/histories")[1, 0, :2].tolist()
    assert latest_first == [2, 1], "a version knows the clicks of the last day"
    assert "evaluate" not in [verb for verb in RUN if STAGES[verb].is_needed(config)]


def test_weights_have_the_mean_1_in_training(tmp_path: Path) -> None:
    weighted = TABLES["impressions"].with_columns(weight=pl.Series([1, 2, 3, 4]))
    config = own_config(tmp_path, write_own(tmp_path, impressions=weighted))
    prepare(config)
    assert load(config, "train/weights").tolist() == [[0.5], [1], [1.5]]
    assert load(config, "test/weights").tolist() == [[2]]


def test_a_feature_that_is_unknown_in_most_rows_is_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dates = WITH_DUPLICATE.with_columns(time=pl.col("time").str.head(10))
    overrides = [*write_own(tmp_path, impressions=dates), "features.categories=['poi_id','time']"]
    prepare(own_config(tmp_path, overrides))
    printed = " ".join(capsys.readouterr().err.split())
    assert "time: missing or new in 100% of the test rows" in printed


def test_infinity_in_another_column_is_missing(tmp_path: Path) -> None:
    prices = pl.DataFrame({"id": ["p1", "p2"], "title": ["a", "b"], "per_km": [1.0, float("inf")]})
    overrides = [*write_own(tmp_path, places=prices), "features.numbers=['poi_per_km']"]
    prepare(own_config(tmp_path, overrides))
    scales = pl.read_parquet(tmp_path / "out" / "prepare" / "vocabularies" / "scales.parquet")
    assert scales.row(0) == ("poi_per_km", 1.0, 1.0)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("features.numbers=['poi_name']", "features.numbers: poi_name must hold numbers"),
        ("buckets=[{column='poi_name', words=['low', 'high']}]", "buckets: poi_name must hold"),
        ("contrast.near=city", "contrast.near: cannot read city; expected a column of places"),
    ],
)
def test_a_setting_with_an_invalid_column_is_refused(
    tmp_path: Path, setting: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        prepare(own_config(tmp_path, [*write_own(tmp_path), setting]))


def test_blank_texts_are_missing_and_integers_have_no_point(tmp_path: Path) -> None:
    places = pl.DataFrame(
        {"id": ["p1", "p2"], "title": ["Noodles", "Tea"], "chain": [" ", ""], "stars": [4.0, None]}
    )
    overrides = write_own(tmp_path, places=places)
    overrides.append(
        "keywords=[{name='k', owner='poi', view='basic', template='{poi_stars} stars'}, "
        "{name='u', owner='user', view='profile', template='{user_id}'}]"
    )
    overrides.append("features.categories=['user_id', 'poi_id', 'poi_stars']")
    config = own_config(tmp_path, overrides)
    prepare(config)
    texts = pl.read_parquet(tmp_path / "out" / "prepare" / "descriptions.parquet")
    assert texts["chain"].to_list() == [None, None]
    assert texts["k"].to_list() == ["4 stars", None]
    words = pl.read_parquet(tmp_path / "out" / "prepare" / "vocabularies" / "category-2.parquet")
    assert words["value"].to_list() == ["4"]


NAMES = ["row", "row_number", "log_row", "beside", "number", "first", "second", "places", "value"]
NAMES += ["user", "place", "file", "clicks", "reason", "reason_given", "columns", "column"]
NAMES += ["a/b", "../up", "scales", "fee[/km]", "x{y}", "a*", "000", "价格", "n" * 300, "."]


def named(names: list[str], folder: Path) -> Config:
    """Prepares tables with columns of each name that features, statistics and profiles read."""
    log = pl.concat([TABLES["impressions"], WITH_DUPLICATE.tail(1)], how="diagonal_relaxed")
    values = {"impressions": list("abaaa"), "places": ["x, y", "z"], "users": ["u", "v"]}
    tables = {
        table: rows.with_columns(pl.Series(name, values[table]) for name in names)
        for table, rows in (TABLES | {"impressions": log}).items()
    }
    numbers = [f"{name} 2" for name in names]
    tables["impressions"] = tables["impressions"].with_columns(pl.lit(2).alias(n) for n in numbers)
    settings = own_config(folder, write_own(folder, **tables)).model_dump()
    owned = [(name, f"poi_{name}", f"user_{name}", f"{name} 2_level") for name in names]
    settings["features"] |= {"categories": list(chain(["user_id", "poi_id"], *owned))}
    settings["features"] |= {"numbers": numbers, "candidate_columns": names}
    settings["buckets"] = [{"column": number, "words": ["low", "high"]} for number in numbers]
    pairs = chain(*([("user_id", name), (name, f"poi_{name}")] for name in names))
    settings["statistics"] = [{"columns": pair} for pair in pairs]
    settings["profiles"] = [
        {"name": f"likes_{n}", "column": name, "within": f"{name} 2"}
        for n, name in enumerate(names)
    ]
    config = Config.model_validate(settings)
    prepare(config)
    return config


def test_columns_can_have_any_name(tmp_path: Path) -> None:
    names = ["mood", *NAMES]
    config = named(names, tmp_path)
    for split in ("train", "test"):
        category_NF, number_NM = (load(config, f"{split}/{a}") for a in ("categories", "numbers"))
        first, *others = np.split(category_NF[:, 2:], len(names), axis=1)
        statistics_NM = number_NM[:, len(names) :]
        first_statistics, *other_statistics = np.split(statistics_NM, len(names), axis=1)
        for name, categories, numbers in zip(NAMES, others, other_statistics, strict=True):
            np.testing.assert_array_equal(categories, first, name)
            np.testing.assert_array_equal(numbers, first_statistics, name)
    assert first_statistics.any()
    reader = Reader(config, tmp_path / "out" / "prepare")
    assert list(reader.encoder.vocabularies) == config.features.categories


@pytest.mark.parametrize("name", ["^.*$", "*", "larr:row"])
def test_an_invalid_column_name_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"invalid column name {re.escape(repr(name))}; rename"):
        named([name], tmp_path)


def test_a_failed_prepare_keeps_the_old_data(tmp_path: Path) -> None:
    config = own_config(tmp_path, write_own(tmp_path))
    prepare(config)
    wrong = own_config(tmp_path, [*write_own(tmp_path), "features.numbers=['poi_height']"])
    with pytest.raises(ConfigError, match="poi_height"):
        prepare(wrong)
    assert load(config, "train/labels").tolist() == [[1], [0], [0]]
    prepare(config)
    assert artifacts.stage(config, "prepare").is_current()
    assert not (tmp_path / "out" / "prepare.partial").exists()


def test_columns_of_the_log_do_not_replace_counts(tmp_path: Path) -> None:
    log = WITH_DUPLICATE.with_columns(
        value=pl.lit("nothing"), spent_yuan=pl.lit(999.0), day_no=pl.lit(1)
    )
    places = pl.DataFrame(
        {"id": ["p1", "p2"], "title": ["Noodles", "Tea"], "price_yuan": [20.0, 30.0]}
        | {"kitchen": ["north", "south"], "ad_impressions": [7.0, None]}
    )
    overrides = write_own(tmp_path, impressions=log, places=places)
    overrides.append("profiles=[{name='taste', column='kitchen'}]")
    overrides.append("features.numbers=['poi_ad_impressions']")
    prepare(own_config(tmp_path, overrides))
    users = pl.read_parquet(tmp_path / "out" / "prepare" / "known" / "users.parquet").sort(
        "user_id"
    )
    assert users["taste"].to_list() == ["north", None]
    assert users["user_order_price_yuan"].to_list() == [20.0, None]
    numbers = np.load(tmp_path / "out" / "prepare" / "train" / "numbers.npy")
    assert numbers[:, 0].tolist() == [0.0] * 3, "what is missing is the mean"


def test_a_profile_can_be_within_any_column_of_the_log(tmp_path: Path) -> None:
    log = WITH_DUPLICATE.with_columns(stress_level=pl.Series(["low", "low", "high", "low", "low"]))
    overrides = write_own(tmp_path, impressions=log)
    overrides.append("profiles=[{name='likes', column='name', within='stress_level'}]")
    prepare(own_config(tmp_path, overrides))
    known = pl.read_parquet(tmp_path / "out" / "prepare" / "known" / "situation-likes.parquet")
    assert known.select("stress_level", "likes").rows() == [("low", "Noodles")]
