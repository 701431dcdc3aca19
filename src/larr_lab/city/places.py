"""The places: where they are, what is on the menu, how good, dear, known and how long open.

Array names: P places, D dishes, A attributes and origins, M dishes of a menu, S meal slots,
N districts, G regions, H chains, T categories.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from larr_lab.city.effects import (
    ATTRIBUTES,
    SLOTS,
    Bools,
    Floats,
    Ints,
)
from larr_lab.city.kitchen import Kitchen
from larr_lab.city.world import Calendar, Geography
from larr_lab.settings import CityConfig

MENU_DISHES = 10
CHAIN_SHARE = 0.28
BRANCHES = 8
NEW_PLACES_A_DAY = 0.024
"""Share of the places that open on each day of the log."""
CLIP = 2.5
"""Standardised attributes are cut at so many standard deviations."""


@dataclass(frozen=True)
class Places:
    """Latent and visible attributes of all places."""

    city_P: Ints
    area_P: Ints
    x_P: Floats
    y_P: Floats
    menu_PM: Ints
    """Dishes, the main one first; -1 where the menu is shorter."""
    chain_P: Ints
    """-1 for a place of its own."""
    share_PA: Floats
    """Mean of the menu's attributes and origins."""
    attributes_PA: Floats
    """The same, standardised over places."""
    local_P: Floats
    """Share of dishes of the city's own region, standardised."""
    category_P: Ints
    typical_TA: Floats
    """Mean standardised attributes of the places of each category."""
    price_yuan_P: Floats
    quality_P: Floats
    rating_P: Floats
    popularity_P: Floats
    fee_yuan_P: Floats
    prepare_minutes_P: Floats
    open_PS: Bools
    usual_SA: Floats
    """Mean standardised attributes of the places open in each meal slot."""
    opened_day_P: Floats
    """Days since the first day of the history; negative for most."""
    pool_NM: Ints
    """Places within reach of each district, in a random order; -1 pads."""

    @property
    def count(self) -> int:
        """Number of places."""
        return int(self.city_P.size)


def make_places(
    config: CityConfig,
    world: Geography,
    days: Calendar,
    kitchen: Kitchen,
    rng: np.random.Generator,
) -> Places:
    """Draws all places."""
    count = config.places
    city_P = _cities(config, world, rng)
    area_P = world.any_area(city_P, rng.random(count))
    x_P = world.area_x_N[area_P] + 0.9 * rng.standard_normal(count, dtype=np.float32)
    y_P = world.area_y_N[area_P] + 0.9 * rng.standard_normal(count, dtype=np.float32)
    chain_P = _chains(count, world, city_P, rng)
    menu_PM = _menus(kitchen, world.region_C[city_P], chain_P, rng)
    share_PA = _shares(kitchen, menu_PM)
    attributes_PA = _standardised(share_PA)
    category_P = _categories(kitchen, menu_PM)
    local_P = share_PA[np.arange(count), len(ATTRIBUTES) + world.region_C[city_P]]
    quality_P = _with_chain(rng.standard_normal(count), chain_P, 0.6, rng)
    opened_P = _opened(config, days, rng)
    open_PS = _opening_hours(config, share_PA, city_P, opened_P < 0, rng)
    sd_P = 0.17 * np.where(opened_P > days.history_days, 2.0, 1.0)
    rating_P = 4.35 + 0.22 * quality_P + sd_P * rng.standard_normal(count)
    popularity_P = 1.2 * rng.standard_normal(count) + 0.45 * quality_P + 0.5 * (chain_P >= 0)
    return Places(
        city_P=city_P,
        area_P=area_P,
        x_P=x_P,
        y_P=y_P,
        menu_PM=menu_PM,
        chain_P=chain_P,
        share_PA=share_PA,
        attributes_PA=attributes_PA,
        local_P=_standardised(local_P[:, None])[:, 0],
        category_P=category_P,
        typical_TA=_category_means(attributes_PA, category_P, len(kitchen.categories)),
        price_yuan_P=_prices(kitchen, menu_PM, world, city_P, chain_P=chain_P, rng=rng),
        quality_P=quality_P.astype(np.float32),
        rating_P=np.clip(np.round(rating_P, 1), 3.0, 5.0),
        popularity_P=popularity_P.astype(np.float32),
        fee_yuan_P=rng.choice(
            [0, 1, 2, 3, 4, 5, 6], count, p=[0.12, 0.1, 0.2, 0.24, 0.17, 0.12, 0.05]
        ).astype(np.float32),
        prepare_minutes_P=np.exp(rng.normal(2.45, 0.35, count)).astype(np.float32),
        open_PS=open_PS,
        usual_SA=open_PS.T.astype(np.float32) @ attributes_PA / open_PS.sum(axis=0)[:, None],
        opened_day_P=opened_P,
        pool_NM=_pools(world, city_P, x_P, y_P, rng),
    )


def _cities(config: CityConfig, world: Geography, rng: np.random.Generator) -> Ints:
    cities = world.weight_C.size
    least = min(config.places // cities, 3 * config.candidates)
    free = config.places - least * cities
    extra_C = np.floor(world.weight_C * free).astype(np.int64)
    extra_C[np.argsort(-world.weight_C)[: free - int(extra_C.sum())]] += 1
    return rng.permutation(np.repeat(np.arange(cities), least + extra_C))


def _chains(count: int, world: Geography, city_P: Ints, rng: np.random.Generator) -> Ints:
    """Half of the chains are national, the others stay in one region."""
    chain_P = np.full(count, -1)
    chains = max(1, round(count * CHAIN_SHARE / BRANCHES))
    size_H = rng.pareto(1.8, chains) + 0.6
    home_H = world.region_C[rng.choice(world.weight_C.size, chains, p=world.weight_C)]
    national_H = rng.random(chains) < 0.5
    member_P = np.flatnonzero(rng.random(count) < CHAIN_SHARE)
    region_P = world.region_C[city_P]
    for region in range(len(world.regions)):
        mine_P = member_P[region_P[member_P] == region]
        weight_H = size_H * (national_H | (home_H == region))
        if mine_P.size and weight_H.sum() > 0:
            chain_P[mine_P] = rng.choice(chains, mine_P.size, p=weight_H / weight_H.sum())
    return chain_P


def _menus(kitchen: Kitchen, region_P: Ints, chain_P: Ints, rng: np.random.Generator) -> Ints:
    """A main dish, and dishes that go with it; the branches of a chain share nearly all."""
    cumulative_GD = kitchen.anchor_GD.cumsum(axis=1)
    anchor_P = np.empty(region_P.size, np.int64)
    for region in np.unique(region_P):
        mine_P = np.flatnonzero(region_P == region)
        draws_P = rng.random(mine_P.size) * cumulative_GD[region, -1]
        anchor_P[mine_P] = np.searchsorted(cumulative_GD[region], draws_P)
    menu_PM = np.empty((region_P.size, MENU_DISHES), np.int16)
    for start in range(0, region_P.size, 4096):
        part = slice(start, start + 4096)
        menu_PM[part] = _menus_around(kitchen, anchor_P[part], rng)
    length_P = rng.integers(5, MENU_DISHES + 1, region_P.size)
    first_P = np.arange(region_P.size)
    _, first_H, chain_of_P = np.unique(chain_P, return_index=True, return_inverse=True)
    leader_P = np.where(chain_P >= 0, first_H[chain_of_P], first_P)
    menu_PM, length_P = menu_PM[leader_P], length_P[leader_P]
    length_P = np.where(leader_P != first_P, length_P - rng.integers(0, 2, length_P.size), length_P)
    menu_PM[np.arange(MENU_DISHES) >= length_P[:, None]] = -1
    return menu_PM


def _menus_around(kitchen: Kitchen, anchor_P: Ints, rng: np.random.Generator) -> Ints:
    score_PD = kitchen.mates_DD[anchor_P]
    drawn_PD = rng.standard_exponential(score_PD.shape, dtype=np.float32)
    score_PD = score_PD - np.log(np.maximum(drawn_PD, np.finfo(np.float32).tiny))
    score_PD[np.arange(anchor_P.size), anchor_P] = np.inf
    top_PM = np.argpartition(-score_PD, MENU_DISHES - 1, axis=1)[:, :MENU_DISHES]
    order_PM = np.argsort(-np.take_along_axis(score_PD, top_PM, axis=1), axis=1, kind="stable")
    return np.take_along_axis(top_PM, order_PM, axis=1)


def _shares(kitchen: Kitchen, menu_PM: Ints) -> Floats:
    sum_PA = np.zeros((menu_PM.shape[0], kitchen.dish_DA.shape[1]), np.float32)
    for column in menu_PM.T:
        sum_PA += kitchen.dish_DA[column] * (column >= 0)[:, None]
    share_PA: Floats = sum_PA / (menu_PM >= 0).sum(axis=1, keepdims=True)
    return share_PA


def _standardised(value_PA: Floats) -> Floats:
    sd_A = np.maximum(value_PA.std(axis=0), 1e-3)
    standard_PA: Floats = (value_PA - value_PA.mean(axis=0)) / sd_A
    return np.clip(standard_PA, -CLIP, CLIP).astype(np.float32)


def _categories(kitchen: Kitchen, menu_PM: Ints) -> Ints:
    votes_PK = np.zeros((menu_PM.shape[0], len(kitchen.categories)), np.float32)
    rows_P = np.arange(menu_PM.shape[0])
    for number, column in enumerate(menu_PM.T):
        votes_PK[rows_P, kitchen.category_D[column]] += (column >= 0) * (1.5 if number == 0 else 1)
    category_P: Ints = votes_PK.argmax(axis=1)
    return category_P


def _category_means(attributes_PA: Floats, category_P: Ints, categories: int) -> Floats:
    """Mean attributes of each category."""
    count_T = np.maximum(np.bincount(category_P, minlength=categories), 1)
    order_P = np.argsort(category_P, kind="stable")
    edge_T = np.searchsorted(category_P[order_P], np.arange(categories + 1))
    total_PA = np.zeros((category_P.size + 1, attributes_PA.shape[1]))
    total_PA[1:] = attributes_PA[order_P].cumsum(axis=0, dtype=np.float64)
    mean_TA: Floats = (total_PA[edge_T[1:]] - total_PA[edge_T[:-1]]) / count_T[:, None]
    return mean_TA.astype(np.float32)


def _prices(
    kitchen: Kitchen,
    menu_PM: Ints,
    world: Geography,
    city_P: Ints,
    *,
    chain_P: Ints,
    rng: np.random.Generator,
) -> Floats:
    """Mean price of the menu, by the level of the city and of the house."""
    mean_P = (kitchen.price_yuan_D[menu_PM] * (menu_PM >= 0)).sum(axis=1) / (menu_PM >= 0).sum(1)
    population_C = world.cities["population_millions"].to_numpy()
    level_C = 0.85 * population_C**0.08
    house_P = _with_chain(rng.standard_normal(city_P.size), chain_P, 0.9, rng)
    price_P: Floats = np.round(mean_P * level_C[city_P] * np.exp(0.2 * house_P))
    return np.maximum(price_P, 3.0)


def _with_chain(own_P: Floats, chain_P: Ints, shared: float, rng: np.random.Generator) -> Floats:
    chain_H = rng.standard_normal(int(chain_P.max()) + 1) if chain_P.max() >= 0 else np.zeros(1)
    mixed_P = shared * chain_H[chain_P] + np.sqrt(1 - shared**2) * own_P
    return np.where(chain_P >= 0, mixed_P, own_P)


def _opened(config: CityConfig, days: Calendar, rng: np.random.Generator) -> Floats:
    log_days = config.train_days + 1
    new_P = rng.random(config.places) < NEW_PLACES_A_DAY * log_days
    early_P = days.history_days - rng.exponential(600.0, config.places)
    late_P = days.history_days + rng.integers(0, log_days, config.places) + 9 / 24
    return np.where(new_P, late_P, early_P)


def _opening_hours(
    config: CityConfig, share_PA: Floats, city_P: Ints, old_P: Bools, rng: np.random.Generator
) -> Bools:
    """By the menu; and in every city enough old places are open at any meal."""
    share = {name: share_PA[:, number] for number, name in enumerate(ATTRIBUTES)}
    luck_PS = rng.random((city_P.size, len(SLOTS)))
    early_P = share["breakfast"]
    late_P = share["late_night"]
    early_only_P = (early_P > 0.6) & (luck_PS[:, 1] < 0.4)
    open_PS = np.stack(
        [
            (early_P > 0.3) | (luck_PS[:, 0] < 0.12),
            ~early_only_P & (luck_PS[:, 1] < 0.97),
            ~early_only_P & (luck_PS[:, 2] < 0.85),
            ~early_only_P & (luck_PS[:, 3] < 0.97),
            (late_P > 0.3) | (luck_PS[:, 4] < 0.3),
        ],
        axis=1,
    )
    wish_PS = luck_PS.copy()
    wish_PS[:, 0] -= 3 * early_P
    wish_PS[:, 4] -= 3 * late_P
    wish_PS[~old_P] += 9
    for city in range(int(city_P.max()) + 1):
        mine_P = np.flatnonzero(city_P == city)
        first_IS = np.argsort(wish_PS[mine_P], axis=0)[: config.candidates + 2]
        for slot in range(len(SLOTS)):
            open_PS[mine_P[first_IS[:, slot]], slot] = True
    return open_PS


def _pools(
    world: Geography, city_P: Ints, x_P: Floats, y_P: Floats, rng: np.random.Generator
) -> Ints:
    """The nearer half of the city, or all of it where it has few places."""
    pools = []
    for area in range(world.area_city_N.size):
        mine_P = np.flatnonzero(city_P == world.area_city_N[area])
        far_P = np.hypot(x_P[mine_P] - world.area_x_N[area], y_P[mine_P] - world.area_y_N[area])
        reach = max(min(mine_P.size, 160), mine_P.size // 2)
        pools.append(rng.permutation(mine_P[np.argsort(far_P, kind="stable")[:reach]]))
    pool_NM = np.full((len(pools), max(map(len, pools))), -1, np.int32)
    for area, pool_M in enumerate(pools):
        pool_NM[area, : pool_M.size] = pool_M
    return pool_NM
