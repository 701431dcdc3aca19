"""Small tables, and what `larr init` makes of them."""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from pathlib import Path

import polars as pl

from larr.config import Config
from larr.data.prepare import prepare
from larr.init.draft import init
from larr.settings import load_config

DISHES = ["Potato soup", "Beef stew with noodles", "Apple pie", "Green tea", "Rice bowl"]
KINDS = ["savoury", "savoury", "sweet", "drink", "savoury"]


def wide(visits: int = 120) -> pl.DataFrame:
    """One row for each of three dishes offered at a visit; the middle one is bought."""
    rows = [
        {
            "visit": f"v{visit}",
            "card": f"c{visit % 17}",
            "group": "staff" if visit % 17 < 5 else "student",
            "date": f"2024-04-{1 + visit // 12:02}",
            "clock": f"{11 + visit % 3}:30",
            "weather": ["sun", "rain"][visit // 12 % 2],
            "guests": 10 + visit * 7 % 83,
            "dish": DISHES[(visit + offer) % 5],
            "kind": KINDS[(visit + offer) % 5],
            "price": 3 + offer + visit % 40 / 10,
            "receipt": f"r{visit}" if offer == 1 else None,
            "canteen": "main",
            "bought": int(offer == 1),
        }
        for visit in range(visits)
        for offer in range(3)
    ]
    return pl.DataFrame(rows)


def drafted(folder: Path) -> tuple[str, Config]:
    """Returns the configuration that `larr init` writes, as text and loaded."""
    path = folder.parent / "mine.toml"
    init(folder, path)
    return path.read_text(), load_config(path, [f"output={folder.parent}/out"])


def texts(config: Config) -> set[str]:
    prepare(config)
    return set(pl.read_parquet(config.output / "prepare" / "texts.parquet")["text"])


def huts(**columns: pl.Expr) -> dict[str, pl.DataFrame]:
    """Tables whose users, places and requests have unusual names; one of 20 huts is repeated."""
    log = pl.DataFrame(
        [
            {
                "bundle": f"t-{visit:03}",
                "hiker": 700 + visit * 7 % 30,
                "hut_id": f"h{(visit * 3 + slot * slot) % 20}",
                "slot": slot,
                "ms": 1_740_000_000_000 + 3_000_000 * visit + 7 * slot,
                "tapped": (visit * 5 + slot * 3) % 7 < 2,
                "guest_lat": 47 + visit * 0.0137,
                "guest_lng": 11 + visit * 0.0071,
                "minutes": (visit * 7 + slot * 11) % 50,
            }
            for visit in range(150)
            for slot in range(1, 5)
        ]
    )
    places = pl.DataFrame(
        {
            "hut_id": [f"h{n}" for n in range(20)],
            "title": [f"{w} {c}-Hut" for c in "ABCDE" for w in ("Red", "Old", "Big", "New")],
            "opened": [f"{1990 + n}-05-01" for n in range(20)],
        }
    )
    hikers = pl.DataFrame({"hiker": range(700, 730), "age_band": ["18-30", "31-50", "51-70"] * 10})
    return {
        "log": log.with_columns(**columns),
        "huts": pl.concat([places, places.head(1)]),
        "hikers": hikers,
    }


def written(folder: Path, tables: dict[str, pl.DataFrame]) -> tuple[str, Config]:
    for name, table in tables.items():
        table.write_parquet(folder / f"{name}.parquet")
    return drafted(folder)


USERS, ITEMS, VISITS = 12, 15, 360


def write(
    path: Path, rows: Iterable[Sequence[object]], header: str = "", separator: str = ","
) -> None:
    lines = [
        separator.join(map(str, row)) for row in [*([header.split()] if header else []), *rows]
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def visits() -> list[tuple[datetime, int, int, bool]]:
    """Returns a time, a user, an item and whether the user liked it, for each visit."""
    start = datetime(2017, 11, 25, 8)
    return [
        (start + timedelta(minutes=37 * n), n * 7 % USERS, n * n % ITEMS, n * 41 % 13 < 5)
        for n in range(VISITS)
    ]
