"""The texts of places and users: names, tags, menus, introductions, nicknames.

Templates render them from the latent attributes, without a model. Owners omit dishes and use other
words for the same dish; some names reveal nothing or mislead.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

import numpy as np
import polars as pl

from larr_lab import knowledge
from larr_lab.city.effects import ATTRIBUTES, LATE_NIGHT
from larr_lab.city.world import World

WORDS = knowledge.toml(__package__, "place_words.toml")
Item = TypeVar("Item")

NO_MENU = 0.08
NO_INTRO = 0.20
EMPTY_INTRO = 0.25
OTHER_DISH_NAME = 0.35
INFORMATIVE_NAME = 0.62
UNINFORMATIVE_NAME = 0.30
"""The remaining 8 % of the places without a chain have a misleading name."""
WRONG_TAG = 0.07
EMPTY_TAG = 0.30
TAG_FROM = 0.35
"""Minimum share of dishes with an attribute for the owner to use it as a tag."""
NICKNAME_OF_REGION = 0.06


class Dice:
    """Single draws taken from blocks, four times faster than a generator call for each."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._uniform = self._stream(rng)

    @staticmethod
    def _stream(rng: np.random.Generator) -> Iterator[float]:
        while True:
            yield from rng.random(1 << 16).tolist()

    def chance(self, probability: float) -> bool:
        """Returns True with this probability."""
        return next(self._uniform) < probability

    def pick(self, items: Sequence[Item]) -> Item:
        """Returns one of the items."""
        return items[int(next(self._uniform) * len(items))]

    def sample(self, items: Sequence[Item], count: int) -> list[Item]:
        """Returns at most `count` of the items in a random order."""
        return sorted(items, key=lambda _: next(self._uniform))[:count]


def place_texts(world: World, rng: np.random.Generator) -> pl.DataFrame:
    """Returns the columns name, tags, menu, intro and chain of all places."""
    writer = PlaceWriter(world, rng)
    rows = [
        (
            writer.name(place),
            writer.tags(place),
            writer.menu(place),
            writer.intro(place),
            writer.chain_names.get(int(world.places.chain_P[place])),
        )
        for place in range(world.places.count)
    ]
    schema = dict.fromkeys(("name", "tags", "menu", "intro", "chain"), pl.String)
    return pl.DataFrame(rows, schema=schema, orient="row")


def nicknames(world: World, rng: np.random.Generator) -> pl.Series:
    """Returns a nickname for each user; a few hint at where the user grew up."""
    dice, names = Dice(rng), []
    for region in world.users.native_region_U.tolist():
        first = dice.pick(WORDS["nickname_first"])
        second = dice.pick(WORDS["nickname_second"])
        if dice.chance(NICKNAME_OF_REGION):
            first = world.geography.region_names[region].split("-")[0]
        number = str(dice.pick(range(1000))) if dice.chance(0.6) else ""
        separator = " " if dice.chance(0.5) else "_"
        names.append(f"{first}{separator}{second}{number}")
    return pl.Series("nickname", names, dtype=pl.String)


class PlaceWriter:
    """Writes the texts of places; places and dishes are row numbers."""

    def __init__(self, world: World, rng: np.random.Generator) -> None:
        self.world, self.dice = world, Dice(rng)
        land, table = world.geography, world.kitchen.table
        self.city_names: list[str] = land.cities["city"].to_list()
        by_region = land.cities.group_by("region", maintain_order=True).agg("city")
        self.cities_of_region: dict[str, list[str]] = dict(by_region.iter_rows())
        self.dish_names: list[str] = table["dish"].to_list()
        self.dish_origins: list[str] = table["region"].to_list()
        self.other_names = [[name for name in text.split("|") if name] for text in table["also"]]
        self.chain_names: dict[int, str] = {}
        """A distinct name for each chain that has a place."""
        chains, leaders = np.unique(world.places.chain_P, return_index=True)
        for chain, leader in zip(chains.tolist(), leaders.tolist(), strict=True):
            if chain >= 0:
                name = self._sign(WORDS["chain"], leader)
                while name in self.chain_names.values():
                    name = f"{self.dice.pick(WORDS['surnames'])} {name}"
                self.chain_names[chain] = name

    def name(self, place: int) -> str:
        """Returns the name on the sign."""
        chain = int(self.world.places.chain_P[place])
        if chain >= 0:
            area = self.world.geography.area_names[self.world.places.area_P[place]]
            return f"{self.chain_names[chain]} ({area})"
        if self.dice.chance(INFORMATIVE_NAME):
            return self._sign(WORDS["informative"], place)
        says_nothing = self.dice.chance(UNINFORMATIVE_NAME / (1 - INFORMATIVE_NAME))
        return self._sign(WORDS["uninformative" if says_nothing else "misleading"], place)

    def tags(self, place: int) -> str:
        """Returns two to four tags by the owner, some of them empty, a few wrong."""
        dice, kitchen, places = self.dice, self.world.kitchen, self.world.places
        tags = [dice.pick(WORDS["taste_words"][name]) for name in self._strong(place)]
        tags.append(kitchen.categories[places.category_P[place]])
        origins = [self.dish_origins[dish] for dish in self._dishes(place)]
        regional = dict.fromkeys(name for name in origins if name != knowledge.NATIONAL)
        tags += [origin for origin in regional if origins.count(origin) > 2]
        if places.open_PS[place, LATE_NIGHT]:
            tags.append("late night")
        tags = dice.sample(list(dict.fromkeys(tags)), dice.pick((1, 2, 2, 3, 3, 4)))
        if dice.chance(WRONG_TAG):
            tags.append(dice.pick(WORDS["taste_words"][dice.pick(list(WORDS["taste_words"]))]))
        while len(tags) < 2 or (len(tags) < 4 and dice.chance(EMPTY_TAG)):
            tags.append(dice.pick([tag for tag in WORDS["empty_tags"] if tag not in tags]))
        return ", ".join(list(dict.fromkeys(tags))[:4])

    def menu(self, place: int) -> str | None:
        """Returns four to nine dishes, sometimes incomplete or under other names."""
        if self.dice.chance(NO_MENU):
            return None
        dishes = self._dishes(place)
        count = max(4, min(9, len(dishes) - self.dice.pick((0, 0, 1, 1, 2))))
        shown = [dishes[0], *self.dice.sample(dishes[1:], count - 1)]
        return ", ".join(dict.fromkeys(self._dish(dish) for dish in shown))

    def intro(self, place: int) -> str | None:
        """Returns one or two sentences, or None."""
        if self.dice.chance(NO_INTRO):
            return None
        bank = WORDS["empty_intros" if self.dice.chance(EMPTY_INTRO) else "intros"]
        template = self.dice.pick(bank)
        return _capital(template.format(**self._facts(place)))

    def _sign(self, templates: Sequence[str], place: int) -> str:
        facts = self._facts(place)
        facts["taste"] = _title(facts["taste"])
        return _capital(self.dice.pick(templates).format(**facts))

    def _facts(self, place: int) -> dict[str, str]:
        """Returns the values of the placeholders in names and introductions."""
        world, dice = self.world, self.dice
        main, second, *_ = self._dishes(place)
        strong = self._strong(place) or ["oily"]
        flavours = [word for name in strong for word in WORDS["flavours"].get(name, ())]
        taste, taste2 = dice.sample([*flavours, *dice.sample(WORDS["empty_flavours"], 2)], 2)
        meal = dice.pick(WORDS["meals"].get(dice.pick(strong), ("any meal", "lunch and dinner")))
        other = dice.pick(range(len(self.dish_names)))
        city = self.city_names[world.places.city_P[place]]
        return {
            "surname": dice.pick(WORDS["surnames"]),
            "mood": dice.pick(WORDS["moods"]),
            "number": str(dice.pick(range(1, 100))),
            "year": str(dice.pick(range(1988, 2022))),
            "city": city,
            "area": world.geography.area_names[world.places.area_P[place]],
            "dish": _title(self._dish(main)),
            "dish2": self._dish(second),
            "origin": self._origin(main),
            "home": self._origin(main).replace("Chinese", city),
            "kind": self._kind(main),
            "category": world.kitchen.categories[world.places.category_P[place]],
            "taste": taste,
            "Taste": taste.capitalize(),
            "taste2": taste2,
            "meal": meal,
            "Meal": meal.capitalize(),
            "other_dish": _title(self._dish(other)),
            "other_kind": self._kind(other),
            "other_origin": self._origin(other),
            "other_city": dice.pick(self.city_names),
        }

    def _dishes(self, place: int) -> list[int]:
        """Returns the dishes of a place, the main dish first."""
        return [dish for dish in self.world.places.menu_PM[place].tolist() if dish >= 0]

    def _strong(self, place: int) -> list[str]:
        """Returns the attributes of a large share of the menu."""
        shares = zip(ATTRIBUTES, self.world.places.share_PA[place], strict=False)  # then origins
        return [
            name for name, share in shares if share >= TAG_FROM and name in WORDS["taste_words"]
        ]

    def _dish(self, dish: int) -> str:
        others = self.other_names[dish]
        if others and self.dice.chance(OTHER_DISH_NAME):
            return self.dice.pick(others)
        return self.dish_names[dish]

    def _origin(self, dish: int) -> str:
        """Returns the origin of a dish, as a word for a sign."""
        origin = self.dish_origins[dish]
        if origin == knowledge.NATIONAL:
            return "Chinese"
        cities = self.cities_of_region.get(origin)
        return self.dice.pick([origin, *cities]) if cities else origin.title()

    def _kind(self, dish: int) -> str:
        """Returns a word for the kind of place with this main dish."""
        kitchen = self.world.kitchen
        category = kitchen.categories[kitchen.category_D[dish]]
        return self.dice.pick(WORDS["category_words"].get(category, WORDS["suffixes"]))


def _title(text: str) -> str:
    """Returns a text with each word capitalised (str.title breaks "Grandma's")."""
    return " ".join(map(_capital, text.split(" ")))


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
