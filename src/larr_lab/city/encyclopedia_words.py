"""The words of the encyclopedia, and which dishes fit which heading, moment and company."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Row = dict[str, Any]
LEVELS = {
    "spicy": ("", "slightly spicy|mildly hot", "spicy|hot with chili", "very spicy|fiery|numbing"),
    "sweet": ("", "slightly sweet|faintly sweet", "sweet", "very sweet|sugary"),
    "sour": ("", "slightly sour|a little tangy", "sour|tangy", "very sour|sharply sour"),
    "oily": ("", "lightly oiled", "oily|rich", "very oily|heavy|greasy"),
}
"""Taste -> the words for its degrees 0 to 3."""
THINGS = {
    "spicy": "spicy food|chili|hot and numbing flavours",
    "sweet": "sweet flavours|sweetness",
    "sour": "sour flavours|vinegar and pickles",
    "oily": "rich and oily food|heavy dishes",
    "soup": "soup|hot broth",
    "noodles": "noodles|a bowl of noodles",
    "rice": "rice|a plate with rice",
    "buns": "steamed buns and flat breads|wheat bread",
    "seafood": "seafood|fish and shrimp",
    "lamb": "lamb|mutton",
    "beef": "beef",
    "pork": "pork",
    "grilled": "grilled food|barbecue",
    "tea_drinks": "tea and cool drinks|a cup of tea",
}
"""Column of regions.csv -> how the liking is named."""
KINDS = {
    "rice meals": "rice dish|rice meal",
    "noodles": "noodle dish|bowl of noodles",
    "dumplings and buns": "dumpling, bun or flat bread|wheat snack",
    "congee and breakfast": "breakfast food|breakfast snack",
    "hotpot": "hotpot|pot for sharing",
    "barbecue": "barbecue dish|grilled dish",
    "sichuan and hunan": "dish of the chili kitchens|home dish with chili",
    "cantonese": "Cantonese dish|dish of the Cantonese kitchen",
    "northern dishes": "northern dish|dish of northern China",
    "seafood and crayfish": "seafood dish|dish of fish or shellfish",
    "snacks": "snack|street snack",
    "burgers and pizza": "fast food dish|Western meal",
    "japanese and korean": "Japanese or Korean dish|dish of Japanese and Korean kitchens",
    "salads and light meals": "light meal|healthy plate",
    "milk tea and drinks": "drink|beverage",
    "desserts and bakery": "dessert|sweet treat",
    "soups and stews": "soup or stew|warming pot",
    "home-style dishes": "home-style dish|dish of everyday life",
}
"""Category -> nouns."""
ORIGINS = {
    "national": "common all over China|found everywhere in China|known in every part of China",
    "western": "of Western origin|brought to China from the West",
    "japanese": "from Japan|of the Japanese kitchen",
    "korean": "from Korea|of the Korean kitchen",
    "southeast asian": "from Southeast Asia|of Southeast Asian kitchens",
}
"""Origin that is no region of China -> a predicate."""
MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)


def is_cold(dish: Row) -> bool:
    """Whether it is served cold."""
    return bool(dish["temperature"] == "cold")


def is_warming(dish: Row) -> bool:
    """Whether it is the hot food that one wants in cold and rain."""
    rich = dish["soup"] or dish["category"] in ("hotpot", "soups and stews")
    return bool(dish["temperature"] == "hot" and (rich or dish["protein"] == "lamb"))


def is_meal(dish: Row) -> bool:
    """Whether it is neither a drink nor a dessert."""
    return not (dish["drink"] or dish["dessert"])


def is_for_patients(dish: Row) -> bool:
    """Whether it is mild and warm enough for the sick."""
    plain = dish["spicy"] == 0 and dish["oily"] <= 1 and dish["fried"] == 0
    return bool(plain and dish["light"] and dish["temperature"] == "hot" and is_meal(dish))


Test = Callable[[Row], bool]
GROUPS: dict[str, Test] = {
    "cold dishes [good for|that cool one on] a hot day": lambda d: is_cold(d) and is_meal(d),
    "iced drinks for [a hot afternoon|the summer heat]": lambda d: is_cold(d) and d["drink"] == 1,
    "cold desserts for the summer": lambda d: is_cold(d) and d["dessert"] == 1,
    "hot soups and stews for [rain and cold|a winter evening]": is_warming,
    "warm drinks for a cold day": lambda d: d["temperature"] == "hot" and d["drink"] == 1,
    "breakfast foods|things to eat in the morning": lambda d: d["breakfast"] == 1,
    "midnight snacks|foods for late at night": lambda d: d["late_night"] == 1,
    "barbecue and grilled food|foods from the grill": lambda d: d["grilled"] == 1,
    "very spicy dishes|fiery dishes": lambda d: d["spicy"] == 3,
    "dishes without chili|mild meals": lambda d: d["spicy"] == 0 and is_meal(d),
    "sour dishes that wake the appetite": lambda d: d["sour"] >= 2,
    "sweet treats|sweets for the afternoon": lambda d: d["sweet"] >= 2 and not is_meal(d),
    "heavy, oily meals": lambda d: d["oily"] == 3,
    "light meals|meals for people on a diet": lambda d: d["light"] == 1 and is_meal(d),
    "mild warm food for the sick|food to send to a hospital": is_for_patients,
    "fried food loved by the young": lambda d: d["fried"] == 1,
    "rice meals for a quick lunch": lambda d: d["staple"] == "rice" and d["price_yuan"] <= 30,
    "noodle dishes|noodles for one person": lambda d: d["staple"] == "noodles",
    "wheat breads, buns and pancakes": lambda d: d["staple"] == "buns",
    "seafood dishes": lambda d: d["protein"] == "seafood",
    "dishes of lamb and mutton": lambda d: d["protein"] == "lamb",
    "beef dishes": lambda d: d["protein"] == "beef",
    "pork dishes": lambda d: d["protein"] == "pork",
    "chicken and duck dishes": lambda d: d["protein"] in ("chicken", "duck"),
    "tofu and vegetable dishes": lambda d: d["protein"] in ("tofu", "vegetables"),
    "dishes for a feast on the weekend": lambda d: d["price_yuan"] >= 70,
    "cheap foods under ten yuan": lambda d: d["price_yuan"] < 10,
    "Western food": lambda d: d["region"] == "western",
    "Japanese and Korean food": lambda d: d["region"] in ("japanese", "korean"),
    "food of Southeast Asia": lambda d: d["region"] == "southeast asian",
}
"""A heading -> which dishes stand under it."""
HABITS: tuple[tuple[str, str, Test], ...] = (
    ("[On a hot day|When the sun burns|In midsummer]", "something cold or iced", is_cold),
    (
        "[On a hot afternoon|After lunch in the heat]",
        "an iced drink",
        lambda d: is_cold(d) and d["drink"] == 1,
    ),
    ("[In rain|On a rainy day|When it pours]", "hot soup, brought to the door,", is_warming),
    ("[In winter|When frost comes|On a cold evening]", "hot soup, hotpot or mutton", is_warming),
    ("[In a strong wind|When a cold wind blows]", "hot noodles or soup", is_warming),
    ("[In a shopping mall|After shopping]", "a drink or a dessert", lambda d: not is_meal(d)),
    ("[When it snows|On a snowy night]", "a steaming pot", is_warming),
    (
        "[In the morning|At breakfast|Before work]",
        "a small breakfast",
        lambda d: d["breakfast"] == 1,
    ),
    (
        "[At noon|At lunch in the office]",
        "a quick meal with rice or noodles",
        lambda d: d["staple"] in ("rice", "noodles") and is_meal(d) and d["price_yuan"] <= 40,
    ),
    ("[In the afternoon|At tea time]", "a sweet drink or a dessert", lambda d: not is_meal(d)),
    (
        "[Late at night|After midnight|After a football match]",
        "barbecue, crayfish or fried snacks",
        lambda d: d["late_night"] == 1,
    ),
    (
        "[On a weekend evening|When friends meet]",
        "dishes to share",
        lambda d: d["price_yuan"] >= 55,
    ),
    (
        "[After work, when alone|On an ordinary evening]",
        "a simple home dish",
        lambda d: d["category"] in ("home-style dishes", "soups and stews", "rice meals"),
    ),
    ("[In hospital|When ill|After an operation]", "warm, light and mild food", is_for_patients),
    (
        "[On a diet|When trying to lose weight]",
        "light food with little oil",
        lambda d: d["light"] == 1 and d["sweet"] == 0,
    ),
    (
        "[At school|In the dormitory|Among students]",
        "fried snacks, spicy food and milk tea",
        lambda d: (d["fried"] == 1 or d["drink"] == 1) and d["price_yuan"] <= 25,
    ),
    ("[In old age|With weak teeth|Late in life]", "soft, warm and light food", is_for_patients),
    (
        "[At the railway station|In a hurry|On the road]",
        "buns or noodles that are quick to eat",
        lambda d: d["staple"] in ("buns", "noodles") and d["price_yuan"] <= 20,
    ),
    (
        "[In a hotel at night|On a journey, in the evening,]",
        "something local or grilled",
        lambda d: d["grilled"] == 1,
    ),
    (
        "[When short of money|Before payday]",
        "cheap and filling food",
        lambda d: d["price_yuan"] <= 12 and d["staple"] != "none",
    ),
    (
        "[In dry autumn|When the throat is dry]",
        "soups and gentle sweets",
        lambda d: d["soup"] == 1 and d["light"] == 1,
    ),
    (
        "[With a heavy cold|When one shivers]",
        "hot ginger drinks and congee",
        lambda d: (
            d["temperature"] == "hot"
            and (d["drink"] == 1 or (d["staple"] == "rice" and d["soup"] == 1))
        ),
    ),
)
"""When or who, what is wanted, and which dishes it means."""
COMPANIONS_OF: tuple[tuple[Test, str], ...] = (
    (lambda d: not is_meal(d), "a light snack|a small cake|a talk with friends|some fruit"),
    (lambda d: d["spicy"] >= 2, "iced plum juice|plain rice|iced lemon tea|soy milk|herbal tea"),
    (lambda d: d["grilled"] == 1, "cold beer|cold noodles|iced fruit tea|smashed cucumber"),
    (lambda d: d["breakfast"] == 1, "soy milk|millet congee|tea eggs|fried dough sticks"),
    (lambda d: d["staple"] == "none", "plain rice|garlic greens|a light soup|steamed buns"),
    (lambda _: True, "a light soup|smashed cucumber|pickles|hot tea|braised eggs"),
)
"""The first test that holds names what goes with a dish."""
TIMES = {
    "breakfast": "in the morning|at breakfast|before work",
    "late_night": "late at night|as a midnight snack|after ten in the evening",
    "drink": "in the afternoon|during a break",
    "dessert": "in the afternoon|after the meal",
}
TRAITS = {
    "spicy": "spicy|hot with chili",
    "sweet": "sweet",
    "sour": "sour|tangy",
    "oily": "oily|rich",
    "cold": "served cold|cooling",
    "soup": "eaten in broth|soupy",
    "drink": "for drinking",
    "dessert": "eaten as dessert",
    "grilled": "grilled",
    "fried": "fried|crisp from hot oil",
    "breakfast": "eaten in the morning|fit for breakfast",
    "late_night": "eaten late at night|good for midnight",
    "light": "light|easy to digest",
    "rice": "made with rice",
    "noodles": "made with noodles",
    "buns": "eaten with wheat bread or dough",
    "beef": "made with beef",
    "pork": "made with pork",
    "chicken": "made with chicken",
    "lamb": "made with lamb",
    "duck": "made with duck or goose",
    "seafood": "made with seafood",
    "tofu": "made with tofu",
    "egg": "made with egg",
    "vegetables": "made of vegetables",
}
ADVICE: tuple[tuple[Test, str], ...] = (
    (is_cold, "On a hot day {x} is the better choice, and {y} is less refreshing."),
    (is_warming, "In [rain|snow|cold] {x} is [better|more welcome] than {y}."),
    (lambda d: d["spicy"] >= 2, "Those who love chili [take|choose] {x}, those who avoid it {y}."),
    (
        lambda d: d["breakfast"] == 1,
        "For breakfast one would [take|order] {x} rather than {y}.",
    ),
    (
        lambda d: d["late_night"] == 1,
        "Late at night {x} is [ordered more|more usual] than {y}.",
    ),
    (lambda d: d["light"] == 1, "{x} is [lighter|easier on the stomach] than {y}."),
    (is_meal, "{x} is a [meal|dish to fill the stomach], {y} a [treat|sweet or a drink]."),
)
"""Where a test holds for one of two dishes: it is {x}, the other {y}."""
GUESTS = (
    "few tourists come|it is not a place of great tourism|most visitors come on business",
    "it is full of visitors on holidays|travellers come from the whole country|tourism is strong",
)
"""Words for little and much tourism."""
PROPER = ("Western", "Japanese")
"""Headings that keep their capital letter inside a sentence."""
