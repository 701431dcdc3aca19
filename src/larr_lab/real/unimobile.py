"""UniMobile: which of the listed apps does a person choose for a search task told in words?

Aliannejadi, Zamani, Crestani and Croft, SIGIR'18; released for research. A query is a request, its
candidates are the 19 apps that were listed in random order, those that were chosen are clicks; apps
that a person typed beside the list are left out. The split is by task, so that tested tasks are
new. Tasks have no dates: they are given out to days in an order by hash, tested ones come last.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from larr.config import Config
from larr.data.datasets import Dataset, Tables
from larr_lab.real.files import draw, table
from larr_lab.settings import unimobile_settings

SOURCE = "aliannejadi/unimobile on GitHub"
APPS = (
    *("Google Search", "Google Chrome", "Gmail", "Play Store", "Facebook", "Instagram"),
    *("Google Maps", "YouTube", "Amazon", "Twitter", "Spotify", "Waze", "Pinterest", "WhatsApp"),
    *("File Manager", "Netflix", "Yelp", "Contacts", "Dropbox"),
)
"""The listed apps; in the file of queries they are in small letters."""
CHOSEN = tuple(f"App{number}" for number in range(9))
TEST_TASKS = 30
"""Tasks that are tested during development."""
TRAIN_DAYS = 6
FIRST_DAY = "2018-01-01"


def unimobile_tables(config: Config, _: Path) -> Tables:
    """Returns the queries as tables of the contract."""
    settings = unimobile_settings(config)
    files = [settings.path / name for name in ("mobile_queries.csv", "tasks.csv")]
    queries = table(
        files[0], ("index", "TaskId", "WorkerId", "Query", *CHOSEN), str(files[0]), SOURCE
    )
    tasks = table(files[1], ("TaskId", "TaskDesc"), str(files[1]), SOURCE).collect()
    days = _days(tasks, final=settings.final).lazy()
    log = queries.join(days, on="TaskId", maintain_order="left")
    apps = pl.LazyFrame({"poi_id": [name.lower() for name in APPS], "name": APPS})
    is_last = pl.col("day") == TRAIN_DAYS
    impressions = log.join(apps, how="cross").select(
        "poi_id",
        request_id="index",
        user_id="WorkerId",
        time=pl.lit(FIRST_DAY).str.to_datetime() + pl.duration(days="day", hours=12),
        task="TaskDesc",
        query="Query",
        click=pl.any_horizontal(*(pl.col(name).eq_missing(pl.col("poi_id")) for name in CHOSEN)),
        split=pl.when(is_last).then(pl.lit("test")).otherwise(pl.lit("train")),
    )
    return Tables(
        places=apps,
        users=log.select(pl.col("WorkerId").unique(maintain_order=True).alias("user_id")),
        impressions=impressions,
    )


def _days(tasks: pl.DataFrame, *, final: bool) -> pl.DataFrame:
    """Returns the tasks of this split with their days; the last day is that of the tested ones.

    Without `final` those that it tests are left out.
    """
    number = [draw(f"task-{task}") for task in tasks["TaskId"]]
    is_final = pl.Series([n % 10 < 3 for n in number])
    order = np.argsort(np.array(number, dtype=object), kind="stable")
    tasks = tasks.with_columns(is_final=is_final)[order]
    developed = tasks.filter(~pl.col("is_final"))
    tested = tasks.filter("is_final") if final else developed.tail(TEST_TASKS)
    trained = developed if final else developed.head(-TEST_TASKS)
    day = np.arange(trained.height) * TRAIN_DAYS // max(1, trained.height)
    days = pl.concat([pl.Series(day), pl.Series(np.full(tested.height, TRAIN_DAYS))])
    return pl.concat([trained, tested]).select("TaskId", "TaskDesc", day=days)


UNIMOBILE = Dataset(unimobile_tables)
