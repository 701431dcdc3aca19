"""The coupon survey becomes tables of the contract, split by respondent."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from larr.config import Config
from larr.data.prepare import prepare
from larr.errors import DataError
from larr.settings import load_config
from larr_lab.real.coupon import SURVEY, coupon_tables
from tests.conftest import ROOT


def survey(people: int, answers: int) -> pl.DataFrame:
    """Returns a random survey of the same form."""
    rng = np.random.default_rng(0)
    rows = people * answers
    person = np.repeat(np.arange(people), answers)
    columns = {
        "respondent": person,
        "destination": rng.choice(["Home", "Work", "No Urgent Place"], rows),
        "passanger": rng.choice(["Alone", "Friend(s)"], rows),
        "weather": rng.choice(["Sunny", "Rainy"], rows),
        "temperature": rng.choice([30, 55, 80], rows),
        "time": rng.choice(list(SURVEY["hours"]), rows),
        "couponType": rng.choice(list(SURVEY["names"]), rows),
        "expiration": rng.choice(list(SURVEY["expires"]), rows),
        "toCoupon_GEQ15min": rng.integers(0, 2, rows),
        "toCoupon_GEQ25min": rng.integers(0, 2, rows),
        "direction_same": rng.integers(0, 2, rows),
        "Y": rng.integers(0, 2, rows),
        "has_children": person % 2,
    }
    for column in SURVEY["profile"].values():
        columns.setdefault(column, np.array([f"{column} {p % 3}" for p in person]))
    for column in SURVEY["habits"].values():
        columns[column] = np.array(list(SURVEY["visits"]))[person % len(SURVEY["visits"])]
    return pl.DataFrame(columns)


@pytest.fixture
def config(tmp_path: Path) -> Config:
    survey(40, 6).write_csv(tmp_path / "coupon.csv")
    return load_config(
        ROOT / "configs" / "coupon.toml",
        [f"output={tmp_path}/out", f"dataset.coupon.path={tmp_path}/coupon.csv"],
    )


def test_respondents_are_either_trained_on_or_tested(config: Config) -> None:
    log = coupon_tables(config, Path()).impressions.collect()
    sides = log.group_by("user_id").agg(pl.col("split").n_unique())
    assert sides["split"].max() == 1
    tested = log.filter(pl.col("split") == "test")["user_id"].n_unique()
    assert tested == round(0.3 * 40)


def test_an_answer_becomes_an_impression(config: Config) -> None:
    source = pl.read_csv(config.dataset.coupon.path)
    log = coupon_tables(config, Path()).impressions.collect()
    assert log["click"].to_list() == (source["Y"] == 1).to_list()
    assert log["time"].dt.hour().to_list() == [SURVEY["hours"][time] for time in source["time"]]
    assert log["temperature_c"][0] == pytest.approx((source["temperature"][0] - 32) / 1.8)


def test_no_answer_reaches_a_text_or_a_number(config: Config, tmp_path: Path) -> None:
    """All answers are of one day, so every statistic is that of an unknown user or place."""
    prepare(config)
    source = pl.read_csv(config.dataset.coupon.path)
    source.with_columns(Y=1 - pl.col("Y")).write_csv(tmp_path / "flipped.csv")
    flipped = config.model_copy(
        update={
            "output": tmp_path / "flipped",
            "dataset": config.dataset.model_copy(
                update={
                    "coupon": config.dataset.coupon.model_copy(
                        update={"path": tmp_path / "flipped.csv"}
                    )
                }
            ),
        }
    )
    prepare(flipped)
    for name in ("train/categories", "test/categories", "train/texts", "test/texts"):
        before, after = (np.load(c.output / "prepare" / f"{name}.npy") for c in (config, flipped))
        assert (before == after).all(), name
    labels = [np.load(c.output / "prepare" / "train" / "labels.npy") for c in (config, flipped)]
    assert (labels[0] == 1 - labels[1]).all()


def test_without_respondent_numbers_profiles_identify_people(config: Config) -> None:
    numbered = coupon_tables(config, Path()).impressions.collect()
    source = pl.read_csv(config.dataset.coupon.path).rename({"couponType": "coupon"})
    source.drop("respondent").write_csv(config.dataset.coupon.path)
    by_profile = coupon_tables(config, Path()).impressions.collect()
    assert by_profile.equals(numbered)


def test_another_table_is_refused(config: Config) -> None:
    pl.DataFrame({"respondent": [1]}).write_csv(config.dataset.coupon.path)
    with pytest.raises(DataError, match="no column destination"):
        coupon_tables(config, Path())
