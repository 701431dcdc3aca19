"""What is known about food and people: attributes of dishes, and who wants them when.

A weight is the change of the raw liking for one standard deviation of a place's attribute; the
raw sums are brought to the sizes of `CLICK_SHARES` and `ORDER_SHARES` by a pilot (`choice.py`).
"""

from __future__ import annotations

from datetime import date
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]
Ints = npt.NDArray[np.integer[Any]]
Bools = npt.NDArray[np.bool_]

TEMPERATURES = ("hot", "cold")
LEVELS = ("spicy", "sweet", "sour", "oily")
FLAGS = ("soup", "drink", "dessert", "grilled", "fried", "breakfast", "late_night", "light")
STAPLES = ("rice", "noodles", "buns")
PROTEINS: dict[str, tuple[str, ...]] = {
    "seafood": ("seafood", "fish", "shrimp", "crab", "shellfish"),
    "lamb": ("lamb", "mutton"),
    "beef": ("beef",),
    "pork": ("pork",),
    "poultry": ("poultry", "chicken", "duck", "goose"),
    "plain": ("tofu", "egg", "vegetable", "vegetables", "bean", "beans", "soy", "mushroom"),
}
"""Attribute -> the words of the column `protein` of dishes.csv."""
ATTRIBUTES = (*TEMPERATURES, *LEVELS, *FLAGS, *STAPLES, *PROTEINS)
"""Attributes of a dish; a place has the mean over its menu. Origins of dishes come after them."""

SLOTS = ("breakfast", "lunch", "afternoon", "dinner", "late night")
SLOT_HOURS = ((6.0, 10.0), (10.5, 14.0), (14.0, 17.0), (17.0, 20.5), (20.5, 25.5))
"""First and last hour of a meal slot; hours from 24 on are the small hours of the same date."""
SLOT_PEAKS = (7.9, 12.0, 15.3, 18.5, 22.0)
SLOT_SPREADS_HOURS = (0.9, 0.8, 0.8, 0.9, 1.1)
SLOT_WEIGHTS = (0.10, 0.36, 0.11, 0.31, 0.12)
"""Share of the requests of a working day."""
SLOT_WEIGHTS_FREE = (0.06, 0.31, 0.16, 0.32, 0.15)
"""Share of the requests on weekends and holidays."""
SLOT_INTENT = (0.15, 0.30, -0.35, 0.15, -0.15)
"""How much closer to a click a request in the slot is."""
BAD_WEATHER_INTENT = 0.3
"""The same for rain and snow, when nobody likes to go out."""
PERSONAL_INTENT = 0.25
"""Standard deviation of the same between people."""

KINDS = ("home", "office", "school", "hotel", "station", "hospital", "mall", "scenic spot")

REGION_LIKINGS: dict[str, str] = {
    "spicy": "spicy",
    "sweet": "sweet",
    "sour": "sour",
    "oily": "oily",
    "soup": "soup",
    "noodles": "noodles",
    "rice": "rice",
    "buns": "buns",
    "seafood": "seafood",
    "lamb": "lamb",
    "beef": "beef",
    "pork": "pork",
    "grilled": "grilled",
    "tea_drinks": "drink",
}
"""Column of regions.csv -> attribute."""

PEOPLE_EFFECTS: dict[str, dict[str, float]] = {
    "female": {"sweet": 0.35, "dessert": 0.45, "drink": 0.45, "light": 0.35, "oily": -0.3}
    | {"grilled": -0.15, "lamb": -0.2, "plain": 0.2},
    "male": {"oily": 0.2, "grilled": 0.3, "noodles": 0.2, "rice": 0.2, "beef": 0.25}
    | {"dessert": -0.3, "drink": -0.25, "light": -0.25},
    "18-24": {"drink": 0.6, "fried": 0.6, "spicy": 0.3, "dessert": 0.35, "late_night": 0.4}
    | {"light": -0.25, "soup": -0.3, "breakfast": -0.2},
    "25-34": {"drink": 0.3, "spicy": 0.25, "grilled": 0.25, "late_night": 0.2, "cold": 0.1},
    "35-44": {"seafood": 0.25, "rice": 0.15, "breakfast": 0.15, "fried": -0.15},
    "45-54": {"soup": 0.4, "noodles": 0.25, "hot": 0.25, "drink": -0.4, "fried": -0.35}
    | {"breakfast": 0.25, "cold": -0.3},
    "55+": {"soup": 0.6, "light": 0.5, "hot": 0.4, "buns": 0.3, "drink": -0.7, "fried": -0.6}
    | {"spicy": -0.35, "cold": -0.5, "breakfast": 0.4, "late_night": -0.5},
}
"""Tendencies by gender and age band; single people differ far more than these groups."""

SLOT_HABITS: tuple[tuple[str, ...], ...] = (
    ("buns", "noodles", "soup", "sweet", "light", "spicy", "drink"),
    ("rice", "noodles", "light", "spicy", "beef", "poultry", "soup", "fried", "buns", "pork"),
    ("drink", "dessert", "fried", "light", "cold"),
    ("rice", "noodles", "soup", "spicy", "grilled", "light", "seafood", "pork", "beef", "plain"),
    ("grilled", "fried", "spicy", "noodles", "soup", "drink", "seafood"),
)
"""What a person may get used to in a meal slot; one of them, with a personal strength."""

SCENE_EFFECTS: dict[str, dict[str, float]] = {
    "breakfast": {"breakfast": 2.0, "buns": 0.6, "soup": 0.3, "light": 0.3, "sweet": 0.1}
    | {"oily": -0.5, "spicy": -0.6, "late_night": -1.0, "grilled": -0.9, "hot": 0.2},
    "lunch": {"rice": 0.8, "noodles": 0.6, "hot": 0.2, "dessert": -0.5, "drink": -0.3}
    | {"grilled": -0.4, "breakfast": -0.4, "late_night": -0.3},
    "afternoon": {"drink": 1.3, "dessert": 1.1, "cold": 0.3, "sweet": 0.4, "fried": 0.3}
    | {"rice": -0.6, "noodles": -0.4, "soup": -0.4, "hot": -0.3},
    "dinner": {"soup": 0.3, "grilled": 0.3, "spicy": 0.3, "rice": 0.3, "seafood": 0.2}
    | {"breakfast": -0.7, "drink": -0.3},
    "late night": {"late_night": 1.3, "grilled": 1.0, "fried": 0.6, "spicy": 0.5}
    | {"breakfast": -0.8, "light": -0.4, "rice": -0.3},
    "heat": {"cold": 1.0, "drink": 0.5, "light": 0.7, "sour": 0.5, "dessert": 0.4, "hot": -0.5}
    | {"soup": -0.9, "oily": -0.8, "lamb": -0.7, "grilled": -0.2},
    "chill": {"hot": 0.6, "soup": 1.2, "lamb": 0.8, "spicy": 0.5, "oily": 0.4, "cold": -0.8}
    | {"drink": -0.3, "dessert": -0.2, "light": -0.4},
    "heat in the afternoon": {"cold": 0.4, "drink": 0.4, "dessert": 0.2},
    "chill in the evening": {"soup": 0.8, "lamb": 0.5, "spicy": 0.4, "beef": 0.4},
    "rain": {"soup": 1.0, "hot": 0.6, "noodles": 0.5, "spicy": 0.3, "cold": -0.7, "light": -0.3},
    "heavy rain": {"soup": 0.7, "hot": 0.4, "rice": 0.3, "fried": 0.3, "cold": -0.6},
    "snow": {"soup": 1.2, "lamb": 0.9, "spicy": 0.6, "hot": 0.6, "cold": -1.3, "drink": -0.3},
    "windy": {"soup": 0.4, "hot": 0.4, "cold": -0.4},
    "hospital": {"soup": 1.4, "light": 1.7, "spicy": -1.6, "oily": -1.6, "fried": -1.4}
    | {"grilled": -1.4, "cold": -0.8},
    "office at lunch": {"rice": 0.8, "light": 0.6, "beef": 0.2, "soup": -0.4, "seafood": -0.4},
    "office in the afternoon": {"drink": 1.1, "dessert": 0.6},
    "school": {"fried": 0.8, "spicy": 0.6, "drink": 0.6, "noodles": 0.4, "seafood": -0.5},
    "station": {"buns": 0.9, "noodles": 0.6, "fried": 0.7, "soup": -0.7, "grilled": -0.6},
    "hotel at night": {"grilled": 0.8, "spicy": 0.4, "late_night": 0.6, "seafood": 0.4},
    "mall": {"drink": 0.8, "dessert": 0.6, "rice": -0.4},
    "weekend dinner": {"grilled": 0.6, "seafood": 0.6, "oily": 0.3, "spicy": 0.3, "rice": -0.5},
    "weekend morning": {"breakfast": -0.4, "noodles": 0.3, "sweet": 0.3},
}
"""Feature of a scene -> what is wanted more or less in it."""
LOCAL_WEIGHT = 2.5
"""What a traveller adds for a standard deviation more of local dishes on the menu."""

CLICK_SD = 1.2
"""Standard deviation of the click logit over exposed rows, if its parts were independent."""
CLICK_SHARES: dict[str, float] = {
    "taste": 0.37,
    "scene": 0.23,
    "position": 0.12,
    "distance": 0.07,
    "quality": 0.06,
    "affinity": 0.06,
    "intent": 0.05,
    "price": 0.04,
}
"""Share of the variance of the click logit over exposed rows."""
ORDER_SD = 0.9
ORDER_SHARES: dict[str, float] = {
    "taste": 0.26,
    "scene": 0.15,
    "price": 0.19,
    "wait": 0.11,
    "intent": 0.06,
    "fee": 0.09,
    "quality": 0.08,
    "affinity": 0.06,
}
"""Share of the variance of the logit of an order after a click."""
CLICK_RATE = 0.07
ORDER_RATE = 0.17
"""Clicks of impressions, and orders of clicks, on average."""

HOLIDAYS: tuple[tuple[date, date], ...] = (
    (date(2023, 9, 29), date(2023, 10, 6)),
    (date(2023, 12, 30), date(2024, 1, 1)),
    (date(2024, 2, 10), date(2024, 2, 17)),
    (date(2024, 4, 4), date(2024, 4, 6)),
    (date(2024, 5, 1), date(2024, 5, 5)),
    (date(2024, 6, 8), date(2024, 6, 10)),
    (date(2024, 9, 15), date(2024, 9, 17)),
    (date(2024, 10, 1), date(2024, 10, 7)),
    (date(2025, 1, 1), date(2025, 1, 1)),
    (date(2025, 1, 28), date(2025, 2, 4)),
    (date(2025, 4, 4), date(2025, 4, 6)),
    (date(2025, 5, 1), date(2025, 5, 5)),
)
"""First and last days of China's public holidays."""


def matrix(effects: dict[str, dict[str, float]]) -> Floats:
    """The effects as an array (rows in the dict's order, `ATTRIBUTES`)."""
    array_EA = np.zeros((len(effects), len(ATTRIBUTES)), np.float32)
    for row, weights in enumerate(effects.values()):
        for attribute, weight in weights.items():
            array_EA[row, ATTRIBUTES.index(attribute)] = weight
    return array_EA
