"""An encyclopedia of dishes, regions, cities and habits, in plain prose rendered from the tables.

It stands in for what a real LLM knows of the world, and holds no place, no user and no event of a
simulated log. A fact is told several times, each time by other templates; `held_out` splits these
renderings and not the facts, so its perplexity says how well the prose is known, not new facts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import product
from typing import Any, TypeVar

import numpy as np

from larr_lab.city import encyclopedia_templates as templates
from larr_lab.city import encyclopedia_words as words
from larr_lab.city import knowledge
from larr_lab.city.encyclopedia_words import Row

Item = TypeVar("Item")

DISH_RENDERINGS = 5
ENTRY_RENDERINGS = 80
QUESTION_RENDERINGS = 3
REGION_RENDERINGS = 20
CITY_RENDERINGS = 6
GROUP_RENDERINGS = 12
HABIT_RENDERINGS = 24
COMPARISONS_A_DISH = 3

_CHOICE = re.compile(r"\[([^\[\]]*)\]")
_LIKINGS = tuple(words.THINGS)


def articles(seed: int) -> Iterator[str]:
    """All articles in a random order; the same texts for the same seed."""
    book = _Book(seed)
    for write in book.shuffled(book.plan()):
        yield write()


def held_out(article_index: int) -> bool:
    """Whether the article with this index in `articles` is kept for perplexity: 2 % of them.

    The order of the articles is random, so this is a random split of renderings: the facts of a
    held-out article are also told, in other words, by articles that are trained on.
    """
    return article_index % 50 == 49


def likings(dish: Row, region: Row) -> dict[str, float]:
    """How far each attribute of the dish meets (above 0) or offends the likings of the region."""
    return {key: region[key] * _amount(dish, key) for key in _LIKINGS}


def _amount(dish: Row, key: str) -> float:
    if key in words.LEVELS:
        return float(dish[key]) / 3
    if key == "tea_drinks":
        return float(dish["drink"])
    if key in ("soup", "grilled"):
        return float(dish[key])
    return float(key in (dish["staple"], dish["protein"]))


def _cost(price_yuan: int) -> str:
    for limit, text in ((9, "very cheap"), (18, "cheap"), (35, "moderate"), (60, "not cheap")):
        if price_yuan <= limit:
            return text
    return "expensive"


def _weather(celsius: float) -> str:
    for limit, text in (
        (-8, "bitterly cold"),
        (2, "freezing|cold and wintry"),
        (10, "cold|chilly"),
        (17, "cool"),
        (23, "mild|pleasantly warm"),
        (27, "warm to hot"),
    ):
        if celsius <= limit:
            return text
    return "hot|very hot"


def _listed(names: Sequence[str], last: str = "and") -> str:
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])} {last} {names[-1]}"


class _Writer:
    """Makes random choices in templates."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def pick(self, items: Sequence[Item]) -> Item:
        """One of the items."""
        return items[int(self.rng.integers(len(items)))]

    def chance(self, share: float) -> bool:
        """True in this share of the calls."""
        return bool(self.rng.random() < share)

    def shuffled(self, items: Sequence[Item], count: int | None = None) -> list[Item]:
        """So many of the items (or all) in a random order."""
        return [items[int(at)] for at in self.rng.permutation(len(items))[:count]]

    def say(self, template: str, **facts: Any) -> str:
        """The template with one of each `[a|b]` chosen and the facts filled in."""
        while "[" in template:
            template = _CHOICE.sub(lambda match: self.pick(match[1].split("|")), template)
        text = template.format(**facts)
        return text[:1].upper() + text[1:]

    def word(self, bank: str) -> str:
        """One of the words of a bank `a|b`."""
        return self.pick(bank.split("|"))


class _Book(_Writer):
    """Writes articles about the tables."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.dishes = knowledge.dishes().to_dicts()
        self.regions = {row["region"]: row for row in knowledge.regions().to_dicts()}
        self.cities = knowledge.cities().to_dicts()
        self.local = {
            region: [dish for dish in self.dishes if dish["region"] == region]
            for region in self.regions
        }
        self.towns = {
            region: [city["city"] for city in self.cities if city["region"] == region]
            for region in self.regions
        }
        self.groups = {
            heading: [dish for dish in self.dishes if test(dish)]
            for heading, test in words.GROUPS.items()
        }
        self.habits = [
            (when, what, [dish for dish in self.dishes if test(dish)])
            for when, what, test in words.HABITS
        ]

    def plan(self) -> list[Callable[[], str]]:
        """Every article, yet to be written."""
        regions = list(self.regions.values())
        return [
            *(partial(self.dish, row) for row in self.dishes * DISH_RENDERINGS),
            *(partial(self.questions, row) for row in self.dishes * QUESTION_RENDERINGS),
            *(partial(self.comparison, row) for row in self.dishes * COMPARISONS_A_DISH),
            *(partial(self.region, row) for row in regions * REGION_RENDERINGS),
            *(partial(self.city, row) for row in self.cities * CITY_RENDERINGS),
            *(partial(self.month, *pair) for pair in product(self.cities, range(12))),
            *(partial(self.away, *pair) for pair in product(regions, self.cities)),
            *(partial(self.group, heading) for heading in list(self.groups) * GROUP_RENDERINGS),
            *(partial(self.local_group, *pair) for pair in product(self.groups, regions)),
            *(partial(self.habit, *habit) for habit in self.habits * HABIT_RENDERINGS),
            *(partial(self.entry, row) for row in self.dishes * ENTRY_RENDERINGS),
        ]

    def names(self, dishes: Sequence[Row], count: int, last: str = "and") -> str:
        """Some of the dishes as a list in words."""
        return _listed([dish["dish"] for dish in self.shuffled(dishes, count)], last)

    def taste(self, dish: Row) -> str:
        """The tastes of a dish in words."""
        found = [self.word(bank[dish[key]]) for key, bank in words.LEVELS.items() if dish[key]]
        return _listed(self.shuffled(found)) or self.word("mild|plain and mild|delicate")

    def dish(self, dish: Row) -> str:
        """What a dish is, how it tastes, when, where and by whom it is eaten."""
        facts = self.facts(dish)
        local = dish["region"] in self.regions
        openings = templates.OPENINGS_LOCAL if local else templates.OPENINGS_ELSEWHERE
        body = [
            self.say(self.pick(bank), **self.name_again(facts))
            for bank in self.shuffled(self.banks(dish))
            if self.chance(0.8)
        ]
        judges = self.shuffled(list(self.regions.values()), 2)
        opinions = [self.opinion(dish, facts, region) for region in judges]
        return " ".join([self.say(self.pick(openings), **facts), *body, *filter(None, opinions)])

    def facts(self, dish: Row) -> Row:
        """What the templates about a dish may ask for."""
        region = dish["region"]
        return {
            "name": dish["dish"] if self.chance(0.7) else dish["dish"].lower(),
            "region": region,
            "note": dish["note"],
            "kind": self.word(words.KINDS[dish["category"]]),
            "origin": self.word(words.ORIGINS.get(region, "")),
            "city": self.pick(self.towns.get(region) or [city["city"] for city in self.cities]),
            "also": _listed(dish["also"].split("|"), "or"),
            "taste": self.taste(dish),
            "protein": "duck or goose" if dish["protein"] == "duck" else dish["protein"],
            "price": dish["price_yuan"],
            "cost": _cost(dish["price_yuan"]),
            "other": self.companion(dish),
        }

    def name_again(self, facts: Row) -> Row:
        """The facts where the dish may be called by one of its other names."""
        if not facts["also"] or self.chance(0.8):
            return facts
        return facts | {"name": self.pick(re.split(", | or ", facts["also"]))}

    def banks(self, dish: Row) -> list[tuple[str, ...]]:
        """The banks of sentences that are true of a dish."""
        chosen = [bank for flag, bank in templates.MEALS.items() if dish.get(flag) == 1]
        filling = dish["staple"] != "none" and words.is_meal(dish)
        chosen += [templates.MEALS[dish["staple"]]] if filling else []
        chosen += [templates.PROTEINS] if dish["protein"] != "none" else []
        chosen += [templates.ALSO] if dish["also"] else []
        chosen += [templates.NO_CHILI] if not dish["spicy"] and words.is_meal(dish) else []
        chosen += [templates.TRAVELLERS] if dish["region"] in self.regions else []
        if words.is_cold(dish):
            chosen.append(templates.COLD_DISH)
        elif dish["temperature"] == "hot":
            chosen.append(templates.WARMING_DISH if words.is_warming(dish) else templates.HOT_DISH)
        return [*chosen, templates.TASTES, templates.PRICES, templates.COMPANIONS]

    def companion(self, dish: Row) -> str:
        """Something that is eaten or drunk with the dish."""
        for test, companions in words.COMPANIONS_OF:
            if test(dish):
                return self.word(companions)
        raise LookupError(f"no companion for {dish['dish']}: end COMPANIONS_OF with a test for all")

    def opinion(self, dish: Row, facts: Row, region: Row) -> str:
        """What people of a region think of the dish, or nothing where it leaves them cold."""
        known = likings(dish, region)
        key = max(known, key=lambda name: abs(known[name]))
        if abs(known[key]) < 0.9:
            return ""
        bank = templates.LIKED if known[key] > 0 else templates.DISLIKED
        thing = self.word(words.THINGS[key])
        return self.say(self.pick(bank), **facts | {"region": region["region"], "thing": thing})

    def entry(self, dish: Row) -> str:
        """A line of a dictionary: a dish under one of its names, and most of what it is."""
        facts = self.facts(dish)
        names = [facts["name"], *(name for name in dish["also"].split("|") if name)]
        name = names[0] if self.chance(0.55) else self.pick(names)
        told = [self.word(bank[dish[key]]) for key, bank in words.LEVELS.items() if dish[key]]
        told += [self.word(words.TRAITS[key]) for key in words.TRAITS if _has(dish, key)]
        local = dish["region"] in self.regions
        told += [facts["kind"], f"from {dish['region']}" if local else facts["origin"]]
        told += [facts["cost"]]
        kept = [one for one in self.shuffled(told) if self.chance(0.85)] or told[:1]
        return f"{name}: {', '.join(kept)}."

    def questions(self, dish: Row) -> str:
        """Questions and answers about a dish."""
        facts = self.facts(dish)
        asked = [
            self.pick(templates.QUESTIONS_OF_ORIGIN[dish["region"] in self.regions]),
            (self.pick(templates.QUESTIONS_OF_TASTE), "The taste is {taste}."),
            self.question_of_weather(dish),
            (
                self.pick(templates.QUESTIONS_OF_PRICE),
                "[About|Around] {price} yuan, [so|which is] {cost}.",
            ),
            self.question_of_time(dish),
            self.question_of_chili(dish),
        ]
        return " ".join(
            self.say(text, **facts) for pair in self.shuffled(asked, 4) for text in pair
        )

    def question_of_weather(self, dish: Row) -> tuple[str, str]:
        """Whether the dish is good in heat or in cold."""
        hot_day = self.chance(0.5)
        question = self.pick(templates.QUESTIONS_OF_WEATHER[hot_day])
        if words.is_cold(dish):
            return question, self.pick(templates.ANSWERS_COLD[hot_day])
        if words.is_warming(dish):
            return question, self.pick(templates.ANSWERS_WARMING[hot_day])
        return question, "[It can be eaten in any weather|It is eaten all year]."

    def question_of_time(self, dish: Row) -> tuple[str, str]:
        """When the dish is eaten."""
        times = [self.word(words.TIMES[flag]) for flag in words.TIMES if dish.get(flag) == 1]
        answer = _listed(times or [self.word("at lunch or dinner|at noon or in the evening")], "or")
        return "[When|At what time of day] do people [have|order] {name}?", f"Mostly {answer}."

    def question_of_chili(self, dish: Row) -> tuple[str, str]:
        """Whether the dish is spicy."""
        question = "Is {name} [spicy|hot with chili]?"
        return question, self.pick(templates.ANSWERS_CHILI[dish["spicy"]])

    def comparison(self, dish: Row) -> str:
        """The dish beside another one, alike or not."""
        others = self.shuffled(self.dishes, 8)
        other = max(others, key=partial(_shared, dish)) if self.chance(0.6) else others[0]
        first, second = self.facts(dish), self.facts(other)
        facts = {"a": first["name"], "b": second["name"], "kind_a": first["kind"]}
        facts |= {"kind_b": second["kind"], "taste_a": first["taste"], "taste_b": second["taste"]}
        facts |= {"note_a": dish["note"], "note_b": other["note"]}
        both = sorted(_traits(dish) & _traits(other))
        alike = _listed([self.word(words.TRAITS[name]) for name in both])
        told = templates.ALIKE if alike else templates.UNLIKE
        parts = [self.pick(templates.COMPARED), self.pick(told), *_advice(dish, other)]
        return " ".join(self.say(part, **facts, alike=alike) for part in parts)

    def region(self, region: Row) -> str:
        """The kitchen, the climate and the people of a region."""
        own, name = self.local[region["region"]], region["region"]
        cold = [dish for dish in own if words.is_cold(dish)]
        warm = [dish for dish in own if words.is_warming(dish)]
        facts = {**region, "foods": self.names(own, 7), "towns": _listed(self.towns[name])}
        facts |= {"cold": self.names(cold, 3), "warm": self.names(warm, 3)}
        parts = [self.pick(bank) for bank in self.shuffled(templates.REGION_BANKS)]
        parts += [templates.REGION_COLD] if cold else []
        parts += [templates.REGION_WARM] if warm else []
        return " ".join([*(self.say(part, **facts) for part in parts), self.tastes_of(region)])

    def tastes_of(self, region: Row) -> str:
        """What the people of a region like and what they avoid."""
        liked = [self.word(bank) for key, bank in words.THINGS.items() if region[key] >= 1]
        avoided = [self.word(bank) for key, bank in words.THINGS.items() if region[key] <= -1]
        facts = {"region": region["region"], "liked": _listed(self.shuffled(liked, 4))}
        facts["avoided"] = _listed(self.shuffled(avoided, 3), "or")
        return self.say(self.pick(templates.REGION_TASTES), **facts)

    def city(self, city: Row) -> str:
        """Where a city lies, how its year goes and what is eaten there."""
        own = self.local[city["region"]]
        facts = {**city, "foods": self.names(own, 6), **self.regions[city["region"]]}
        facts |= {"guests": self.word(words.GUESTS[city["tourism"] >= 0.7])}
        months = [self.month_in_words(city, at) for at in sorted(self.shuffled(range(12), 4))]
        parts = [self.say(self.pick(bank), **facts) for bank in templates.CITY_BANKS]
        return " ".join([*parts, *months, self.tastes_of(self.regions[city["region"]])])

    def month_in_words(self, city: Row, month: int) -> str:
        """The weather of a month in a city."""
        celsius, days = city[f"temp_{month + 1}"], city[f"rain_{month + 1}"]
        facts = {"city": city["city"], "month": words.MONTHS[month], "celsius": round(celsius)}
        facts |= {"weather": self.word(_weather(celsius)), "days": round(days)}
        facts["wet"] = "rain" if celsius > 1 else "snow"
        return self.say(self.pick(templates.MONTH), **facts)

    def month(self, city: Row, month: int) -> str:
        """A month in a city, and what its weather makes people eat."""
        celsius = city[f"temp_{month + 1}"]
        season = "hot" if celsius >= 25 else "cold" if celsius <= 10 else "mild"
        test: words.Test = {"hot": words.is_cold, "cold": words.is_warming}.get(
            season, words.is_meal
        )
        fitting = [dish for dish in self.dishes if test(dish)]
        local = [dish for dish in fitting if dish["region"] == city["region"]]
        common = [dish for dish in fitting if dish["region"] == knowledge.NATIONAL]
        foods = self.names([*local, *self.shuffled(common, 4)], 5)
        advice = self.say(self.pick(templates.SEASONS[season]), city=city["city"], foods=foods)
        return f"{self.month_in_words(city, month)} {advice}"

    def away(self, home: Row, city: Row) -> str:
        """Someone from one region in a city of, mostly, another one."""
        own, local = self.local[home["region"]], self.local[city["region"]]
        facts = {"home": home["region"], "city": city["city"], "region": city["region"]}
        facts |= {"own": self.names(own, 3, "or"), "foods": self.names(local, 4, "or")}
        bank = templates.AT_HOME if home["region"] == city["region"] else templates.AWAY
        return f"{self.say(self.pick(bank), **facts)} {self.tastes_of(home)}"

    def group(self, heading: str) -> str:
        """A list of dishes that share a trait, from everywhere."""
        foods = self.names(self.groups[heading], 6 + int(self.rng.integers(8)))
        return self.say(self.pick(templates.LISTS), heading=self.word_of(heading), foods=foods)

    def local_group(self, heading: str, region: Row) -> str:
        """A list of dishes of a region that share a trait."""
        own = [dish for dish in self.groups[heading] if dish["region"] == region["region"]]
        facts = {"heading": self.word_of(heading), "region": region["region"]}
        if not own:
            other = self.names(self.local[region["region"]], 4)
            return self.say(self.pick(templates.NO_LOCAL_LISTS), foods=other, **facts)
        return self.say(self.pick(templates.LOCAL_LISTS), foods=self.names(own, 8), **facts)

    def word_of(self, heading: str) -> str:
        """One wording of a heading."""
        text = self.say(f"[{heading}]" if "[" not in heading else heading)
        return text[:1].lower() + text[1:] if not text.startswith(words.PROPER) else text

    def habit(self, when: str, what: str, dishes: Sequence[Row]) -> str:
        """What people want in a situation."""
        facts = {"when": self.say(when), "what": what, "foods": self.names(dishes, 6, "or")}
        facts["later"] = facts["when"][:1].lower() + facts["when"][1:]
        return " ".join(self.say(self.pick(bank), **facts) for bank in templates.HABIT_BANKS)


def _has(dish: Row, trait: str) -> bool:
    """Whether a dish has a trait that has no degrees."""
    named = (dish["temperature"], dish["staple"], dish["protein"])
    return trait not in words.LEVELS and (dish.get(trait) == 1 or trait in named)


def _traits(dish: Row) -> set[str]:
    levels = {key for key in words.LEVELS if dish[key] >= 2}
    flags = {key for key in words.TRAITS if dish.get(key) == 1}
    named = {dish["temperature"], dish["staple"], dish["protein"]} & set(words.TRAITS)
    return levels | flags | named


def _shared(dish: Row, other: Row) -> int:
    return len(_traits(dish) & _traits(other)) if dish is not other else -1


def _advice(dish: Row, other: Row) -> list[str]:
    """Which of two dishes is the better one in some situation."""
    return [
        text.replace("{x}", "{a}" if test(dish) else "{b}").replace(
            "{y}", "{b}" if test(dish) else "{a}"
        )
        for test, text in words.ADVICE
        if test(dish) != test(other)
    ]
