"""MovieLens 100k: does a person like this film? No food, and a scene of little more than the time.

Harper and Konstan, ACM TiiS 5(4), 2015; for research, not to be passed on. A click is a film with
four stars or five, an order one with five; the films that a person rated in a second are a request.
The last `dataset.test_days` days are tested.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from larr.config import Config
from larr.data.datasets import Dataset, Tables
from larr_lab.real.files import table
from larr_lab.settings import path_of

SOURCE = "RUCAIBox/RecBole on GitHub, dataset/ml-100k"


def films_tables(config: Config, _: Path) -> Tables:
    """Returns the ratings as tables of the contract, at the time of the raters' university."""
    films = _table(config, "item", "item_id", "movie_title", "release_year", "class")
    people = _table(config, "user", "user_id", "age", "gender", "occupation")
    ratings = _table(config, "inter", "user_id", "item_id", "rating", "timestamp")
    stars, seconds = pl.col("rating").cast(pl.Float64), pl.col("timestamp").cast(pl.Int64)
    local = (
        pl.from_epoch(seconds).dt.replace_time_zone("UTC").dt.convert_time_zone("America/Chicago")
    )
    return Tables(
        places=films.select(
            "release_year",
            poi_id="item_id",
            name="movie_title",
            genres=pl.col("class").str.replace_all(" ", ", "),
        ),
        users=people.with_columns(pl.col("age").cast(pl.Int64)),
        impressions=ratings.select(
            "user_id",
            request_id=pl.format("{}-{}", "user_id", "timestamp"),
            poi_id="item_id",
            time=local.dt.replace_time_zone(None),
            click=stars >= 4,
            order=stars >= 5,
        ),
    )


def _table(config: Config, kind: str, *columns: str) -> pl.LazyFrame:
    path = path_of(config, "films") / f"ml-100k.{kind}"
    return table(path, columns, SOURCE, separator="\t")


FILMS = Dataset(films_tables)
