"""The UCI in-vehicle coupon survey: would you take this food coupon in this scene?

People answered for up to 30 scenes each; an answer is an impression, "yes" a click. There are no
orders, no dates (all answers lie on one day here, so no statistics leak), and the ten kinds of
coupon stand for the places. The split is by respondent.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import numpy as np
import polars as pl

from larr.config import Config
from larr.data.datasets import Dataset
from larr.data.tables import Tables, scan
from larr.errors import DataError
from larr_lab.settings import coupon_settings

WHERE = "https://archive.ics.uci.edu/dataset/603"
SPLIT = 1
"""Draws the people of the test set, the same for each seed."""
SURVEY_DAY = datetime(2020, 1, 1)
UCI_NAMES = {"coupon": "couponType"}
NEEDED = [
    "destination",
    "passanger",
    "weather",
    "temperature",
    "time",
    "couponType",
    "expiration",
    "gender",
    "age",
    "maritalStatus",
    "has_children",
    "education",
    "occupation",
    "income",
    "Bar",
    "CoffeeHouse",
    "CarryAway",
    "RestaurantLessThan20",
    "Restaurant20To50",
    "toCoupon_GEQ15min",
    "toCoupon_GEQ25min",
    "direction_same",
    "Y",
]
NAMES = {
    "Bar": "Bar",
    "Coffee House": "Coffee house",
    "Carry out & Take away": "Takeaway",
    "Restaurant(<20)": "Restaurant under 20 dollars",
    "Restaurant(20-50)": "Restaurant for 20 to 50 dollars",
}
OFFERS = {
    "Bar": "beer, wine, cocktails and bar snacks, with company in the evening",
    "Coffee House": "coffee, tea, cakes and a quiet place to sit, cheap",
    "Carry out & Take away": "hot meals to take along and to eat at home, cheap and quick",
    "Restaurant(<20)": "a plain hot meal at a table, cheap",
    "Restaurant(20-50)": "a good dinner at a table with company, dear",
}
EXPIRES = {"2h": "valid for 2 hours", "1d": "valid for a day"}
HOURS = {"7AM": 7, "10AM": 10, "2PM": 14, "6PM": 18, "10PM": 22}
VISITS = {
    "never": "never",
    "less1": "less than once a month",
    "1~3": "1 to 3 times a month",
    "4~8": "4 to 8 times a month",
    "gt8": "more than 8 times a month",
}
HABITS = {
    "bar": "Bar",
    "coffee": "CoffeeHouse",
    "takeaway": "CarryAway",
    "cheap_restaurant": "RestaurantLessThan20",
    "dear_restaurant": "Restaurant20To50",
}
PROFILE = {
    "gender": "gender",
    "age": "age",
    "marital_status": "maritalStatus",
    "children": "has_children",
    "education": "education",
    "occupation": "occupation",
    "income": "income",
}


def coupon_tables(config: Config, _: Path) -> Tables:
    """The survey as tables of the contract."""
    path = coupon_settings(config).path
    survey = scan(path).collect().with_row_index("answer").rename(UCI_NAMES, strict=False)
    missing = [name for name in NEEDED if name not in survey.columns]
    if missing:
        raise DataError(
            f"{path}: no column {', '.join(missing)}; expected the survey's CSV ({WHERE})"
        )
    if "respondent" not in survey.columns:  # people's answers lie together, in the file of UCI
        person = pl.struct(*PROFILE.values(), *HABITS.values())
        survey = survey.with_columns(respondent=person.rle_id())
    survey = survey.with_columns(
        user_id=pl.format("r{}", "respondent"),
        poi_id=pl.format("{} {}", "couponType", "expiration"),
    )
    return Tables(
        places=_places(survey).lazy(),
        users=_users(survey).lazy(),
        impressions=_impressions(survey, _split(config, survey["user_id"])).lazy(),
    )


def _places(survey: pl.DataFrame) -> pl.DataFrame:
    kinds = survey.select("poi_id", "couponType", "expiration").unique().sort("poi_id")
    return kinds.select(
        "poi_id",
        name=pl.col("couponType").replace_strict(NAMES, default=pl.col("couponType")),
        offer=pl.col("couponType").replace_strict(OFFERS, default=None, return_dtype=pl.String),
        expires=pl.col("expiration").replace_strict(EXPIRES, default=pl.col("expiration")),
        kind="couponType",
    )


def _users(survey: pl.DataFrame) -> pl.DataFrame:
    habits = {
        name: pl.col(column).replace_strict(VISITS, default=None, return_dtype=pl.String)
        for name, column in HABITS.items()
    }
    profile = {name: pl.col(column).cast(pl.String) for name, column in PROFILE.items()}
    profile["children"] = (
        pl.when(pl.col("has_children") == 1)
        .then(pl.lit("with children"))
        .otherwise(pl.lit("no children"))
    )
    return survey.unique("user_id", keep="first", maintain_order=True).select(
        "user_id", **profile, **habits
    )


def _impressions(survey: pl.DataFrame, split: pl.DataFrame) -> pl.DataFrame:
    hour = pl.col("time").replace_strict(HOURS, default=None, return_dtype=pl.Int64)
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


def _split(config: Config, user_id: pl.Series) -> pl.DataFrame:
    people = user_id.unique(maintain_order=True)
    order = np.random.default_rng(SPLIT).permutation(len(people))
    tested = order < round(coupon_settings(config).test_share * len(people))
    split = pl.Series(np.where(tested, "test", "train"))
    return pl.DataFrame({"user_id": people, "split": split})


COUPON = Dataset(coupon_tables, files=("dataset.coupon.path",))
