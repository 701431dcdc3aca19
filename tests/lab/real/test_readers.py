"""Files of real data sets become tables of the contract: their labels, candidates and splits."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from larr.config import Config
from larr.data.datasets import Tables, dataset
from larr.data.prepare import prepare
from larr.errors import DataError
from larr.settings import load_config
from tests.conftest import ROOT

from .look_alikes import PEOPLE, write_canteen

WRITERS = {"canteen": write_canteen}


def loaded(kind: str, folder: Path) -> Config:
    """Returns the repository's configuration of a data set for its look-alike in the folder."""
    WRITERS[kind](folder)
    path = ROOT / "configs" / f"{kind}.toml"
    file = getattr(load_config(path).dataset, kind).path
    return load_config(path, [f"output={folder}/out", f"dataset.{kind}.path={folder / file}"])


def tables_of(config: Config) -> Tables:
    return dataset(config).tables(config, Path())


@pytest.mark.parametrize("kind", WRITERS)
def test_a_configuration_prepares_its_data_set(kind: str, tmp_path: Path) -> None:
    config = loaded(kind, tmp_path)
    prepare(config)
    texts = pl.read_parquet(config.output / "prepare" / "texts.parquet")
    assert {keyword.name for keyword in config.scene_keywords} == {*texts["keyword"]}
    assert not [*(config.output / "prepare" / "rejected").glob("*")]


@pytest.mark.parametrize("kind", WRITERS)
def test_a_missing_file_is_named_with_its_source(kind: str, tmp_path: Path) -> None:
    config = load_config(
        ROOT / "configs" / f"{kind}.toml", [f"dataset.{kind}.path={tmp_path / 'gone.csv'}"]
    )
    with pytest.raises(DataError, match=r"gone\.csv.*it can be had from"):
        tables_of(config)


def test_a_visit_to_the_canteen_is_a_request_and_its_days_decide_the_split(tmp_path: Path) -> None:
    log = tables_of(loaded("canteen", tmp_path)).impressions.collect()
    assert log.height == 11 * PEOPLE * 3
    clicks = log.group_by("request_id").agg(pl.col("click").sum(), pl.col("poi_id").n_unique())
    assert clicks.select("click", "poi_id").unique().rows() == [(1, 3)]
    days = log.group_by("split").agg(pl.col("time").str.slice(8, 2).unique().sort())
    by_split = {split: list(map(int, numbers)) for split, numbers in days.rows()}
    assert by_split == {"train": [*range(1, 8)], "test": [*range(8, 12)]}
    places = log.group_by("split").agg(pl.col("poi_id").unique())
    train, test = (set(ids) for _, ids in places.sort("split", descending=True).rows())
    assert not train & test
