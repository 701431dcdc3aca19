"""The dishes as arrays: attributes, frequency in each region, and combinations on menus.

Arrays as in `effects.py`, with D dishes.
"""

from __future__ import annotations

import numpy as np

from larr_lab import knowledge
from larr_lab.city.effects import EFFECTS, FLAGS, LEVELS, PROTEINS, STAPLES, TEMPERATURES, Array
from larr_lab.city.geography import Geography

OTHER_CATEGORY = 0.02
OTHER_DIFFUSION, AT_HOME = 0.35, 5.0
"""The values for names missing in `[category_shares]` and `[diffusion]` of effects.toml."""


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
