"""Dishes, and the places that serve them: location, menu, quality, price, opening hours.

Arrays as in `effects.py`; in `Kitchen`, D is dishes.
"""

from __future__ import annotations

import numpy as np

from larr_lab import knowledge
from larr_lab.city.days import Calendar
from larr_lab.city.effects import (
    ATTRIBUTES,
    BREAKFAST,
    EFFECTS,
    FLAGS,
    LATE_NIGHT,
    LEVELS,
    LUNCH,
    PROTEINS,
    SLOTS,
    STAPLES,
    TEMPERATURES,
    Array,
)
from larr_lab.city.geography import Geography
from larr_lab.settings import CityConfig

OTHER_CATEGORY = 0.02
OTHER_DIFFUSION, AT_HOME = 0.35, 5.0
"""The values for names missing in `[category_shares]` and `[diffusion]` of effects.toml."""
MENU_DISHES = 10
CHAIN_SHARE = 0.28
BRANCHES = 8
"""Mean number of branches of a chain."""
NEW_PLACES_A_DAY = 0.024
"""Share of the places that open on each day of the log, so that the test has cold places."""
FEE_SHARES = (0.12, 0.1, 0.2, 0.24, 0.17, 0.12, 0.05)
"""Share of the places with a delivery fee of 0, 1, ..., 6 yuan."""
MAX_DEVIATIONS = 2.5
"""Standardised attributes are clipped here, so that one rare attribute cannot dominate a logit."""
REACH = 160
"""Minimum number of places near a district, if the city has enough."""


class Kitchen:
    """The dishes of dishes.csv as arrays."""

    def __init__(self, land: Geography) -> None:
        self.table = dishes = knowledge.dishes()
        foreign = sorted(set(dishes["region"]) - set(land.region_names))
        self.origins = [*land.region_names, *foreign]
        """The regions of China in the order of regions.csv, then the other origins."""
        self.categories: list[str] = sorted(set(dishes["category"]))
        self.price_yuan_D = dishes["price_yuan"].to_numpy().astype(np.float64)
        origin_D = np.array([self.origins.index(name) for name in dishes["region"]])
        category_D = np.array([self.categories.index(name) for name in dishes["category"]])
        self.category_D = category_D
        columns = [(dishes["temperature"] == name).to_numpy() for name in TEMPERATURES]
        columns += [dishes[name].to_numpy() / 3 for name in LEVELS]
        columns += [dishes[name].to_numpy() for name in FLAGS]
        columns += [(dishes["staple"] == name).to_numpy() for name in STAPLES]
        columns += [dishes["protein"].is_in(list(words)).to_numpy() for words in PROTEINS.values()]
        plain_DA = np.stack(columns, axis=1).astype(np.float32)
        self.dish_DA = np.hstack([plain_DA, np.eye(len(self.origins), dtype=np.float32)[origin_D]])
        """Attributes in 0..1, then one column for each origin."""
        # Menus have a theme: they combine dishes of one category, of one origin, or with similar
        # attributes; national dishes go with everything.
        same_category_DD = category_D[:, None] == category_D
        same_origin_DD = origin_D[:, None] == origin_D
        distance_DD = ((plain_DA[:, None] - plain_DA) ** 2).sum(axis=2)
        national_D = (dishes["region"] == knowledge.NATIONAL).to_numpy()
        match_DD = (
            3.5 * same_category_DD + 2.5 * same_origin_DD - 0.6 * distance_DD + 0.8 * national_D
        )
        self.match_DD = match_DD.astype(np.float32)
        """Log weight of two dishes on the same menu."""
        self.anchor_GD = np.array([self._anchors(region) for region in land.region_names])
        """Probability of each dish as the main dish of a place in a region."""

    def _anchors(self, region: str) -> Array:
        """Returns the probability of each dish as the main dish of a place in a region.

        Dishes of the region weigh most, national ones less, foreign ones least; each category
        keeps its share.
        """
        spread, shares = EFFECTS["diffusion"] | {region: AT_HOME}, EFFECTS["category_shares"]
        weight_D = np.array([spread.get(name, OTHER_DIFFUSION) for name in self.table["region"]])
        share_T = np.array([shares.get(name, OTHER_CATEGORY) for name in self.categories])
        weight_D *= (share_T / np.bincount(self.category_D, weight_D))[self.category_D]
        return weight_D / weight_D.sum()


class Places:
    """Latent and visible attributes of all places."""

    def __init__(
        self,
        config: CityConfig,
        land: Geography,
        days: Calendar,
        kitchen: Kitchen,
        rng: np.random.Generator,
    ) -> None:
        self.count = count = config.places
        self.city_P = city_P = _cities(config, land, rng)
        self.area_P = land.any_area(city_P, rng.random(count))
        self.x_P = land.area_x_N[self.area_P] + 0.9 * rng.standard_normal(count, dtype=np.float32)
        self.y_P = land.area_y_N[self.area_P] + 0.9 * rng.standard_normal(count, dtype=np.float32)
        """Kilometres east and north of the city's centre."""
        self.chain_P = _chains(land, city_P, rng)
        """-1 for a place without branches."""
        self.menu_PM = _menus(kitchen, land.region_C[city_P], self.chain_P, rng)
        """Dishes, the main dish first; shorter menus are padded with -1."""
        self.share_PA, self.category_P = _menu_means(kitchen, self.menu_PM)
        """Mean attributes and origins of the menu."""
        self.attributes_PA = _standardised(self.share_PA)
        """`share_PA` standardised over places."""
        total_TA = np.zeros((len(kitchen.categories), self.attributes_PA.shape[1]))
        np.add.at(total_TA, self.category_P, self.attributes_PA)
        count_T = np.maximum(np.bincount(self.category_P, minlength=len(total_TA)), 1)
        self.typical_TA = (total_TA / count_T[:, None]).astype(np.float32)
        """Mean standardised attributes of the places of each category."""
        local_P = self.share_PA[np.arange(count), len(ATTRIBUTES) + land.region_C[city_P]]
        self.local_P = _standardised(local_P[:, None])[:, 0]
        """Share of dishes from the city's region, standardised."""
        quality_P = _with_chain(rng.standard_normal(count), self.chain_P, 0.6, rng)
        self.quality_P = quality_P.astype(np.float32)
        """Standard normal; visible in reviews and, with noise, in the rating."""
        self.opened_day_P = _opened(config, days, rng)
        """Days since the first day of the history; negative for most."""
        self.open_PS = self._opening_hours(config, rng)
        """Whether a place is open at a meal."""
        open_SP = self.open_PS.T.astype(np.float32)
        self.usual_SA = open_SP @ self.attributes_PA / self.open_PS.sum(axis=0)[:, None]
        """Mean standardised attributes of the places open at each meal."""
        # A rating is the quality with noise, twice as much for new places with few ratings.
        sd_P = 0.17 * np.where(self.opened_day_P > days.history_days, 2.0, 1.0)
        rating_P = 4.35 + 0.22 * quality_P + sd_P * rng.standard_normal(count)
        self.rating_P = np.clip(np.round(rating_P, 1), 3.0, 5.0)
        popularity_P = 1.2 * rng.standard_normal(count) + 0.45 * quality_P
        popularity_P += 0.5 * (self.chain_P >= 0)
        self.popularity_P = popularity_P.astype(np.float32)
        """The main signal of the older ranker in `choice.py`."""
        house_P = _with_chain(rng.standard_normal(count), self.chain_P, 0.9, rng)
        # Prices are 6 % higher in a city with twice the population.
        level_C = 0.85 * land.cities["population_millions"].to_numpy() ** 0.08
        is_dish_PM = self.menu_PM >= 0
        total_P = (kitchen.price_yuan_D[self.menu_PM] * is_dish_PM).sum(axis=1)
        price_P = total_P / is_dish_PM.sum(axis=1) * level_C[city_P] * np.exp(0.2 * house_P)
        self.price_yuan_P = np.maximum(np.round(price_P), 3.0)
        self.fee_yuan_P = rng.choice(len(FEE_SHARES), count, p=FEE_SHARES).astype(np.float32)
        self.prepare_minutes_P = np.exp(rng.normal(2.45, 0.35, count)).astype(np.float32)
        self.pool_NM = self._pools(land, rng)
        """Places near each district in random order, padded with -1."""

    def _opening_hours(self, config: CityConfig, rng: np.random.Generator) -> Array:
        """Returns at which meals each place is open, depending on its menu.

        At each meal every city has enough open, older places to fill a request, and two more.
        """
        uniform_PS = rng.random((self.count, len(SLOTS)))
        early_P = self.share_PA[:, ATTRIBUTES.index("breakfast")]
        late_P = self.share_PA[:, ATTRIBUTES.index("late_night")]
        open_PS = uniform_PS < (0.12, 0.97, 0.85, 0.97, 0.3)
        open_PS[:, BREAKFAST] |= early_P > 0.3
        open_PS[:, LATE_NIGHT] |= late_P > 0.3
        closes_early_P = (early_P > 0.6) & (uniform_PS[:, LUNCH] < 0.4)
        open_PS[closes_early_P, LUNCH:LATE_NIGHT] = False
        score_PS = uniform_PS.copy()
        score_PS[:, BREAKFAST] -= 3 * early_P
        score_PS[:, LATE_NIGHT] -= 3 * late_P
        score_PS[self.opened_day_P >= 0] += 9
        for city in range(int(self.city_P.max()) + 1):
            mine_P = np.flatnonzero(self.city_P == city)
            first_IS = np.argsort(score_PS[mine_P], axis=0)[: config.candidates + 2]
            open_PS[mine_P[first_IS], np.arange(len(SLOTS))] = True
        return open_PS

    def _pools(self, land: Geography, rng: np.random.Generator) -> Array:
        """Returns the places near each district: the nearest half of the city, at least `REACH`."""
        pools = []
        for city, x, y in zip(land.area_city_N, land.area_x_N, land.area_y_N, strict=True):
            mine_P = np.flatnonzero(self.city_P == city)
            distance_P = np.hypot(self.x_P[mine_P] - x, self.y_P[mine_P] - y)
            reach = max(min(mine_P.size, REACH), mine_P.size // 2)
            pools.append(rng.permutation(mine_P[np.argsort(distance_P, kind="stable")[:reach]]))
        pool_NM = np.full((len(pools), max(map(len, pools))), -1, np.int32)
        for area, pool_M in enumerate(pools):
            pool_NM[area, : pool_M.size] = pool_M
        return pool_NM


def _cities(config: CityConfig, land: Geography, rng: np.random.Generator) -> Array:
    """Returns the city of each place, by weight; each has places for at least three requests."""
    cities = land.weight_C.size
    least = min(config.places // cities, 3 * config.candidates)
    free = config.places - least * cities
    extra_C = np.floor(land.weight_C * free).astype(np.int64)
    extra_C[np.argsort(-land.weight_C)[: free - int(extra_C.sum())]] += 1
    return rng.permutation(np.repeat(np.arange(cities), least + extra_C))


def _chains(land: Geography, city_P: Array, rng: np.random.Generator) -> Array:
    """Returns the chain of each place or -1; half the chains are national, half regional."""
    count = city_P.size
    chain_P = np.full(count, -1)
    chains = max(1, round(count * CHAIN_SHARE / BRANCHES))
    size_H = rng.pareto(1.8, chains) + 0.6
    home_H = land.region_C[rng.choice(land.weight_C.size, chains, p=land.weight_C)]
    national_H = rng.random(chains) < 0.5
    member_P = np.flatnonzero(rng.random(count) < CHAIN_SHARE)
    region_P = land.region_C[city_P]
    for region in range(len(land.region_names)):
        mine_P = member_P[region_P[member_P] == region]
        weight_H = size_H * (national_H | (home_H == region))
        if mine_P.size and weight_H.sum() > 0:
            chain_P[mine_P] = rng.choice(chains, mine_P.size, p=weight_H / weight_H.sum())
    return chain_P


def _opened(config: CityConfig, days: Calendar, rng: np.random.Generator) -> Array:
    """Returns the day on which each place opens; during the log at nine in the morning."""
    log_days = config.train_days + 1
    new_P = rng.random(config.places) < NEW_PLACES_A_DAY * log_days
    early_P = days.history_days - rng.exponential(600.0, config.places)
    late_P = days.history_days + rng.integers(0, log_days, config.places) + 9 / 24
    return np.where(new_P, late_P, early_P)


def _menus(kitchen: Kitchen, region_P: Array, chain_P: Array, rng: np.random.Generator) -> Array:
    """Returns menus of a main dish and matching dishes; branches share nearly all dishes."""
    cumulative_GD = kitchen.anchor_GD.cumsum(axis=1)
    anchor_P = np.empty(region_P.size, np.int64)
    for region in np.unique(region_P):
        mine_P = np.flatnonzero(region_P == region)
        draws_P = rng.random(mine_P.size) * cumulative_GD[region, -1]
        anchor_P[mine_P] = np.searchsorted(cumulative_GD[region], draws_P)
    menu_PM = np.empty((region_P.size, MENU_DISHES), np.int16)
    for start in range(0, region_P.size, 4096):  # the scores of all dishes fit in memory
        part = slice(start, start + 4096)
        menu_PM[part] = _menus_around(kitchen, anchor_P[part], rng)
    length_P = rng.integers(5, MENU_DISHES + 1, region_P.size)
    # A branch copies the menu of the first branch, sometimes without its last dish.
    first_P = np.arange(region_P.size)
    _, first_H, chain_of_P = np.unique(chain_P, return_index=True, return_inverse=True)
    leader_P = np.where(chain_P >= 0, first_H[chain_of_P], first_P)
    menu_PM, length_P = menu_PM[leader_P], length_P[leader_P]
    length_P = np.where(leader_P != first_P, length_P - rng.integers(0, 2, length_P.size), length_P)
    menu_PM[np.arange(MENU_DISHES) >= length_P[:, None]] = -1
    return menu_PM


def _menus_around(kitchen: Kitchen, anchor_P: Array, rng: np.random.Generator) -> Array:
    """Returns `MENU_DISHES` dishes for each main dish, the main dish first.

    Gumbel top-k: the largest sums of log weight and Gumbel noise are a draw without replacement.
    """
    score_PD = kitchen.match_DD[anchor_P]
    drawn_PD = rng.standard_exponential(score_PD.shape, dtype=np.float32)
    score_PD = score_PD - np.log(np.maximum(drawn_PD, np.finfo(np.float32).tiny))
    score_PD[np.arange(anchor_P.size), anchor_P] = np.inf
    top_PM = np.argpartition(-score_PD, MENU_DISHES - 1, axis=1)[:, :MENU_DISHES]
    order_PM = np.argsort(-np.take_along_axis(score_PD, top_PM, axis=1), axis=1, kind="stable")
    return np.take_along_axis(top_PM, order_PM, axis=1)


def _menu_means(kitchen: Kitchen, menu_PM: Array) -> tuple[Array, Array]:
    """Returns the mean attributes and origins of each menu, and its most frequent category.

    The main dish has 1.5 votes for the category.
    """
    count = len(menu_PM)
    sum_PA = np.zeros((count, kitchen.dish_DA.shape[1]), np.float32)
    votes_PT = np.zeros((count, len(kitchen.categories)), np.float32)
    for number, dish_P in enumerate(menu_PM.T):  # all at once would take gigabytes of memory
        sum_PA += kitchen.dish_DA[dish_P] * (dish_P >= 0)[:, None]
        vote = 1.5 if number == 0 else 1
        votes_PT[np.arange(count), kitchen.category_D[dish_P]] += (dish_P >= 0) * vote
    return sum_PA / (menu_PM >= 0).sum(axis=1, keepdims=True), votes_PT.argmax(axis=1)


def _standardised(value_PA: Array) -> Array:
    """Returns values with mean 0 and standard deviation 1 over the places, clipped."""
    sd_A = np.maximum(value_PA.std(axis=0), 1e-3)  # an origin may be absent in a small country
    standard_PA = (value_PA - value_PA.mean(axis=0)) / sd_A
    return np.clip(standard_PA, -MAX_DEVIATIONS, MAX_DEVIATIONS).astype(np.float32)


def _with_chain(own_P: Array, chain_P: Array, shared: float, rng: np.random.Generator) -> Array:
    """Returns standard normal values whose correlation between branches is `shared` squared."""
    chain_H = rng.standard_normal(int(chain_P.max()) + 1) if chain_P.max() >= 0 else np.zeros(1)
    mixed_P = shared * chain_H[chain_P] + np.sqrt(1 - shared**2) * own_P
    return np.where(chain_P >= 0, mixed_P, own_P)
