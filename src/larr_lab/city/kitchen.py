"""The dishes as numbers: their attributes, how common they are where, which go on one menu.

Array names: D dishes, A attributes and origins, G regions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from larr_lab.city.effects import FLAGS, LEVELS, PROTEINS, STAPLES, TEMPERATURES, Floats, Ints
from larr_lab.city.world import Geography

CATEGORY_SHARES: dict[str, float] = {
    "noodles": 0.13,
    "rice meals": 0.13,
    "milk tea and drinks": 0.11,
    "snacks": 0.08,
    "burgers and pizza": 0.07,
    "barbecue": 0.07,
    "dumplings and buns": 0.07,
    "congee and breakfast": 0.06,
    "sichuan and hunan": 0.06,
    "desserts and bakery": 0.05,
    "hotpot": 0.04,
    "home-style dishes": 0.04,
    "soups and stews": 0.04,
    "japanese and korean": 0.03,
    "salads and light meals": 0.02,
    "seafood and crayfish": 0.02,
    "northern dishes": 0.02,
    "cantonese": 0.02,
}
"""Share of the places by the category of their main dish; others get 0.02."""
DIFFUSION: dict[str, float] = {
    "national": 3.0,
    "Sichuan-Chongqing": 1.6,
    "western": 1.5,
    "japanese": 1.0,
    "Guangdong": 0.8,
    "Hunan-Hubei": 0.8,
    "Shaanxi-Shanxi": 0.7,
    "Xinjiang-Northwest": 0.6,
    "Northeast": 0.6,
    "korean": 0.6,
    "southeast asian": 0.4,
}
"""How much a cuisine is cooked outside its region; 0.35 for the others, 5 at home."""
AT_HOME = 5.0


@dataclass(frozen=True)
class Kitchen:
    """The dishes as numbers."""

    table: pl.DataFrame
    origins: list[str]
    categories: list[str]
    dish_DA: Floats
    """Attributes in 0..1, then one column for each origin."""
    category_D: Ints
    price_yuan_D: Floats
    anchor_GD: Floats
    """Chance that a place in a region is built around a dish."""
    mates_DD: Floats
    """Logarithm of how well two dishes go on one menu."""


def make_kitchen(dishes: pl.DataFrame, world: Geography) -> Kitchen:
    """Turns dishes.csv into arrays and says which dishes meet on a menu."""
    origins = [*world.regions, *sorted(set(dishes["region"]) - set(world.regions))]
    categories = sorted(set(dishes["category"]))
    origin_D = np.array([origins.index(name) for name in dishes["region"]])
    category_D = np.array([categories.index(name) for name in dishes["category"]])
    plain_DA = _dish_attributes(dishes)
    same_category_DD = category_D[:, None] == category_D
    same_origin_DD = origin_D[:, None] == origin_D
    far_DD = ((plain_DA[:, None] - plain_DA) ** 2).sum(axis=2)
    common_D = np.array([name == "national" for name in dishes["region"]])
    mates_DD = 3.5 * same_category_DD + 2.5 * same_origin_DD - 0.6 * far_DD + 0.8 * common_D
    anchor_GD = np.array([_anchors(dishes, name, category_D, categories) for name in world.regions])
    return Kitchen(
        table=dishes,
        origins=origins,
        categories=categories,
        dish_DA=np.hstack([plain_DA, np.eye(len(origins), dtype=np.float32)[origin_D]]),
        category_D=category_D,
        price_yuan_D=dishes["price_yuan"].to_numpy().astype(np.float64),
        anchor_GD=anchor_GD,
        mates_DD=mates_DD.astype(np.float32),
    )


def _dish_attributes(dishes: pl.DataFrame) -> Floats:
    columns = [(dishes["temperature"] == name).to_numpy() for name in TEMPERATURES]
    columns += [dishes[name].to_numpy() / 3 for name in LEVELS]
    columns += [dishes[name].to_numpy() for name in FLAGS]
    columns += [(dishes["staple"] == name).to_numpy() for name in STAPLES]
    columns += [dishes["protein"].is_in(list(words)).to_numpy() for words in PROTEINS.values()]
    return np.stack(columns, axis=1).astype(np.float32)


def _anchors(dishes: pl.DataFrame, region: str, category_D: Ints, categories: list[str]) -> Floats:
    spread = DIFFUSION | {region: AT_HOME}
    weight_D = np.array([spread.get(name, 0.35) for name in dishes["region"]])
    sum_K = np.bincount(category_D, weight_D)
    share_K = np.array([CATEGORY_SHARES.get(name, 0.02) for name in categories])
    weight_D *= (share_K / sum_K)[category_D]
    chance_D: Floats = weight_D / weight_D.sum()
    return chance_D
