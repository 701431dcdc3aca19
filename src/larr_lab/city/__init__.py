"""The built-in city: a simulated country of food delivery, all described in docs/city.md."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq

from larr.config import Config
from larr.data.datasets import Dataset
from larr.data.tables import Tables, scan
from larr.progress import track
from larr_lab.city.behaviour import make_world
from larr_lab.city.choice import make_model
from larr_lab.city.frames import (
    Country,
    Names,
    impressions,
    orders,
    place_table,
    rows_of_days,
    user_table,
)
from larr_lab.settings import CityConfig, city_settings

Progress = Callable[[int, int], None]


def city_tables(config: Config, folder: Path) -> Tables:
    """The tables of the built-in city, simulated into `folder`."""
    settings = city_settings(config)
    folder.mkdir()
    with track("simulating the city", settings.impressions, "impressions") as advance:
        done = 0

        def progress(now: int, _: int) -> None:
            nonlocal done
            advance(now - done)
            done = now

        write(settings, config.seed, folder, progress)
    return Tables(
        places=scan(folder / "places.parquet"),
        users=scan(folder / "users.parquet"),
        impressions=scan(folder / "impressions"),
        orders=scan(folder / "orders"),
    )


CITY = Dataset(city_tables, users_per_seed=True)


def write(config: CityConfig, seed: int, folder: Path, progress: Progress) -> None:
    """Writes the tables of a country; `progress(done, total)` counts impressions."""
    world = make_world(config, seed)
    country = Country(world, make_model(world), Names(world))
    total = config.impressions
    for name in ("impressions", "orders"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    progress(0, total)
    place_table(country).write_parquet(folder / "places.parquet")
    user_table(country).write_parquet(folder / "users.parquet")
    for day in range(config.history_days):
        for _ in _written(folder / "orders" / _file(day), orders(country, day)):
            progress(0, total)
    done = 0
    for day, rows in enumerate(rows_of_days(world).tolist()):
        parts = impressions(country, day, rows)
        for written in _written(folder / "impressions" / _file(day), parts):
            done += written
            progress(done, total)


def _file(day: int) -> str:
    return f"day-{day:02d}.parquet"


def _written(path: Path, parts: Iterator[pl.DataFrame]) -> Iterator[int]:
    """Writes each part as a row group, and yields its rows."""
    first = next(parts).to_arrow(compat_level=pl.CompatLevel.oldest())
    with pq.ParquetWriter(path, first.schema, compression="zstd") as writer:
        writer.write_table(first)
        yield first.num_rows
        for part in parts:
            table = part.to_arrow(compat_level=pl.CompatLevel.oldest())
            writer.write_table(table)
            yield table.num_rows
