"""Small files in the layout of the real ones, with invented rows; none is from a data set."""

from __future__ import annotations

import gzip
from pathlib import Path

import polars as pl

PEOPLE = 12


def write_canteen(folder: Path) -> None:
    """Writes `canteen.csv.gz`: each card visits on each of 11 days and takes one of three dishes.

    Dishes with an even number have meat; cards with an even number take those.
    """
    rows = [
        {
            "visit": f"{day}-{card}",
            "day": day,
            "date": f"2020-01-{day:02}",
            "clock": f"1{card % 3 + 1}:30",
            "card": card,
            "group": "staff" if card % 3 else "guest",
            "counter": "blue",
            "where": "eat in",
            "label": "CO2Neutral" if day % 2 else "",
            "dish": f"stew {number}, with bread",
            "kind": "no meat" if number % 2 else "meat or fish",
            "bought": int(number == 3 * day + (card + day) % 2),
        }
        for day in range(1, 12)
        for card in range(PEOPLE)
        for number in range(3 * day, 3 * day + 3)
    ]
    content = pl.DataFrame(rows).write_csv().encode()
    (folder / "canteen.csv.gz").write_bytes(gzip.compress(content))
