"""A small `prepare/` folder, in which orders depend on city and cuisine."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from larr import artifacts
from larr.config import Config

CITIES = ["Chengdu", "Guangzhou", "Harbin", "Xi'an"]
DISHES = {
    "Sichuan": ["mapo tofu", "boiled fish", "chili chicken", "dan dan noodles"],
    "Cantonese": ["rice noodle roll", "roast goose", "claypot rice", "shrimp dumplings"],
    "northern": ["lamb skewers", "sour cabbage stew", "pork dumplings", "flatbread soup"],
    "dessert": ["mango pudding", "milk tea", "sesame balls", "ice cream"],
}
CUISINES = list(DISHES)
KEYWORDS = [
    {"name": "user_base", "owner": "user", "view": "profile", "template": "{user_home_city}"},
    {"name": "user_taste", "owner": "user", "view": "action", "template": "{taste}"},
    {"name": "scene_time", "owner": "scene", "view": "action", "template": "{meal_slot}"},
    {
        "name": "poi_name",
        "owner": "poi",
        "view": "business",
        "prompt": True,
        "template": "{poi_name}",
    },
    {"name": "poi_menu", "owner": "poi", "view": "business", "template": "{poi_menu}"},
    {
        "name": "poi_tags",
        "owner": "poi",
        "view": "basic",
        "scene": False,
        "template": "{poi_tags}",
    },
]


def load(config: Config, name: str) -> np.ndarray:
    """Returns an array of `prepare/`."""
    return np.load(config.output / "prepare" / f"{name}.npy")


def make_data(
    output: Path,
    places: int = 60,
    users: int = 40,
    orders: int = 300,
    seed: int = 1,
    **sections: dict[str, Any],
) -> Config:
    """Writes prepare/ and returns the configuration; `sections` change settings."""
    settings: dict[str, Any] = {
        "seed": seed,
        "output": output,
        "keywords": KEYWORDS,
        "backbone": {"max_length": 64},
        "pretrain": {"max_steps": 2, "batch_size": 8},
        "contrast": {"triples": 32, "batch_size": 8, "held_out": 0.3},
        "align": {"models": ["ple", "larr"]},
    }
    for name, changed in sections.items():
        settings[name] = settings.get(name, {}) | changed
    config = Config.model_validate(settings)
    random = np.random.default_rng(seed)
    with artifacts.building(config, "prepare") as work:
        table = _places(random, places)
        taken = _orders(random, table, users, orders)
        table.write_parquet(work.folder / "descriptions.parquet")
        city = pl.col("poi_name").str.split(" in ").list.last()
        table.select("poi_id", poi_city=city).write_parquet(work.folder / "places.parquet")
        taken.write_parquet(work.folder / "orders.parquet")
        _not_taken(random, table, taken).write_parquet(work.folder / "not_taken.parquet")
        _texts(table, taken).write_parquet(work.folder / "texts.parquet")
        _write_arrays(work.folder, taken)
    return config


def _places(random: np.random.Generator, places: int) -> pl.DataFrame:
    rows = []
    for number in range(places):
        city, cuisine = CITIES[number % 4], CUISINES[number // 4 % 4]
        chain = f"{cuisine} House" if number % 5 == 0 else None
        dishes = random.permutation(DISHES[cuisine])[:3]
        rows.append(
            {
                "poi_id": f"p{number}",
                "chain": chain,
                "poi_name": f"{chain or 'Shop ' + str(number)} in {city}",
                "poi_menu": ", ".join(dishes),
                "poi_tags": f"{cuisine} food" if number % 11 else None,
            }
        )
    return pl.DataFrame(rows, infer_schema_length=None)


def _orders(
    random: np.random.Generator, places: pl.DataFrame, users: int, orders: int
) -> pl.DataFrame:
    rows = []
    for number in range(orders):
        user = int(random.integers(users))
        city, cuisine = user % 4, user // 4 % 4
        fitting = [at for at in range(len(places)) if at % 4 == city and at // 4 % 4 == cuisine]
        place = places.row(int(random.choice(fitting)), named=True)
        rows.append(
            {
                "user_id": f"u{user}",
                "time": datetime(2024, 4, 1) + timedelta(minutes=number),
                "beside": f"r{number}",
                "log_row": number,
                "user_base": f"lives in {CITIES[city]}",
                "user_taste": f"likes {CUISINES[cuisine]} food" if number % 7 else None,
                "scene_time": ["lunch", "dinner"][int(random.integers(2))],
                **place,
            }
        )
    return pl.DataFrame(rows, infer_schema_length=None)


def _not_taken(
    random: np.random.Generator, places: pl.DataFrame, orders: pl.DataFrame
) -> pl.DataFrame:
    """Returns three other places for each order."""
    shown = []
    for order in orders.iter_rows(named=True):
        others = places.filter(pl.col("poi_id") != order["poi_id"])
        rows = others[random.permutation(len(others))[:3].tolist()]
        shown.append(rows.select(pl.lit(order["beside"]).alias("beside"), pl.all()))
    return pl.concat(shown).with_columns(log_row=pl.lit(None, pl.UInt32))


def _write_arrays(folder: Path, orders: pl.DataFrame) -> None:
    """Writes the arrays by which rows are held back: here the last of six days."""
    day_N = np.arange(len(orders)) * 6 // len(orders)
    for split, days in (("train", day_N), ("test", np.array([6]))):
        (folder / split).mkdir()
        for name in ("days", "labels"):
            np.save(folder / split / f"{name}.npy", days[:, None])


def _texts(places: pl.DataFrame, orders: pl.DataFrame) -> pl.DataFrame:
    named = [keyword["name"] for keyword in KEYWORDS if keyword.get("scene", True)]
    both = pl.concat([orders, places], how="diagonal")
    long = both.unpivot(named, variable_name="keyword", value_name="text").drop_nulls("text")
    distinct = long.unique(maintain_order=True).with_row_index("text_id")
    return distinct.with_columns(pl.col("text_id").cast(pl.Int32))
