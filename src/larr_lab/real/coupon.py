"""The UCI in-vehicle coupon survey: would you take this food coupon in this scene?

People answered for up to 30 scenes each. An answer is an impression, "yes" a click; the ten kinds
of coupon are the places. The survey has no orders and no dates: all answers get the same day, so
that no statistic of an earlier day contains an answer. The split is by respondent.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import numpy as np
import polars as pl

from larr.config import Config
from larr.data.datasets import Dataset, Tables
from larr.errors import DataError
from larr_lab import knowledge
from larr_lab.settings import path_of

SOURCE = "https://archive.ics.uci.edu/dataset/603"
SPLIT_SEED = 1
"""Draws the respondents of the test set, the same for each seed of a run."""
TEST_SHARE = 0.3
"""Share of the respondents in the test set."""
SURVEY_DAY = datetime(2020, 1, 1)
UCI_NAMES = {"coupon": "couponType"}
"""The name of a column in UCI's file -> the name in other copies of the survey."""
SURVEY = knowledge.toml("larr_lab", "tables/coupon.toml")
COLUMNS = [
    *("destination", "passanger", "weather", "temperature", "time", "couponType", "expiration"),
    *("toCoupon_GEQ15min", "toCoupon_GEQ25min", "direction_same", "Y"),
    *SURVEY["profile"].values(),
    *SURVEY["habits"].values(),
]
"""The columns of the survey that are read."""


def coupon_tables(config: Config, _: Path) -> Tables:
    """Returns the survey as tables of the contract; DataError if a column is missing."""
    path = path_of(config, "coupon")
    survey = pl.read_csv(path).with_row_index("answer").rename(UCI_NAMES, strict=False)
    missing = [name for name in COLUMNS if name not in survey.columns]
    if missing:
        raise DataError(
            f"{path}: no column {', '.join(missing)}; expected the survey's CSV ({SOURCE})"
        )
    if "respondent" not in survey.columns:  # in UCI's file the answers of a person are adjacent
        person = pl.struct(*SURVEY["profile"].values(), *SURVEY["habits"].values())
        survey = survey.with_columns(respondent=person.rle_id())
    survey = survey.with_columns(
        user_id=pl.format("r{}", "respondent"),
        poi_id=pl.format("{} {}", "couponType", "expiration"),
    )
    return Tables(
        places=_places(survey).lazy(),
        users=_users(survey).lazy(),
        impressions=_impressions(survey, _split(survey["user_id"])).lazy(),
    )


def _places(survey: pl.DataFrame) -> pl.DataFrame:
    """Returns a row for each kind of coupon."""
    kinds = survey.select("poi_id", "couponType", "expiration").unique().sort("poi_id")
    return kinds.select(
        "poi_id",
        name=pl.col("couponType").replace(SURVEY["names"]),
        offer=pl.col("couponType").replace_strict(SURVEY["offers"], default=None),
        expires=pl.col("expiration").replace(SURVEY["expires"]),
        kind="couponType",
    )


def _users(survey: pl.DataFrame) -> pl.DataFrame:
    """Returns a row for each respondent: the profile, and how often they go out."""
    habits = {
        name: pl.col(column).replace_strict(SURVEY["visits"], default=None)
        for name, column in SURVEY["habits"].items()
    }
    profile = {name: pl.col(column).cast(pl.String) for name, column in SURVEY["profile"].items()}
    parent = pl.col("has_children") == 1
    profile["children"] = (
        pl.when(parent).then(pl.lit("with children")).otherwise(pl.lit("no children"))
    )
    return survey.unique("user_id", keep="first", maintain_order=True).select(
        "user_id", **profile, **habits
    )


def _impressions(survey: pl.DataFrame, split: pl.DataFrame) -> pl.DataFrame:
    """Returns a row for each answer."""
    hour = pl.col("time").replace_strict(SURVEY["hours"], default=None)
    minutes = (
        pl.when(pl.col("toCoupon_GEQ25min") == 1)
        .then(pl.lit("more than 25 minutes away"))
        .when(pl.col("toCoupon_GEQ15min") == 1)
        .then(pl.lit("15 to 25 minutes away"))
        .otherwise(pl.lit("less than 15 minutes away"))
    )
    on_the_way = pl.when(pl.col("direction_same") == 1).then(pl.lit("on the way"))
    return survey.join(split, on="user_id", maintain_order="left").select(
        pl.format("a{}", "answer").alias("request_id"),
        "user_id",
        "poi_id",
        pl.lit(SURVEY_DAY).dt.offset_by(pl.format("{}h", hour)).alias("time"),
        pl.col("destination").str.to_lowercase(),
        pl.col("passanger").str.to_lowercase().alias("company"),
        pl.col("weather").str.to_lowercase(),
        ((pl.col("temperature") - 32) / 1.8).alias("temperature_c"),
        minutes.alias("distance"),
        on_the_way.otherwise(pl.lit("the other direction")).alias("direction"),
        (pl.col("Y") == 1).alias("click"),
        "split",
    )


def _split(user_id: pl.Series) -> pl.DataFrame:
    """Returns `train` or `test` for each respondent."""
    people = user_id.unique(maintain_order=True)
    order = np.random.default_rng(SPLIT_SEED).permutation(len(people))
    is_tested = order < round(TEST_SHARE * len(people))
    return pl.DataFrame({"user_id": people, "split": np.where(is_tested, "test", "train")})


COUPON = Dataset(coupon_tables)
