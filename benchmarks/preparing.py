"""`larr prepare` on a synthetic log of any length: rows/s, peak memory and CPU time.

    python benchmarks/preparing.py FOLDER --rows 1_000_000 [--days 14] [--workers 2] [--engine ray]

Writes FOLDER/tables unless it exists (about 7 bytes per row on disk), and FOLDER/run each time.
Requests are in time order, with 10 candidates each; users have 100 rows on average. As in most
logs, a few users and places are popular. Clicks are random.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np
import polars as pl

from larr.run import run_stage
from larr.settings import load_config

CANDIDATES, FILE_ROWS, START = 10, 1_000_000, np.datetime64("2024-04-01", "us")
PLACE = {"category": 30, "area": 200, "chain": 20, "tags": 40}
USER = {"age_band": 6, "gender": 2}
SCENE = {"city": 20, "place_kind": 4, "weather": 8, "device": 5, "channel": 12, "event": 50}
"""Categorical columns and their numbers of values."""
TOML = """
[dataset.tables]
places = "{folder}/places.parquet"
users = "{folder}/users.parquet"
impressions = "{folder}/impressions"
[[buckets]]
column = "temperature_c"
words = ["cold", "cool", "mild", "warm"]
[[buckets]]
column = "poi_log_orders"
words = ["few", "some", "many"]
[[profiles]]
name = "user_taste"
column = "tags"
[[keywords]]
name = "place"
owner = "poi"
view = "business"
prompt = true
template = "{{poi_name}}[, {{poi_area}}]"
[[keywords]]
name = "kind"
owner = "poi"
view = "basic"
template = "{{poi_category}}[: {{poi_tags}}][, {{poi_log_orders_level}} orders]"
[[keywords]]
name = "taste"
owner = "user"
view = "action"
template = "{{user_age_band}}[, likes {{user_taste}}]"
[[keywords]]
name = "scene"
owner = "scene"
view = "action"
template = "{{temperature_c_level}}, {{weather}}, {{meal_slot}}, {{day_kind}}, {{place_kind}}"
[features]
categories = [
    "user_id", "poi_id", "user_age_band", "poi_category", "poi_area", "city", "place_kind",
    "weather", "device", "channel", "temperature_c_level", "meal_slot", "hour", "position",
]
numbers = [
    "temperature_c", "distance_km", "fee", "minutes", "poi_price_yuan", "poi_ctr", "user_ctr",
    "poi_log_orders", "user_log_orders", "pair_log_clicks",
]
candidate_columns = ["position", "distance_km", "fee", "minutes"]
recent_keyword = "place"
"""


def write_tables(folder: Path, rows: int, days: int) -> None:
    """Writes places, users and impressions; at most a million impressions are in memory."""
    random = np.random.default_rng(1)
    (folder / "impressions").mkdir(parents=True)

    def words(kinds: dict[str, int], count: int) -> pl.DataFrame:
        chosen = {name: random.integers(0, kind, count) for name, kind in kinds.items()}
        return pl.DataFrame(chosen).select(pl.format(f"{n} {{}}", n).alias(n) for n in kinds)

    def ids(letter: str, distinct: int, count: int) -> pl.Series:
        number_N = pl.Series((random.random(count) ** 3 * distinct).astype(np.int64))
        return letter + number_N.cast(pl.String)

    users, places = max(rows // 100, 100), max(rows // 2_000, 100)
    words(PLACE, places).with_columns(
        poi_id=pl.format("p{}", pl.int_range(places)),
        name=pl.format("Place number {}", pl.int_range(places)),
        tags=pl.format("{},{}", "tags", "chain"),
        price_yuan=pl.Series(random.gamma(4, 8, places).round(1)),
    ).write_parquet(folder / "places.parquet")
    of_users = words(USER, users).with_columns(user_id=pl.format("u{}", pl.int_range(users)))
    of_users.write_parquet(folder / "users.parquet")
    apart = days * 86_400_000_000 // -(-rows // CANDIDATES)
    for start in range(0, rows, FILE_ROWS):
        count = min(FILE_ROWS, rows - start)
        request_N, position_N = np.divmod(np.arange(start, start + count), CANDIDATES)
        of_request_N = request_N - request_N[0]
        asked = int(of_request_N[-1]) + 1
        scene = words(SCENE, asked).with_columns(
            user_id=ids("u", users, asked),
            temperature_c=pl.Series(random.normal(15, 8, asked).round(1)),
        )
        click_N = random.random(count) < 0.1
        # The first place is a popular one; the next rows of the table follow, so none repeats.
        first_N = (random.random(asked) ** 3 * places).astype(np.int64)[of_request_N]
        pl.DataFrame(
            {
                "request_id": pl.Series(request_N).cast(pl.String),
                "poi_id": "p" + pl.Series((first_N + position_N) % places).cast(pl.String),
                "time": START + request_N * np.timedelta64(apart, "us"),
                "click": click_N,
                "order": click_N & (random.random(count) < 0.2),
                "position": position_N + 1,
                "distance_km": random.gamma(2, 1, count).round(2),
                "fee": random.integers(0, 8, count),
                "minutes": random.gamma(9, 4, count).round(),
            }
        ).hstack(scene[of_request_N]).write_parquet(
            folder / "impressions" / f"{start // FILE_ROWS:05}.parquet"
        )


def main() -> None:
    """Writes the tables and prepares them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--days", type=int, default=14)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--engine", choices=["local", "ray"], default="local")
    parser.add_argument("--set", action="append", dest="overrides", default=[])
    options = parser.parse_args()
    folder: Path = options.folder.absolute()
    if not (folder / "tables").exists():
        write_tables(folder / "tables", options.rows, options.days)
        (folder / "prepare.toml").write_text(TOML.format(folder=folder / "tables"))
    cluster = f"cluster={{engine='{options.engine}', workers={options.workers}}}"
    overrides = [f"output={folder}/run", cluster, *options.overrides]
    run_stage(load_config(folder / "prepare.toml", overrides), "prepare", force=True)
    used = sum(os.times()[:4])  # excludes Ray's processes, which are no children of this one
    print(f"CPU time: {used:.1f} s, {options.rows / used:,.0f} rows/s")


if __name__ == "__main__":
    main()
