"""The articles: randomly chosen sentences, filled with facts from the tables."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from itertools import product
from typing import Any, TypeVar

import numpy as np
import polars as pl

from larr_lab import knowledge

Item = TypeVar("Item")
Row = dict[str, Any]
"""A row of a table, or the facts for the placeholders of a sentence."""

WORDS = knowledge.toml(__package__, "words.toml")
SENTENCES = knowledge.toml(__package__, "sentences.toml")

# Several articles repeat a fact in different words, because a language model of two layers learns
# facts only from repetition. Dictionary entries are short, so they are repeated most.
DISH_RENDERINGS = 5
ENTRY_RENDERINGS = 80
QUESTION_RENDERINGS = 3
COMPARISONS_OF_A_DISH = 3
REGION_RENDERINGS = 20
CITY_RENDERINGS = 6
LIST_RENDERINGS = 12
HABIT_RENDERINGS = 24

_CHOICE = re.compile(r"\[([^\[\]]*)\]")


def articles(seed: int) -> Iterator[str]:
    """Yields all articles in random order; the same seed gives the same texts."""
    book = Book(seed)
    for write in book.shuffled(book.contents()):
        yield write()


def held_out(index: int) -> bool:
    """Returns whether the article with this index is a test article: every fiftieth, 2 %.

    The order is random, so the split separates wordings, not facts: training articles contain the
    facts of test articles in other words. The perplexity on test articles measures how well the
    prose is modelled, not whether new facts can be guessed.
    """
    return index % 50 == 49


@cache
def dishes() -> pl.DataFrame:
    """Returns dishes.csv with additional columns for the conditions in the TOML files."""
    soup_or_pot = (pl.col("soup") == 1) | pl.col("category").is_in(["hotpot", "soups and stews"])
    hot = pl.col("temperature") == "hot"
    is_meal = (pl.col("drink") == 0) & (pl.col("dessert") == 0)
    mild = (pl.col("spicy") == 0) & (pl.col("oily") <= 1) & (pl.col("fried") == 0)
    return knowledge.dishes().with_columns(
        is_cold=pl.col("temperature") == "cold",
        is_warming=hot & (soup_or_pot | (pl.col("protein") == "lamb")),
        is_meal=is_meal,
        for_the_sick=mild & (pl.col("light") == 1) & hot & is_meal,
        of_china=pl.col("region").is_in(knowledge.regions()["region"].implode()),
    )


@cache
def matching(condition: str) -> frozenset[str]:
    """Returns the names of the dishes that meet an SQL condition."""
    return frozenset(dishes().filter(pl.sql_expr(condition))["dish"])


def likings(dish: Row, region: Row) -> dict[str, float]:
    """Returns how much a region likes (> 0) or dislikes (< 0) each trait of a dish."""
    amounts = {level: dish[level] / 3 for level in WORDS["levels"]}
    amounts |= {"soup": dish["soup"], "grilled": dish["grilled"], "tea_drinks": dish["drink"]}
    amounts |= {dish["staple"]: 1, dish["protein"]: 1}
    return {trait: region[trait] * amounts.get(trait, 0) for trait in WORDS["likings"]}


class Book:
    """Writes articles; all methods that return text share one random stream."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.dishes = dishes().to_dicts()
        self.traits: dict[str, set[str]] = {}
        """Dish -> the keys of `[traits]` that apply to it."""
        for dish in self.dishes:
            named = (dish["temperature"], dish["staple"], dish["protein"])
            traits = {key for key in WORDS["traits"] if dish.get(key, 0) >= 1 or key in named}
            self.traits[dish["dish"]] = traits
        self.cities = knowledge.cities().to_dicts()
        self.regions = {row["region"]: row for row in knowledge.regions().to_dicts()}
        self.local_dishes = {name: self._from_region(self.dishes, name) for name in self.regions}
        self.local_cities = {name: self._from_region(self.cities, name) for name in self.regions}
        headings = WORDS["headings"].items()
        self.headings = {heading: self.dishes_where(condition) for heading, condition in headings}

    def contents(self) -> list[Callable[[], str]]:
        """Returns a function for each article that writes it."""
        regions = list(self.regions.values())
        habits = WORDS["habits"] * HABIT_RENDERINGS
        return [
            *(partial(self.dish, row) for row in self.dishes * DISH_RENDERINGS),
            *(partial(self.questions, row) for row in self.dishes * QUESTION_RENDERINGS),
            *(partial(self.comparison, row) for row in self.dishes * COMPARISONS_OF_A_DISH),
            *(partial(self.region, row) for row in regions * REGION_RENDERINGS),
            *(partial(self.city, row) for row in self.cities * CITY_RENDERINGS),
            *(partial(self.month_and_food, *pair) for pair in product(self.cities, range(12))),
            *(partial(self.guest, *pair) for pair in product(regions, self.cities)),
            *(partial(self.listing, heading) for heading in list(self.headings) * LIST_RENDERINGS),
            *(partial(self.local_listing, *pair) for pair in product(self.headings, regions)),
            *(partial(self.habit, habit) for habit in habits),
            *(partial(self.entry, row) for row in self.dishes * ENTRY_RENDERINGS),
        ]

    # ---- articles about dishes -------------------------------------------------------------------

    def dish(self, dish: Row) -> str:
        """Describes a dish: kind, taste, occasions, places and people."""
        facts, sentences = self.facts(dish), SENTENCES["dish"]
        body = []
        fitting = [bank for bank in sentences["body"] if dish["dish"] in matching(bank["dishes"])]
        for bank in self.shuffled(fitting):
            if self.chance(0.8):
                sentence, name = self.pick(bank["sentences"]), facts["name"]
                if facts["also"] and not self.chance(0.8):
                    name = self.pick(re.split(", | or ", facts["also"]))
                body.append(self.render(sentence, **facts | {"name": name}))
        judges = self.shuffled(list(self.regions.values()), 2)
        opinions = [self.opinion(dish, facts, region) for region in judges]
        opening = self.pick(sentences["local" if dish["of_china"] else "elsewhere"])
        return " ".join([self.render(opening, **facts), *body, *filter(None, opinions)])

    def entry(self, dish: Row) -> str:
        """Returns a dictionary entry: one of the dish's names and most of its traits."""
        facts = self.facts(dish)
        names = [facts["name"], *(name for name in dish["also"].split("|") if name)]
        name = names[0] if self.chance(0.55) else self.pick(names)
        traits = self.tastes(dish)
        traits += [
            self.word(bank)
            for key, bank in WORDS["traits"].items()
            if key in self.traits[dish["dish"]] and key not in WORDS["levels"]
        ]
        origin = f"from {dish['region']}" if dish["of_china"] else facts["origin"]
        traits += [facts["kind"], origin, facts["cost"]]
        chosen = [trait for trait in self.shuffled(traits) if self.chance(0.85)] or traits[:1]
        return f"{name}: {', '.join(chosen)}."

    def questions(self, dish: Row) -> str:
        """Returns four questions about a dish with answers."""
        facts, questions = self.facts(dish), SENTENCES["questions"]
        origin = self.pick(questions["local" if dish["of_china"] else "elsewhere"])
        taste = self.pick(questions["taste"])
        weather = questions["hot_day" if self.chance(0.5) else "cold_day"]
        suits = "cold" if dish["is_cold"] else "warming" if dish["is_warming"] else "neither"
        about_weather = (self.pick(weather["ask"]), self.pick(weather[suits]))
        times = [self.word(bank) for flag, bank in WORDS["times"].items() if dish[flag] == 1]
        facts["time"] = _listed(times or [self.word(WORDS["any_time"])], "or")
        chili = (questions["chili"], self.pick(questions["chili_answers"][dish["spicy"]]))
        pairs = [origin, taste, about_weather, questions["price"], questions["time"], chili]
        return " ".join(
            self.render(sentence, **facts) for pair in self.shuffled(pairs, 4) for sentence in pair
        )

    def comparison(self, dish: Row) -> str:
        """Compares a dish with another, in three of five cases with a similar one."""
        others = self.shuffled(self.dishes, 8)
        other, mine = others[0], self.traits[dish["dish"]]
        if self.chance(0.6):
            # The other dish with the most shared traits.
            other = max(others, key=lambda o: (o is not dish, len(mine & self.traits[o["dish"]])))
        a, b = self.facts(dish), self.facts(other)
        facts = {"a": a["name"], "b": b["name"]}
        for key in ("kind", "taste", "note"):
            facts |= {f"{key}_a": a[key], f"{key}_b": b[key]}
        traits = sorted(mine & self.traits[other["dish"]])
        facts["alike"] = _listed([self.word(WORDS["traits"][name]) for name in traits])
        sentences = SENTENCES["comparison"]
        parts = [self.pick(sentences[key]) for key in ("both", "alike" if traits else "unlike")]
        for advice in sentences["advice"]:
            fits, other_fits = (row["dish"] in matching(advice["dishes"]) for row in (dish, other))
            if fits != other_fits:
                x, y = ("{a}", "{b}") if fits else ("{b}", "{a}")
                parts.append(advice["sentence"].replace("{x}", x).replace("{y}", y))
        return " ".join(self.render(part, **facts) for part in parts)

    def facts(self, dish: Row) -> Row:
        """Returns the values of the placeholders in sentences about a dish."""
        region = dish["region"]
        cities = self.local_cities.get(region) or self.cities
        companions = (
            entry["words"]
            for entry in WORDS["companions"]
            if dish["dish"] in matching(entry["dishes"])
        )
        return {
            "name": dish["dish"] if self.chance(0.7) else dish["dish"].lower(),
            "region": region,
            "note": dish["note"],
            "kind": self.word(WORDS["kinds"][dish["category"]]),
            "origin": self.word(WORDS["origins"].get(region, "")),
            "city": self.pick(cities)["city"],
            "also": _listed(dish["also"].split("|"), "or"),
            "taste": _listed(self.shuffled(self.tastes(dish))) or self.word(WORDS["mild"]),
            "protein": "duck or goose" if dish["protein"] == "duck" else dish["protein"],
            "price": dish["price_yuan"],
            "cost": _word_up_to(WORDS["costs"], dish["price_yuan"]),
            "other": self.word(next(companions)),
        }

    def tastes(self, dish: Row) -> list[str]:
        """Returns a word for each taste of a dish."""
        return [self.word(bank[dish[key]]) for key, bank in WORDS["levels"].items() if dish[key]]

    def opinion(self, dish: Row, facts: Row, region: Row) -> str:
        """Returns the opinion of a region about a dish; empty if it has no strong one."""
        likes = likings(dish, region)
        trait = max(likes, key=lambda name: abs(likes[name]))
        if abs(likes[trait]) < 0.9:
            return ""
        bank = SENTENCES["dish"]["liked" if likes[trait] > 0 else "disliked"]
        thing = self.word(WORDS["likings"][trait])
        return self.render(self.pick(bank), **facts | {"region": region["region"], "thing": thing})

    # ---- articles about regions and cities -------------------------------------------------------

    def region(self, region: Row) -> str:
        """Describes the cuisine, climate and people of a region."""
        name, sentences = region["region"], SENTENCES["region"]
        local = self.local_dishes[name]
        towns = _listed([city["city"] for city in self.local_cities[name]])
        facts = {**region, "foods": self.some(local, 7), "towns": towns}
        for season, flag in (("cold", "is_cold"), ("warm", "is_warming")):
            facts[season] = self.some([dish for dish in local if dish[flag]], 3)
        parts = [self.pick(bank) for bank in self.shuffled(sentences["body"])]
        parts += [sentences[season] for season in ("cold", "warm") if facts[season]]
        return " ".join([*(self.render(part, **facts) for part in parts), self.likes_of(region)])

    def likes_of(self, region: Row) -> str:
        """Describes the likes and dislikes of a region."""
        banks = WORDS["likings"].items()
        liked = [self.word(bank) for key, bank in banks if region[key] >= 1]
        avoided = [self.word(bank) for key, bank in banks if region[key] <= -1]
        facts = {"region": region["region"], "liked": _listed(self.shuffled(liked, 4))}
        facts["avoided"] = _listed(self.shuffled(avoided, 3), "or")
        return self.render(self.pick(SENTENCES["region"]["tastes"]), **facts)

    def city(self, city: Row) -> str:
        """Describes the location, climate and food of a city."""
        region = self.regions[city["region"]]
        facts = {**city, "foods": self.some(self.local_dishes[city["region"]], 6), **region}
        facts["guests"] = self.word(_word_up_to(WORDS["guests"], city["tourism"]))
        months = [self.month(city, month) for month in sorted(self.shuffled(range(12), 4))]
        parts = [self.render(self.pick(bank), **facts) for bank in SENTENCES["city"]["body"]]
        return " ".join([*parts, *months, self.likes_of(region)])

    def month(self, city: Row, month: int) -> str:
        """Describes the weather of a month (0 to 11) in a city."""
        celsius, days = city[f"temp_{month + 1}"], city[f"rain_{month + 1}"]
        facts = {"city": city["city"], "month": WORDS["months"][month], "celsius": round(celsius)}
        facts |= {"weather": self.word(_word_up_to(WORDS["weather"], celsius)), "days": round(days)}
        facts["wet"] = "rain" if celsius > 1 else "snow"
        return self.render(self.pick(SENTENCES["city"]["month"]), **facts)

    def month_and_food(self, city: Row, month: int) -> str:
        """Describes the weather of a month in a city, and the food that suits it."""
        celsius = city[f"temp_{month + 1}"]
        season = "hot" if celsius >= 25 else "cold" if celsius <= 10 else "mild"
        wanted = {"hot": "is_cold", "cold": "is_warming", "mild": "is_meal"}[season]
        fitting = self.dishes_where(wanted)
        local = self._from_region(fitting, city["region"])
        national = self.shuffled(self._from_region(fitting, knowledge.NATIONAL), 4)
        foods = self.some([*local, *national], 5)
        advice = self.render(self.pick(SENTENCES["city"][season]), city=city["city"], foods=foods)
        return f"{self.month(city, month)} {advice}"

    def guest(self, home: Row, city: Row) -> str:
        """Describes what people from a region eat in a city."""
        own, local = self.local_dishes[home["region"]], self.local_dishes[city["region"]]
        facts = {"home": home["region"], "city": city["city"], "region": city["region"]}
        facts |= {"own": self.some(own, 3, "or"), "foods": self.some(local, 4, "or")}
        bank = "at_home" if home["region"] == city["region"] else "guest_from_elsewhere"
        return f"{self.render(self.pick(SENTENCES['city'][bank]), **facts)} {self.likes_of(home)}"

    # ---- lists and habits ------------------------------------------------------------------------

    def listing(self, heading: str) -> str:
        """Lists dishes from everywhere under a heading."""
        foods = self.some(self.headings[heading], 6 + int(self.rng.integers(8)))
        sentence = self.pick(SENTENCES["list"]["everywhere"])
        return self.render(sentence, heading=self.fill(heading), foods=foods)

    def local_listing(self, heading: str, region: Row) -> str:
        """Lists dishes of a region under a heading, or states that there are none."""
        facts = {"heading": self.fill(heading), "region": region["region"]}
        dishes = self._from_region(self.headings[heading], region["region"])
        if not dishes:
            other = self.some(self.local_dishes[region["region"]], 4)
            return self.render(self.pick(SENTENCES["list"]["none_local"]), foods=other, **facts)
        sentence = self.pick(SENTENCES["list"]["local"])
        return self.render(sentence, foods=self.some(dishes, 8), **facts)

    def habit(self, habit: Row) -> str:
        """Describes the food that people want in a situation."""
        facts = {"when": self.fill(habit["when"]), "what": habit["what"]}
        facts["foods"] = self.some(self.dishes_where(habit["dishes"]), 6, "or")
        return " ".join(
            self.render(self.pick(bank), **facts) for bank in SENTENCES["habit"]["body"]
        )

    # ---- random choices --------------------------------------------------------------------------

    def render(self, template: str, **facts: Any) -> str:
        """Returns a filled template, starting with a capital letter."""
        text = self.fill(template, **facts)
        return text[:1].upper() + text[1:]

    def fill(self, template: str, **facts: Any) -> str:
        """Returns a template with a random option of each `[a|b]` and the facts filled in."""
        while "[" in template:  # choices may be nested; resolve the innermost first
            template = _CHOICE.sub(lambda match: self.word(match[1]), template)
        return template.format(**facts)

    def word(self, bank: str) -> str:
        """Returns one of the words `a|b`."""
        return self.pick(bank.split("|"))

    def some(self, dishes: Sequence[Row], count: int, last: str = "and") -> str:
        """Returns the names of up to `count` random dishes, as an enumeration."""
        return _listed([dish["dish"] for dish in self.shuffled(dishes, count)], last)

    def pick(self, items: Sequence[Item]) -> Item:
        """Returns one of the items."""
        return items[int(self.rng.integers(len(items)))]

    def chance(self, share: float) -> bool:
        """Returns True with this probability."""
        return bool(self.rng.random() < share)

    def shuffled(self, items: Sequence[Item], count: int | None = None) -> list[Item]:
        """Returns up to `count` of the items (by default all) in random order."""
        return [items[int(index)] for index in self.rng.permutation(len(items))[:count]]

    # ---- selections ------------------------------------------------------------------------------

    def dishes_where(self, condition: str) -> list[Row]:
        """Returns the dishes that meet an SQL condition."""
        return [dish for dish in self.dishes if dish["dish"] in matching(condition)]

    @staticmethod
    def _from_region(rows: Sequence[Row], region: str) -> list[Row]:
        return [row for row in rows if row["region"] == region]


def _word_up_to(limits: Sequence[tuple[float, str]], value: float) -> str:
    """Returns the word of the first limit not below the value."""
    return next(word for limit, word in limits if value <= limit)


def _listed(names: Sequence[str], last: str = "and") -> str:
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])} {last} {names[-1]}"
