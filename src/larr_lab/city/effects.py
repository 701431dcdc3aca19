"""The vocabulary of the city: attributes of dishes, meals, kinds of place, and effects.toml.

Array names in this package end in their shape, one letter for each axis:
A attributes of dishes, then their origins; B blocks of three hours; C cities; D days (dishes in
`Kitchen`); E effects; G culinary regions; H chains; I rows of a table; K places shown; L users
away from home; M dishes of a menu or candidates; N districts; P places; R requests; S meals;
T categories; U users.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from larr_lab import knowledge

Array = npt.NDArray[Any]

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
"""Attribute -> the values in the column `protein` of dishes.csv that count towards it."""
ATTRIBUTES = (*TEMPERATURES, *LEVELS, *FLAGS, *STAPLES, *PROTEINS)
"""The 23 attributes of a dish; a place has the mean over its menu. The 19 origins follow."""

SLOTS = ("breakfast", "lunch", "afternoon", "dinner", "late night")
"""Meals of a day."""
BREAKFAST, LUNCH, AFTERNOON, DINNER, LATE_NIGHT = range(5)
KINDS = ("home", "office", "school", "hotel", "station", "hospital", "mall", "scenic spot")
"""Kinds of place where a user can be."""

EFFECTS = knowledge.toml(__package__, "effects.toml")


def matrix(effects: dict[str, dict[str, float]]) -> Array:
    """Returns effects as an array, (E, A without origins), with rows in the order of the dict."""
    array_EA = np.zeros((len(effects), len(ATTRIBUTES)), np.float32)
    for row, weights in enumerate(effects.values()):
        for attribute, weight in weights.items():
            array_EA[row, ATTRIBUTES.index(attribute)] = weight
    return array_EA
