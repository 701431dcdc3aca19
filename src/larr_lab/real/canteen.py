"""Purchases in a dining hall: which of the day's dishes does a guest take at this counter?

From the public data of a field experiment with carbon labels (Beyer, Chaskel, Euler, Gassen,
Grosskopf and Sellhorn, Journal of Accounting Research 62(1), 2024). A visit is a request, its
candidates are the main dishes at that counter on that day, a dish that was bought is a click. Each
dish is sold on one day only: days 8 to 11 test, where all dishes are new.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from larr.config import Config
from larr.data.datasets import Dataset, Tables
from larr_lab.real.files import table
from larr_lab.settings import path_of

SOURCE = "the data of trr266/carbonfood on GitHub"
COLUMNS = (
    *("visit", "day", "date", "clock", "card", "group", "counter", "where", "label"),
    *("dish", "kind", "bought"),
)
FIRST_TEST_DAY = 8
LABELS = {
    "CO2Neutral": "grams of CO2",
    "CO2ColorCoded": "grams of CO2, in colours",
    "MoneyColorCoded": "the cost to the climate, in colours",
    "BudgetColorCoded": "the share of a day's CO2 budget, in colours",
}
"""What the screens showed beside the dishes."""


def canteen_tables(config: Config, _: Path) -> Tables:
    """Returns the purchases as tables of the contract; DataError if a column is missing."""
    rows = table(path_of(config, "canteen"), COLUMNS, SOURCE)
    is_tested = pl.col("day").cast(pl.Int64) >= FIRST_TEST_DAY
    impressions = rows.select(
        request_id="visit",
        user_id="card",
        poi_id="dish",
        time=pl.format("{}T{}", "date", "clock"),
        counter="counter",
        where="where",
        label=pl.col("label").replace(LABELS),
        click=pl.col("bought") == "1",
        split=pl.when(is_tested).then(pl.lit("test")).otherwise(pl.lit("train")),
    )
    cards = rows.unique("card", keep="first", maintain_order=True)
    dishes = rows.unique("dish", keep="first", maintain_order=True)
    return Tables(
        places=dishes.select("kind", poi_id="dish", name="dish"),
        users=cards.select("group", user_id="card"),
        impressions=impressions,
    )


CANTEEN = Dataset(canteen_tables)
