"""Where tables come from: each entry gives the tables of the data contract, read lazily."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from larr.config import Config
from larr.datasets import city
from larr.datasets.coupon import coupon_tables
from larr.datasets.tables import Tables, own_tables, scan
from larr.progress import track


def city_tables(config: Config, folder: Path) -> Tables:
    """The built-in city, simulated into `folder`."""
    folder.mkdir()
    with track("simulating the city", config.dataset.city.impressions, "impressions") as advance:
        done = 0

        def progress(now: int, _: int) -> None:
            nonlocal done
            advance(now - done)
            done = now

        city.write(config.dataset.city, config.seed, folder, progress)
    return Tables(
        places=scan(folder / "places.parquet"),
        users=scan(folder / "users.parquet"),
        impressions=scan(folder / "impressions"),
        orders=scan(folder / "orders"),
    )


DATASETS: dict[str, Callable[[Config, Path], Tables]] = {
    "city": city_tables,
    "coupon": coupon_tables,
    "tables": own_tables,
}
"""Kind -> a function of the configuration and of a folder for files that the data set makes."""
