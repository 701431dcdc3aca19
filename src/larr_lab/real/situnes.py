"""SiTunes: does a person like this song, in this weather, at this time, doing this?

Grigorev, Li, Ma et al., CHIIR'24. 30 people rated songs that they heard in two field studies. Each
rated song is a request of one candidate; a rating of 3 or more is a click, as in the paper's
experiment. The split is one of the paper's ten (101 to 110), chosen by the seed of the run. Its
validation rows are trained on, too: larr holds back rows itself for what it decides. Emotions are
not read, as in the paper.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from larr.config import Config
from larr.data.datasets import Dataset, Tables
from larr_lab.real.files import table
from larr_lab.settings import situnes_settings

SOURCE = "JiayuLi-997/SiTunes_dataset on GitHub"
SPLITS = "Experiments/Situational_recommendation/dataset"
SONGS = "SiTunes/music_metadata"
FIRST_SPLIT, NUMBER_OF_SPLITS = 101, 10
PERIODS = ("morning", "afternoon", "evening")
WEATHERS = {"weather_sunny": "sunny", "weather_cloudy": "cloudy", "weather_rainy": "rainy"}
ACTIVITIES = {
    "still": "still",
    "act2still": "coming to rest",
    "walking": "walking",
    "sleeping": "lying down",
    "running": "running",
}
NUMBERS = {
    "weather2": "pressure_hpa",
    "weather3": "temperature_c",
    "weather4": "humidity",
    "GPS1": "gps_1",
    "GPS2": "gps_2",
    "GPS3": "speed",
    "relative_HB_mean": "heart_rate",
    "relative_HB_std": "heart_rate_deviation",
    "activity_intensity_mean": "intensity",
    "activity_intensity_std": "intensity_deviation",
    "activity_step_mean": "steps",
    "activity_step_std": "steps_deviation",
}
"""Measured numbers of a situation -> their names in the log."""
SOUND = (
    *("popularity", "loudness", "danceability", "energy", "speechiness", "acousticness"),
    *("instrumentalness", "valence", "tempo", "duration"),
)


def situnes_tables(config: Config, _: Path) -> Tables:
    """Returns the rated songs of a split as tables of the contract."""
    settings = situnes_settings(config)
    split = FIRST_SPLIT + (config.seed - 1) % NUMBER_OF_SPLITS
    name = f"setting{settings.setting}-{split}"
    columns = ("user_id", "item_id", "rating", "timestamp", *PERIODS, *WEATHERS, *ACTIVITIES)
    parts = []
    for part in ("train", "valid", "test"):
        path = settings.path / SPLITS / name / f"{name}.{part}.inter"
        rows = table(path, (*columns, *NUMBERS), SOURCE, separator="\t")
        parts.append(rows.with_columns(split=pl.lit("test" if part == "test" else "train")))
    rated = pl.concat(parts).with_row_index("row")
    return Tables(
        places=_songs(settings.path / SONGS),
        users=rated.select(pl.col("user_id").unique(maintain_order=True)),
        impressions=_impressions(rated),
    )


def _songs(folder: Path) -> pl.LazyFrame:
    """Returns a row for each song; those without a name have a number as name."""
    songs = table(folder / "music_info.csv", ("item_id", "key", "general_genre", *SOUND), SOURCE)
    names = table(folder / "music_info_withname.csv", ("i_id_c", "music", "singer"), SOURCE)
    names = names.with_columns(item_id=_whole("i_id_c"))
    return songs.join(names, on="item_id", how="left", maintain_order="left").select(
        pl.col(*SOUND).cast(pl.Float64),
        "singer",
        poi_id="item_id",
        name=pl.col("music").fill_null(pl.format("song {}", "item_id")),
        genre="general_genre",
        key=_whole("key"),
    )


def _impressions(rated: pl.LazyFrame) -> pl.LazyFrame:
    """Returns a row for each rated song, in the order of the files."""
    seconds = pl.col("timestamp").cast(pl.Int64)
    local = pl.from_epoch(seconds).dt.replace_time_zone("UTC").dt.convert_time_zone("Asia/Shanghai")
    return rated.select(
        *(pl.col(column).cast(pl.Float64).alias(name) for column, name in NUMBERS.items()),
        "user_id",
        "split",
        request_id="row",
        poi_id="item_id",
        time=local.dt.replace_time_zone(None),
        click=pl.col("rating").cast(pl.Float64) >= 3,
        period=_chosen({name: name for name in PERIODS}),
        weather=_chosen(WEATHERS),
        activity=_chosen(ACTIVITIES),
    )


def _whole(column: str) -> pl.Expr:
    """Returns whole numbers as they are written without a fraction: 874 of 874.0."""
    return pl.col(column).str.strip_suffix(".0")


def _chosen(words: dict[str, str]) -> pl.Expr:
    """Returns the word of that column which is 1; the columns have 1 in at most one of them."""
    return pl.coalesce(
        pl.when(pl.col(column) == "1").then(pl.lit(word)) for column, word in words.items()
    )


SITUNES = Dataset(situnes_tables)
