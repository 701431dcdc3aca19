"""The built-in city: a simulated country with food delivery, described in docs/city.md.

The simulation runs in the order of these modules:

1. `larr_lab.knowledge`: tables of regions, cities and dishes; `effects`: preferences
2. `geography`: cities and districts; `days`: calendar and weather
3. `places`, with their dishes, and `people`; `world` combines them
4. `requests`: time and location of users; `choice`: places shown, clicks and orders
5. `texts`: names, menus and other texts; `tables`: the tables of the data contract

`draws` has the random draws that numpy lacks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq

from larr.config import Config
from larr.data.datasets import Dataset, Tables
from larr.progress import track
from larr_lab.city import tables
from larr_lab.city.choice import Model
from larr_lab.city.world import World
from larr_lab.settings import CityConfig, city_settings


def city_tables(config: Config, folder: Path) -> Tables:
    """Simulates the built-in city and returns its tables, written to a new folder."""
    settings = city_settings(config)
    with track("simulating the city", settings.impressions, "impressions") as advance:
        write(settings, config.seed, folder, advance)
    return Tables(
        places=pl.scan_parquet(folder / "places.parquet"),
        users=pl.scan_parquet(folder / "users.parquet"),
        impressions=pl.scan_parquet(folder / "impressions"),
        orders=pl.scan_parquet(folder / "orders"),
    )


CITY = Dataset(city_tables, users_per_seed=True)


def write(config: CityConfig, seed: int, folder: Path, advance: Callable[[int], object]) -> None:
    """Writes the tables of a country; calls `advance` with the number of impressions written."""
    world = World(config, seed)
    model = Model(world)
    for name in ("impressions", "orders"):
        (folder / name).mkdir(parents=True)
    tables.place_table(world).write_parquet(folder / "places.parquet")
    tables.user_table(world).write_parquet(folder / "users.parquet")
    for day in range(config.history_days):
        path = folder / "orders" / f"day-{day:02d}.parquet"
        _write_parts(path, tables.orders(world, model, day), lambda _: None)
    for day, rows in enumerate(tables.rows_of_days(world).tolist()):
        path = folder / "impressions" / f"day-{day:02d}.parquet"
        _write_parts(path, tables.impressions(world, model, day, rows), advance)


def _write_parts(
    path: Path, parts: Iterator[pl.DataFrame], advance: Callable[[int], object]
) -> None:
    """Writes each part as a row group, so that a day need not fit in memory."""
    arrow = (part.to_arrow(compat_level=pl.CompatLevel.oldest()) for part in parts)
    first = next(arrow)
    with pq.ParquetWriter(path, first.schema, compression="zstd") as writer:
        for part in chain([first], arrow):
            writer.write_table(part)
            advance(part.num_rows)
