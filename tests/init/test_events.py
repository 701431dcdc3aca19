"""Logs of events: a column names what a user did in each row."""

from pathlib import Path

import polars as pl
import pytest

from larr.data.datasets import dataset
from tests.init.drafts import huts, written


@pytest.mark.parametrize("is_viewed", [True, False])
def test_events_that_undo_others_are_left_out(folder: Path, *, is_viewed: bool) -> None:
    cart = pl.when("tapped").then(pl.lit("cart")).otherwise(pl.lit("purchase"))
    undone = pl.when(pl.col("minutes") % 5 == 0).then(pl.lit("remove_from_cart")).otherwise(cart)
    viewed = pl.when(pl.col("slot") > 2).then(pl.lit("show")).otherwise(undone)
    tables = huts(event=viewed if is_viewed else undone)
    rows = tables["log"].filter(pl.col("event") != "remove_from_cart")
    tables["log"] = tables["log"].drop("tapped", "bundle", "slot")
    text, config = written(folder, tables)
    assert "rows with remove_from_cart are left out" in text
    assert ("order, show no click; rows" in text) is is_viewed
    assert ("[dataset.negatives]" in text) is not is_viewed
    days = rows.select("hiker", "hut_id", pl.from_epoch("ms", "ms").dt.date()).unique()
    read = dataset(config).tables(config, folder / "raw").impressions
    assert len((read if is_viewed else read.filter("click")).collect()) == len(days)


def test_views_that_are_rarer_than_clicks_are_no_impressions(folder: Path) -> None:
    """As visits to a place after clicks on it; of a page, there would be more views."""
    event = pl.when(pl.col("minutes") > 35).then(pl.lit("visit")).otherwise(pl.lit("click"))
    tables = huts(event=event)
    tables["log"] = tables["log"].drop("tapped", "bundle", "slot")
    text, _ = written(folder, tables)
    assert "# CHECK: by event, visit, click is a click\n" in text
    assert "[dataset.negatives]" in text


def test_events_that_are_no_clicks_are_to_be_checked(folder: Path) -> None:
    visit = pl.int_range(pl.len()) % 3
    event = visit.replace_strict({0: "click", 1: "back", 2: "zoom"})
    tables = huts(event=event)
    tables["log"] = tables["log"].drop("tapped", "slot")
    text, _ = written(folder, tables)
    assert "# CHECK: each row is a click, whatever its event: click, back, zoom; for clicks" in text
