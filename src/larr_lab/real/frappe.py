"""Frappe: which app does a user open at this time, in this weather, at this place?

Baltrunas, Church, Karatzoglou and Oliver, arXiv 1505.03014; for research alone, not to be passed
on. The file has only what was used, so the other candidates of a request are sampled: each row is a
request, its click is the app that was used, and beside it are four apps, drawn uniformly from those
that the user is not recorded with in this context. Requests are split by user and context, a fifth
to test. One app in twenty occurs in the test set only.

The file has weekdays, but no dates. The log is written as a single week, so a user's Monday is
known on Tuesday. How often an app was used (`cnt`) is not read.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import polars as pl

from larr.config import Config
from larr.data.datasets import Dataset, Tables
from larr.errors import DataError
from larr_lab.real.files import draw, found, table
from larr_lab.settings import path_of

SOURCE = "irecsys/CARSKit on GitHub, context-aware_data_sets/Mobile_Frappe.zip"
MEMBERS = "Mobile_Frappe/frappe"
"""The folder of the tables within the archive."""
CONTEXT = ("daytime", "weekday", "isweekend", "homework", "weather", "country", "city")
APP = ("category", "downloads", "developer", "language", "price", "rating")
MONDAY = "2014-06-02"
HOURS = {
    "sunrise": 6,
    "morning": 9,
    "noon": 12,
    "afternoon": 15,
    "sunset": 18,
    "evening": 20,
    "night": 23,
}
WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
SAMPLED = 4
"""Apps beside the one that was used."""
TEST_SHARE = 5
"""One request in five is tested."""
NEW_SHARE = 20
"""One app in twenty is in the test set alone."""
SEED = 1
"""Of the sampled apps, the same for each seed of a run."""
DESCRIPTION = 200
"""Letters of a description that are kept: the first sentence or two."""


def frappe_tables(config: Config, _: Path) -> Tables:
    """Returns the log with its sampled apps as tables of the contract."""
    uses = _table(config, "frappe.csv", ("user", "item", *CONTEXT))
    apps = _table(config, "meta.csv", ("item", "name", "description", *APP))
    situation = pl.concat_str("user", *CONTEXT, separator="|", ignore_nulls=True)
    uses = uses.with_row_index("row").with_columns(situation=situation)
    is_new = [draw(f"app-{item}") % NEW_SHARE == 0 for item in uses["item"]]
    is_tested = [draw(situation) % TEST_SHARE == 0 for situation in uses["situation"]]
    uses = uses.with_columns(
        split=pl.Series(np.where(np.logical_or(is_new, is_tested), "test", "train"))
    )
    return Tables(
        places=_places(apps).lazy(),
        users=uses.select(pl.col("user").unique(maintain_order=True).alias("user_id")).lazy(),
        impressions=_impressions(uses).lazy(),
    )


def _table(config: Config, name: str, columns: tuple[str, ...]) -> pl.DataFrame:
    """Returns columns of a table in the archive; what is unknown is missing."""
    path, member = found(path_of(config, "frappe"), SOURCE), f"{MEMBERS}/{name}"
    try:
        with zipfile.ZipFile(path) as archive:
            content = archive.read(member)
    except (zipfile.BadZipFile, KeyError) as error:
        raise DataError(f"{path}: no archive with {member}; expected that from {SOURCE}") from error
    rows = table(path / name, columns, SOURCE, separator="\t", content=content)
    return rows.with_columns(pl.exclude("item").replace("unknown", None)).collect()


def _places(apps: pl.DataFrame) -> pl.DataFrame:
    """Returns a row for each app; those without a page in the shop have a number as name."""
    return apps.select(
        *APP,
        poi_id="item",
        name=pl.col("name").fill_null(pl.format("app {}", "item")),
        description=pl.col("description").str.slice(0, DESCRIPTION),
    )


def _impressions(uses: pl.DataFrame) -> pl.DataFrame:
    """Returns a row for each app that was used and each that was sampled beside it."""
    rng = np.random.default_rng(SEED)
    candidates = [uses.select("row", "item", click=True)]
    for split in ("train", "test"):
        of_split = uses.filter(pl.col("split") == split)
        known = of_split if split == "train" else uses
        apps = known["item"].unique(maintain_order=True).to_numpy()
        candidates.append(_sampled(of_split, uses, apps, rng))
    day = pl.col("weekday").replace_strict(
        {name: n for n, name in enumerate(WEEKDAYS)}, default=None
    )
    hour = pl.col("daytime").replace_strict(HOURS, default=None)
    rows = pl.concat(candidates).join(uses.drop("item"), on="row").sort("row", "item")
    return rows.select(
        *CONTEXT,
        "click",
        "split",
        request_id="row",
        user_id="user",
        poi_id="item",
        time=pl.lit(MONDAY).str.to_datetime() + pl.duration(days=day, hours=hour),
    )


def _sampled(
    requests: pl.DataFrame, uses: pl.DataFrame, apps: np.ndarray, rng: np.random.Generator
) -> pl.DataFrame:
    """Returns up to `SAMPLED` apps for each request that its user did not use in its situation."""
    draws = 3 * SAMPLED  # enough to leave out those that were used or drawn twice
    row = requests["row"].to_numpy().repeat(draws)
    drawn = pl.DataFrame({"row": row, "item": rng.choice(apps, len(row))})
    return (
        drawn.unique(maintain_order=True)
        .join(requests.select("row", "situation"), on="row", maintain_order="left")
        .join(uses, on=["situation", "item"], how="anti", maintain_order="left")
        .group_by("row", maintain_order=True)
        .head(SAMPLED)
        .select("row", "item", click=False)
    )


FRAPPE = Dataset(frappe_tables)
