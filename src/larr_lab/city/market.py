"""The city as a live market: requests with many candidates, and what a ranking of them brings.

Array names: R requests, M candidates, K places shown.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
import polars as pl

from larr_lab.city.behaviour import Scenes, draw_scenes, expose, make_world
from larr_lab.city.choice import Offer, logit_parts, make_model, make_offer
from larr_lab.city.effects import Floats, Ints
from larr_lab.city.frames import Country, Names, offered
from larr_lab.settings import CityConfig

STREAM = 6
SHOWN = 10


@dataclass(frozen=True)
class Outcome:
    """What people do with the places shown, shape (R, K); zero where none is shown."""

    click_RK: Floats
    """Probability of a click."""
    order_RK: Floats
    """Probability of a click and an order."""
    price_yuan_RK: Floats


@dataclass(frozen=True)
class Market:
    """Requests of the day after the training days, each with candidates to be ranked."""

    country: Country
    scenes: Scenes
    place_RM: Ints
    """-1 where a request has fewer candidates."""
    offer: Offer

    @classmethod
    def open(cls, config: CityConfig, seed: int, requests: int, candidates: int) -> Market:
        """Draws the requests; the places that the older ranker likes best are the candidates."""
        world = make_world(config, seed)
        country = Country(world, make_model(world), Names(world))
        rng = np.random.default_rng([seed, STREAM])
        day = world.days.history_days + config.train_days
        scenes = draw_scenes(world, day, requests, rng)
        wider = replace(world, config=config.model_copy(update={"candidates": candidates}))
        place_RM = expose(wider, scenes, rng)
        return cls(country, scenes, place_RM, make_offer(world, scenes, place_RM, rng))

    @property
    def users(self) -> pl.Series:
        """The user of each request."""
        return self.country.names.user.gather(self.scenes.user_R)

    def rows(self) -> pl.DataFrame:
        """A row for each candidate, request by request, as a client would send it."""
        return offered(self.country, self.scenes, self.place_RM, self.offer)

    def outcome(self, rank_RM: Ints) -> Outcome:
        """What happens if the candidates are shown in this order, the first `SHOWN` of them."""
        chosen_RK = rank_RM[:, :SHOWN]

        def shown(values_RM: Floats) -> Floats:
            return np.take_along_axis(values_RM, chosen_RK, axis=1)

        place_RK = np.take_along_axis(self.place_RM, chosen_RK, axis=1)
        offer = replace(
            self.offer, **{f.name: shown(getattr(self.offer, f.name)) for f in fields(Offer)}
        )
        return self._outcome(place_RK, offer)

    def alone(self) -> Outcome:
        """What happens with each candidate if it is the first, shape (R, M)."""
        return self._outcome(self.place_RM, self.offer, first=True)

    def _outcome(self, place_RK: Ints, offer: Offer, *, first: bool = False) -> Outcome:
        world = self.country.world
        parts = logit_parts(world, self.scenes, place_RK, offer)
        if first:
            parts["position"] = np.zeros(place_RK.shape)
        click_RK, order_RK = self.country.model.probabilities(parts)
        there_RK = place_RK >= 0
        price_RK = world.places.price_yuan_P[place_RK]
        return Outcome(click_RK * there_RK, order_RK * there_RK, price_RK * there_RK)
