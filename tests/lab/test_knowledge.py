"""The knowledge tables are complete and in range, and agree with well-known facts."""

from __future__ import annotations

import polars as pl
import pytest

from larr_lab import knowledge

LIKINGS = (
    *("spicy", "sweet", "sour", "oily", "soup", "noodles", "rice", "buns"),
    *("seafood", "lamb", "beef", "pork", "grilled", "tea_drinks"),
)
FOREIGN_KITCHENS = ("western", "japanese", "korean", "southeast asian")
"""Origins in the column `region` of dishes.csv that are not a region of China."""
FLAGS = ("soup", "drink", "dessert", "grilled", "fried", "breakfast", "late_night", "light")


@pytest.mark.parametrize("read", [knowledge.regions, knowledge.cities, knowledge.dishes])
def test_rows_are_unique_and_complete(read) -> None:
    table = read()
    assert table[table.columns[0]].is_unique().all()
    assert table.null_count().sum_horizontal().item() == 0
    texts = table.select(pl.col(pl.String).exclude("also"))
    assert all(column.str.strip_chars().str.len_chars().min() > 0 for column in texts)


def test_likings_of_regions_are_from_minus_two_to_two() -> None:
    likings = knowledge.regions().select(LIKINGS)
    assert likings.min_horizontal().min() == -2
    assert likings.max_horizontal().max() == 2
    assert likings.unique().height == 14, "two regions with the same likings"


def test_every_region_has_cities_and_at_least_twenty_dishes() -> None:
    regions = set(knowledge.regions()["region"])
    assert set(knowledge.cities()["region"]) == regions
    count = dict(knowledge.dishes()["region"].value_counts().iter_rows())
    others = {knowledge.NATIONAL, *FOREIGN_KITCHENS}
    assert set(count) == regions | others
    assert min(count[region] for region in regions) >= 20
    assert sum(count[other] for other in others) >= 90


def test_cities_are_in_china_and_have_its_seasons() -> None:
    cities = knowledge.cities()
    assert cities["lat"].is_between(18, 54).all()
    assert cities["lon"].is_between(73, 135).all()
    assert cities["tourism"].is_between(0, 1).all()
    for month in range(1, 13):
        assert cities[f"temp_{month}"].is_between(-25, 35).all()
        assert cities[f"rain_{month}"].is_between(0, 25).all()
    assert (cities["temp_7"] - cities["temp_1"] > 10).all()


def test_january_is_colder_in_the_north() -> None:
    cities = knowledge.cities()
    assert cities.select(pl.corr("lat", "temp_1")).item() < -0.85


def test_values_of_dishes_are_in_range() -> None:
    dishes = knowledge.dishes()
    assert dishes.height >= 420
    assert dishes["price_yuan"].is_between(3, 120).all()
    assert set(dishes["temperature"]) == {"hot", "room", "cold"}
    assert set(dishes["staple"]) == {"rice", "noodles", "buns", "none"}
    for level in ("spicy", "sweet", "sour", "oily"):
        assert set(dishes[level]) == {0, 1, 2, 3}
    for flag in FLAGS:
        assert set(dishes[flag]) == {0, 1}


def test_a_name_means_one_dish() -> None:
    dishes = knowledge.dishes()
    also = dishes["also"].str.split("|").explode()
    names = pl.concat([dishes["dish"], also.filter(also != "")]).str.to_lowercase()
    assert names.filter(names.is_duplicated()).to_list() == []


@pytest.mark.parametrize(
    ("dish", "region", "temperature", "spicy"),
    [
        ("Mapo tofu", "Sichuan-Chongqing", "hot", 3),
        ("Liangpi", "Shaanxi-Shanxi", "cold", 2),
        ("Har gow", "Guangdong", "hot", 0),
        ("Luosifen", "Guangxi", "hot", 2),
        ("Iced americano", "western", "cold", 0),
        ("Plum juice", "national", "cold", 0),
    ],
)
def test_well_known_dishes_have_the_right_values(
    dish: str, region: str, temperature: str, spicy: int
) -> None:
    row = knowledge.dishes().row(by_predicate=pl.col("dish") == dish, named=True)
    assert (row["region"], row["temperature"], row["spicy"]) == (region, temperature, spicy)


def test_a_category_is_big_enough_to_browse() -> None:
    count = knowledge.dishes()["category"].value_counts()["count"]
    assert 14 <= len(count) <= 18
    assert count.min() >= 10


def test_holidays_are_in_order_and_do_not_overlap() -> None:
    holidays = knowledge.holidays()
    assert (holidays["first"] <= holidays["last"]).all()
    assert (holidays["first"].shift(-1) > holidays["last"]).drop_nulls().all()
