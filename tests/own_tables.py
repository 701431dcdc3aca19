"""Small CSV tables with other column names than the contract's."""

from pathlib import Path

import polars as pl

from larr.config import Config
from larr.settings import load_config

TABLES = {
    "places": pl.DataFrame({"id": ["p1", "p2"], "title": ["Noodles", "Tea"]}),
    "users": pl.DataFrame({"user_id": [1, 2]}),
    "impressions": pl.DataFrame(
        {
            "request_id": ["a", "a", "b", "c"],
            "user_id": [1, 1, 2, 1],
            "poi_id": ["p1", "p2", "p1", "p2"],
            "time": ["2024-04-01 12:00:00"] * 3 + ["2024-04-02 12:00:00"],
            "click": [1, 0, 0, 1],
        }
    ),
}
WITH_DUPLICATE = pl.DataFrame(
    {
        "request_id": ["a", "a", "b", "a", "c"],
        "user_id": [1, 1, 2, 1, 1],
        "poi_id": ["p1", "p2", "p1", "p1", "p2"],
        "time": ["2024-04-01 12:00:00+08:00"] * 4 + ["2024-04-02 12:00:00+08:00"],
        "click": [1, 0, 0, 1, 1],
    }
)
"""Impressions; the fourth row repeats the key of the first."""


def write_own(folder: Path, **changes: pl.DataFrame) -> list[str]:
    """Writes `TABLES` with changes; returns the settings that name the files."""
    tables = TABLES | changes
    for name, table in tables.items():
        table.write_csv(folder / f"{name}.csv")
    return [
        f"output={folder}/out",
        "dataset.kind=tables",
        *(f"dataset.tables.{name}={folder}/{name}.csv" for name in tables),
        "dataset.tables.rename.places={poi_id='id', name='title'}",
    ]


def own_config(folder: Path, overrides: list[str]) -> Config:
    """A configuration with a keyword of each side and three categories."""
    (folder / "mine.toml").write_text(
        '[features]\ncategories = ["user_id", "poi_id", "meal_slot"]\nrecent = 2\n'
        '[[keywords]]\nname = "poi_title"\nowner = "poi"\nview = "business"\n'
        'template = "{poi_name}"\nprompt = true\n'
        '[[keywords]]\nname = "member"\nowner = "user"\nview = "profile"\n'
        'template = "{user_id}"\n'
    )
    return load_config(folder / "mine.toml", overrides)
