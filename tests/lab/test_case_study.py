"""The case study: texts of queries, and figures of the places found."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import polars as pl
import pytest

from larr.config import Config
from larr.errors import ConfigError
from larr.settings import load_config
from larr_lab.studies import case_study as module
from larr_lab.studies.case_study import Retriever, Texts, case_study
from tests.conftest import ROOT


def retrievers(_: Config, __: object, candidates: Texts) -> Iterator[tuple[str, Retriever]]:
    """Prefers places in the region that the query's scene names, if it names one."""
    region_C = np.array([dict(parts)["poi_location"].rsplit(", ", 1)[1] for parts in candidates])

    def by_region(queries: Texts) -> np.ndarray:
        region_Q = [dict(parts).get("scene_place", ", ").split(", ")[1] for parts in queries]
        return (np.array(region_Q)[:, None] == region_C).astype(float)

    random = np.random.default_rng(0)
    yield "larr", by_region
    yield "chance", lambda queries: random.random((len(queries), len(candidates)))


@pytest.fixture
def results(city: Config, monkeypatch: pytest.MonkeyPatch) -> module.Json:
    monkeypatch.setattr(module.artifacts, "require", lambda *_: None)
    monkeypatch.setattr(module, "_retrievers", retrievers)
    return case_study(city)


@pytest.mark.parametrize("kind", module.QUERIES)
def test_a_retriever_that_reads_the_region_finds_it(
    city: Config, results: module.Json, kind: str
) -> None:
    places = pl.read_parquet(city.output / "prepare" / "places.parquet")
    enough = places.group_by("poi_region").len().filter(pl.col("len") >= module.NEAREST)
    models = results["visitors"][kind]
    known = models["larr"]["by_region"]
    for region in set(enough["poi_region"]) & set(known):
        assert known[region]["share_in_region"] == 1, region
    mean, chance = (models[name]["mean"] for name in ("larr", "chance"))
    assert chance["share_in_region"] < 0.3 < mean["share_in_region"]
    assert chance["share_of_specialties"] < mean["share_of_specialties"]
    assert mean["distinct_dishes"] > 1


def test_an_example_has_the_query_and_the_places_found(results: module.Json) -> None:
    example = results["visitors"]["user_without_home"]["larr"]["example"]
    region = next(text for text in example["query"] if "away on a journey" in text).split(", ")[1]
    assert len(example["found"]) == module.NEAREST
    assert f", {region}: " in example["found"][0]


def test_the_dishes_of_a_moment_are_counted(city: Config, results: module.Json) -> None:
    assert results["moments"]["breakfasts"]["orders"] > 0
    for moment in results["moments"].values():
        assert 0 < moment["models"]["chance"] < 0.5
    places = module._places(city)
    early = [n for n, menu in enumerate(places.menus) if "jianbing guozi" in menu][:1]
    found = module._suitable(places, np.array([early]), module.MOMENTS["breakfasts"])
    assert found > results["moments"]["breakfasts"]["models"]["chance"]


def test_a_scene_of_a_moment_has_only_matching_texts(city: Config) -> None:
    orders = module._orders(city)
    scenes, _ = module._scenes(city, orders, module.MOMENTS["rainy nights"])
    assert scenes
    for parts in scenes:
        texts = dict(parts)
        assert set(texts) == {"scene_time", "scene_weather"}
        assert "late night" in texts["scene_time"]
        assert "rain" in texts["scene_weather"]


def test_a_visitor_has_never_ordered_in_the_region(city: Config) -> None:
    orders = module._orders(city)
    queries, regions = module._visits(city, orders)
    visited = set(orders.select("user_nickname", "poi_region").rows())
    for parts, region in zip(queries["user"], regions, strict=True):
        assert (dict(parts)["user_nickname"], region) not in visited
        assert dict(parts)["scene_place"].split(", ")[1] == region


def test_the_home_is_in_one_kind_of_query_only(city: Config) -> None:
    queries, _ = module._visits(city, module._orders(city))
    names = [[keyword for keyword, _ in queries[kind][0]] for kind in module.QUERIES]
    scene, without_home, complete = names
    assert set(complete) - set(without_home) == {"user_base"}
    assert {keyword.partition("_")[0] for keyword in scene} == {"scene"}


def test_data_without_regions_are_refused(city: Config) -> None:
    config = load_config(ROOT / "configs" / "coupon.toml", [f"output={city.output}"])
    places = pl.read_parquet(city.output / "prepare" / "places.parquet").drop("poi_region")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module.artifacts, "require", lambda *_: None)
        patch.setattr(module.pl, "read_parquet", lambda _: places)
        with pytest.raises(ConfigError, match="requires user_home_region and poi_region"):
            case_study(config)
