"""The city as a live market: requests with many candidates, and what a ranking of them brings.

Arrays as in `effects.py`, with M candidates of a request and K places shown.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
import polars as pl

from larr_lab.city.choice import Offer, logit_parts, make_offer
from larr_lab.city.effects import Array
from larr_lab.city.exposure import expose
from larr_lab.city.requests import Scenes, draw_scenes
from larr_lab.city.tables import Country, make_country, offered
from larr_lab.settings import CityConfig

STREAM = 6
SHOWN = 10


@dataclass(frozen=True)
class Outcome:
    """What people do with the places shown, shape (R, K); zero where none is shown."""

    click_RK: Array
    """Probability of a click."""
    order_RK: Array
    """Probability of a click and an order."""
    price_yuan_RK: Array


@dataclass(frozen=True)
class Market:
    """Requests of the day after the training days, each with candidates to be ranked."""

    country: Country
    scenes: Scenes
    place_RM: Array
    """-1 where a request has fewer candidates."""
    offer: Offer

    @classmethod
    def open(cls, config: CityConfig, seed: int, requests: int, candidates: int) -> Market:
        """Draws requests, whose candidates are the places that the older ranker likes best."""
        country = make_country(config, seed)
        world = country.world
        rng = np.random.default_rng([seed, STREAM])
        scenes = draw_scenes(world, world.days.history_days + config.train_days, requests, rng)
        wider = replace(world, config=config.model_copy(update={"candidates": candidates}))
        place_RM = expose(wider, scenes, rng)
        return cls(country, scenes, place_RM, make_offer(world, scenes, place_RM, rng))

    @property
    def users(self) -> pl.Series:
        """Returns the user of each request."""
        return self.country.user_ids.gather(self.scenes.user_R)

    def rows(self) -> pl.DataFrame:
        """Returns a row for each candidate, request by request, as a client would send it."""
        return offered(self.country, self.scenes, self.place_RM, self.offer)

    def outcome(self, rank_RM: Array) -> Outcome:
        """Returns what happens if the first `SHOWN` candidates of this order are shown."""
        chosen_RK = rank_RM[:, :SHOWN]

        def shown(values_RM: Array) -> Array:
            return np.take_along_axis(values_RM, chosen_RK, axis=1)

        offer = Offer(*(shown(getattr(self.offer, field.name)) for field in fields(Offer)))
        return self._outcome(shown(self.place_RM), offer)

    def alone(self) -> Outcome:
        """Returns what happens with each candidate if it is the first, shape (R, M)."""
        return self._outcome(self.place_RM, self.offer, first=True)

    def _outcome(self, place_RK: Array, offer: Offer, *, first: bool = False) -> Outcome:
        world = self.country.world
        parts = logit_parts(world, self.scenes, place_RK, offer)
        if first:
            parts["position"] = np.zeros(place_RK.shape)
        click_RK, order_RK = self.country.model.probabilities(parts)
        exists_RK = place_RK >= 0
        price_RK = world.places.price_yuan_P[place_RK]
        return Outcome(click_RK * exists_RK, order_RK * exists_RK, price_RK * exists_RK)
