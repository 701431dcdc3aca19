"""Cells that are written in another way than in other tables: IDs, dates."""

from pathlib import Path

import polars as pl
import pytest

from larr.data.datasets import dataset
from tests.init.drafts import drafted, huts, texts, written


@pytest.mark.parametrize("padded", ["huts", "log"])
def test_ids_may_have_lost_their_leading_zeros(folder: Path, padded: str) -> None:
    """As in a table that was saved by a spreadsheet."""
    tables = huts()
    number = pl.col("hut_id").str.tail(-1)
    tables["hikers"].write_csv(folder / "hikers.csv")
    for name in ("log", "huts"):
        hut_id = number.str.zfill(5) if name == padded else number
        tables[name].with_columns(hut_id=hut_id).write_csv(folder / f"{name}.csv")
    text, config = drafted(folder)
    assert f"[dataset.files.{padded}_unpadded]\n# IDs without leading zeros" in text
    assert "Old A-Hut" in texts(config)


def test_a_date_may_be_in_three_columns_and_a_click_in_several_rows(folder: Path) -> None:
    """As in a log with a row for each tag that a user gave a place on a day."""
    day = pl.from_epoch("ms", "ms").dt.date()
    log = huts()["log"].select(
        "hiker", "hut_id", year=day.dt.year(), month=day.dt.month(), day=day.dt.day()
    )
    tags = pl.DataFrame({"tag": ["warm", "cold", "dear"]})
    text, config = written(folder, huts() | {"log": log.join(tags, how="cross")})
    assert "# a date from year, month and day" in text
    assert "# one row for each hiker, hut_id, date" in text
    assert f"per_request = {4 * round(log.n_unique() / log.drop('hut_id').n_unique())}" in text
    read = dataset(config).tables(config, folder / "raw").impressions.collect()
    assert len(read.filter("click")) == log.n_unique()
    assert read["time"].cast(pl.String).str.head(10).min() == str(
        log.select(pl.date("year", "month", "day").min()).item()
    )
