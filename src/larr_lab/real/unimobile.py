"""UniMobile: which of the listed apps does a person choose for a search task described in words?

Aliannejadi, Zamani, Crestani and Croft, SIGIR'18; released for research. A query is a request, its
candidates are the 19 apps that were listed in random order, those that were chosen are clicks; apps
that a person typed beside the list are left out. The split is by task, so that tested tasks are
new. Tasks have no dates: they are given out to days in an order by hash, tested ones come last.
"""

from __future__ import annotations

from pathlib import Path

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
    columns = ("index", "TaskId", "WorkerId", "Query", *CHOSEN)
    queries = table(settings.path / "mobile_queries.csv", columns, SOURCE)
    tasks = table(settings.path / "tasks.csv", ("TaskId", "TaskDesc"), SOURCE)
    days = _days(tasks.collect()["TaskId"].to_list(), final=settings.final)
    table_of_days = pl.LazyFrame({"TaskId": [*days], "day": [*days.values()]})
    log = queries.join(tasks.join(table_of_days, on="TaskId"), on="TaskId", maintain_order="left")
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


def _days(tasks: list[str], *, final: bool) -> dict[str, int]:
    """Returns the day of each task of this split, that of tested ones the last.

    Without `final` the tasks that it tests are left out.
    """
    number = {task: draw(f"task-{task}") for task in tasks}
    order = sorted(tasks, key=number.__getitem__)
    kept = [task for task in order if number[task] % 10 < 3]
    developed = [task for task in order if number[task] % 10 >= 3]
    trained, tested = developed[:-TEST_TASKS], developed[-TEST_TASKS:]
    if final:
        trained, tested = developed, kept
    days = {task: TRAIN_DAYS * place // len(trained) for place, task in enumerate(trained)}
    return days | dict.fromkeys(tested, TRAIN_DAYS)


UNIMOBILE = Dataset(unimobile_tables)
