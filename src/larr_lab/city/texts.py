"""What people can read: names, tags, menus, introductions, nicknames, rendered from the truth.

Owners leave things out, use other words for the same dish, and some names say nothing or the
wrong thing. No model has a part in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

import numpy as np
import polars as pl

from larr_lab import knowledge
from larr_lab.city.behaviour import World
from larr_lab.city.effects import ATTRIBUTES, Floats

Item = TypeVar("Item")
WORDS = knowledge.toml(__package__, "place_words.toml")

NO_MENU = 0.08
NO_INTRO = 0.20
EMPTY_INTRO = 0.25
OTHER_DISH_NAME = 0.35
TELLING_NAME = 0.62
UNINFORMATIVE_NAME = 0.30
"""The remaining 8 % of the places of their own have a misleading name."""
WRONG_TAG = 0.07
EMPTY_TAG = 0.30
TAG_FROM = 0.35
"""Share of the menu with an attribute from which on the owner may tag it."""


class Dice:
    """Draws from a generator in blocks, since single draws are slow."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._draws = self._stream(rng)

    @staticmethod
    def _stream(rng: np.random.Generator) -> Iterator[float]:
        while True:
            yield from rng.random(1 << 16).tolist()

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return next(self._draws) < probability

    def pick(self, items: Sequence[Item]) -> Item:
        """One of the items."""
        return items[int(next(self._draws) * len(items))]

    def sample(self, items: Sequence[Item], count: int) -> list[Item]:
        """Some of the items, each once, in a random order."""
        return sorted(items, key=lambda _: next(self._draws))[:count]


class PlaceWriter:
    """Writes the texts of one place after another."""

    def __init__(self, world: World, rng: np.random.Generator) -> None:
        self.world = world
        self.dice = Dice(rng)
        land, kitchen = world.geography, world.kitchen
        self.city_names: list[str] = land.cities["city"].to_list()
        self.dish_names: list[str] = kitchen.table["dish"].to_list()
        self.dish_origins: list[str] = kitchen.table["region"].to_list()
        also: list[str] = kitchen.table["also"].to_list()
        self.other_names = [[name for name in text.split("|") if name] for text in also]
        self.home_cities = self._home_cities()
        self.chain_names = self._chain_names()

    def _home_cities(self) -> dict[str, list[str]]:
        land = self.world.geography
        homes: dict[str, list[str]] = {}
        for city, region in zip(self.city_names, land.region_C.tolist(), strict=True):
            homes.setdefault(land.regions[region], []).append(city)
        return homes

    def _chain_names(self) -> dict[int, str]:
        names: dict[int, str] = {}
        taken: set[str] = set()
        places = self.world.places
        chains, leaders = np.unique(places.chain_P, return_index=True)
        for chain, leader in zip(chains.tolist(), leaders.tolist(), strict=True):
            if chain >= 0:
                name = self._from(WORDS["chain"], leader)
                while name in taken:
                    name = f"{self.dice.pick(WORDS['surnames'])} {name}"
                taken.add(name)
                names[chain] = name
        return names

    def menu(self, place: int) -> list[int]:
        """The dishes of a place, the main one first."""
        dishes: list[int] = self.world.places.menu_PM[place].tolist()
        return [dish for dish in dishes if dish >= 0]

    def dish(self, number: int) -> str:
        """A dish by its name or another one."""
        others = self.other_names[number]
        if others and self.dice.chance(OTHER_DISH_NAME):
            return self.dice.pick(others)
        return self.dish_names[number]

    def origin(self, dish: int) -> str:
        """Where a dish comes from, as a word for a sign."""
        name = self.dish_origins[dish]
        if name == "national":
            return "Chinese"
        cities = self.home_cities.get(name)
        return self.dice.pick([name, *cities]) if cities else name.title()

    def kind(self, dish: int) -> str:
        """A word for the kind of place."""
        kitchen = self.world.kitchen
        category = kitchen.categories[kitchen.category_D[dish]]
        kinds: list[str] = WORDS["category_words"].get(category, WORDS["suffixes"])
        return self.dice.pick(kinds)

    def strong(self, place: int) -> list[str]:
        """The attributes that stand out on a menu."""
        share_A: Floats = self.world.places.share_PA[place]
        return [
            name
            for number, name in enumerate(ATTRIBUTES)
            if share_A[number] >= TAG_FROM and name in WORDS["taste_words"]
        ]

    def _facts(self, place: int) -> dict[str, str]:
        world, dice = self.world, self.dice
        menu = self.menu(place)
        strong = self.strong(place) or ["oily"]
        flavours = [word for name in strong for word in WORDS["flavours"].get(name, ())]
        taste, taste2 = dice.sample([*flavours, *dice.sample(WORDS["empty_flavours"], 2)], 2)
        meal = dice.pick(WORDS["meals"].get(dice.pick(strong), ("any meal", "lunch and dinner")))
        other = int(dice.pick(range(len(self.dish_names))))
        city = self.city_names[world.places.city_P[place]]
        category = world.kitchen.categories[world.places.category_P[place]]
        return {
            "surname": dice.pick(WORDS["surnames"]),
            "mood": dice.pick(WORDS["moods"]),
            "number": str(dice.pick(range(1, 100))),
            "year": str(dice.pick(range(1988, 2022))),
            "city": city,
            "area": world.geography.area_names[world.places.area_P[place]],
            "dish": _title(self.dish(menu[0])),
            "dish2": self.dish(menu[1]),
            "origin": self.origin(menu[0]),
            "home": self.origin(menu[0]).replace("Chinese", city),
            "kind": self.kind(menu[0]),
            "category": category,
            "taste": taste,
            "Taste": taste.capitalize(),
            "taste2": taste2,
            "meal": meal,
            "Meal": meal.capitalize(),
            "other_dish": _title(self.dish(other)),
            "other_kind": self.kind(other),
            "other_origin": self.origin(other),
            "other_city": dice.pick(self.city_names),
        }

    def _from(self, templates: Sequence[str], place: int) -> str:
        facts = self._facts(place)
        return _upper_first(
            self.dice.pick(templates).format(**facts | {"taste": _title(facts["taste"])})
        )

    def name(self, place: int) -> str:
        """What the sign says."""
        chain = int(self.world.places.chain_P[place])
        if chain >= 0:
            area = self.world.geography.area_names[self.world.places.area_P[place]]
            return f"{self.chain_names[chain]} ({area})"
        if self.dice.chance(TELLING_NAME):
            return self._from(WORDS["informative"], place)
        share = UNINFORMATIVE_NAME / (1 - TELLING_NAME)
        return self._from(
            WORDS["uninformative"] if self.dice.chance(share) else WORDS["misleading"], place
        )

    def tags(self, place: int) -> str:
        """Two to four words of the owner, some empty, few wrong."""
        dice, world = self.dice, self.world
        kitchen = world.kitchen
        tags = [dice.pick(WORDS["taste_words"][name]) for name in self.strong(place)]
        tags.append(kitchen.categories[world.places.category_P[place]])
        origins = [self.dish_origins[dish] for dish in self.menu(place)]
        tags.extend(
            {name: "" for name in origins if origins.count(name) > 2 and name != "national"}
        )
        if world.places.open_PS[place, 4]:
            tags.append("late night")
        tags = dice.sample(list(dict.fromkeys(tags)), dice.pick((1, 2, 2, 3, 3, 4)))
        if dice.chance(WRONG_TAG):
            tags.append(dice.pick(WORDS["taste_words"][dice.pick(list(WORDS["taste_words"]))]))
        while len(tags) < 2 or (len(tags) < 4 and dice.chance(EMPTY_TAG)):
            tags.append(dice.pick([tag for tag in WORDS["empty_tags"] if tag not in tags]))
        return ", ".join(list(dict.fromkeys(tags))[:4])

    def menu_text(self, place: int) -> str | None:
        """Four to nine dishes, not always all, not always by the usual name."""
        if self.dice.chance(NO_MENU):
            return None
        menu = self.menu(place)
        shown = max(4, min(9, len(menu) - self.dice.pick((0, 0, 1, 1, 2))))
        kept = [menu[0], *self.dice.sample(menu[1:], shown - 1)]
        return ", ".join(dict.fromkeys(self.dish(number) for number in kept))

    def intro(self, place: int) -> str | None:
        """One or two sentences, or nothing."""
        if self.dice.chance(NO_INTRO):
            return None
        empty = self.dice.chance(EMPTY_INTRO)
        template = self.dice.pick(WORDS["empty_intros"] if empty else WORDS["intros"])
        return _upper_first(template.format(**self._facts(place)))

    def chain(self, place: int) -> str | None:
        """The name of the chain, if any."""
        return self.chain_names.get(int(self.world.places.chain_P[place]))


def _title(text: str) -> str:
    return " ".join(word[:1].upper() + word[1:] for word in text.split(" "))


def _upper_first(text: str) -> str:
    return text[:1].upper() + text[1:]


def place_texts(world: World, rng: np.random.Generator) -> pl.DataFrame:
    """The columns name, tags, menu, intro and chain of all places."""
    writer = PlaceWriter(world, rng)
    rows = [
        (w.name(p), w.tags(p), w.menu_text(p), w.intro(p), w.chain(p))
        for w in [writer]
        for p in range(world.places.count)
    ]
    schema = dict.fromkeys(("name", "tags", "menu", "intro", "chain"), pl.String)
    return pl.DataFrame(rows, schema=schema, orient="row")


def nicknames(world: World, rng: np.random.Generator) -> pl.Series:
    """A nickname for each user; a few hint at where the user grew up."""
    dice, names = Dice(rng), []
    for region in world.users.grown_region_U.tolist():
        first, second = dice.pick(WORDS["nickname_first"]), dice.pick(WORDS["nickname_second"])
        if dice.chance(0.06):
            first = world.geography.regions[region].split("-")[0]
        number = str(dice.pick(range(1000))) if dice.chance(0.6) else ""
        names.append(
            f"{first} {second}{number}" if dice.chance(0.5) else f"{first}_{second}{number}"
        )
    return pl.Series("nickname", names, dtype=pl.String)
