"""The city as a live market: requests with many candidates, and the outcome of rankings.

Arrays as in `effects.py`, with M candidates of a request and K places shown.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import polars as pl

from larr_lab.city.choice import Model, Offer, make_offer
from larr_lab.city.effects import Array
from larr_lab.city.exposure import expose
from larr_lab.city.requests import draw_scenes
from larr_lab.city.tables import offered
from larr_lab.city.world import World
from larr_lab.settings import CityConfig

STREAM = 6
SHOWN = 10


class Outcome(NamedTuple):
    """The response to the places shown, shape (R, K); zero where none is shown."""

    click_RK: Array
    """Probability of a click."""
    order_RK: Array
    """Probability of a click and an order."""
    price_yuan_RK: Array


class Market:
    """Requests of the day after the training days, each with candidates to be ranked."""

    def __init__(self, config: CityConfig, seed: int, requests: int, candidates: int) -> None:
        """Draws requests; the older ranker's best places are their candidates."""
        self.world = world = World(config, seed)
        self.model = Model(world)
        rng = np.random.default_rng([seed, STREAM])
        day = world.days.history_days + config.train_days
        self.scenes = draw_scenes(world, day, requests, rng)
        self.place_RM = expose(world, self.scenes, candidates, rng)
        """-1 where a request has fewer candidates."""
        self.offer = make_offer(world, self.scenes, self.place_RM, rng)
        self.users = world.user_ids.gather(self.scenes.user_R)
        """The user of each request."""

    def rows(self) -> pl.DataFrame:
        """Returns a row for each candidate, request by request, as a client would send it."""
        return offered(self.world, self.scenes, self.place_RM, self.offer)

    def outcome(self, rank_RM: Array) -> Outcome:
        """Returns the outcome of showing the first `SHOWN` candidates in this order."""
        arrays = (self.place_RM, *self.offer)
        place_RK, *seen = (np.take_along_axis(each, rank_RM[:, :SHOWN], axis=1) for each in arrays)
        return self._outcome(place_RK, Offer(*seen))

    def alone(self) -> Outcome:
        """Returns the outcome of showing each candidate first, shape (R, M)."""
        return self._outcome(self.place_RM, self.offer, all_first=True)

    def _outcome(self, place_RK: Array, offer: Offer, *, all_first: bool = False) -> Outcome:
        click_RK, order_RK = self.model.probabilities(
            self.scenes, place_RK, offer, all_first=all_first
        )
        exists_RK = place_RK >= 0
        price_RK = self.world.places.price_yuan_P[place_RK]
        return Outcome(click_RK * exists_RK, order_RK * exists_RK, price_RK * exists_RK)
