"""Visitors: whose texts a query has, and what is said of the places found for it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import polars as pl
import pytest

from larr import case_study as module
from larr.case_study import Finder, Texts, case_study
from larr.config import Config, load_config
from larr.errors import ConfigError
from tests.conftest import ROOT


def by_region(queries: Texts, candidates: Texts) -> np.ndarray:
    """Likes places of the region that the query's scene names."""
    told = [dict(parts)["scene_place"].split(", ")[1] for parts in queries]
    there = [dict(parts)["poi_location"].rsplit(", ", 1)[1] for parts in candidates]
    return np.array([[float(one == other) for other in there] for one in told])


def finders(_: Config) -> Iterator[tuple[str, Finder]]:
    yield "larr", by_region


def test_one_who_reads_the_scene_finds_the_region(
    city: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module.artifacts, "require", lambda *_: None)
    monkeypatch.setattr(module, "_finders", finders)
    told = case_study(city)
    places = pl.read_parquet(city.output / "data" / "places.parquet")
    enough = places.group_by("poi_region").len().filter(pl.col("len") >= module.FOUND)
    known = told["models"]["larr"]["by_region"]
    for region in set(enough["poi_region"]) & set(known):
        assert known[region]["share_in_region"] == 1, region
    mean, chance = (told["models"][name]["mean"] for name in ("larr", "chance"))
    assert chance["share_in_region"] < 0.3 < mean["share_in_region"]
    assert chance["share_of_specialties"] < mean["share_of_specialties"]
    assert mean["distinct_dishes"] > 1


def test_a_visitor_has_never_ordered_there(city: Config) -> None:
    visits = module._visits(city)
    data = city.output / "data"
    orders = pl.read_parquet(data / "orders.parquet").join(
        pl.read_parquet(data / "places.parquet").select("poi_id", "poi_region"), on="poi_id"
    )
    been = set(orders.select("user_nickname", "poi_region").rows())
    for parts, region in zip(visits.queries, visits.regions, strict=True):
        assert (dict(parts)["user_nickname"], region) not in been
        assert dict(parts)["scene_place"].split(", ")[1] == region


def test_data_without_regions_are_refused(city: Config) -> None:
    config = load_config(ROOT / "configs" / "coupon.toml", [f"output={city.output}"])
    places = pl.read_parquet(city.output / "data" / "places.parquet").drop("poi_region")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module.artifacts, "require", lambda *_: None)
        patch.setattr(module.pl, "read_parquet", lambda _: places)
        with pytest.raises(ConfigError, match="needs users with home_region and places"):
            case_study(config)
