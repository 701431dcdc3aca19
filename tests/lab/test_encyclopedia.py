"""The encyclopedia is plain prose with all facts of the tables and nothing from a log."""

from __future__ import annotations

import lzma
import re
from itertools import islice

import pytest
from scripts.base_lm import SEED, split

from larr.text.corpus import BUILTIN_TEXT
from larr_lab import knowledge
from larr_lab.encyclopedia.book import WORDS, Book, articles, held_out, likings, matching
from tests.lab.test_knowledge import FOREIGN_KITCHENS

ENTRY = re.compile(r"[^:.]+: [^:.]+\.$")
"""A line of the dictionary, which may begin with a small letter."""


@pytest.fixture(scope="module")
def texts() -> list[str]:
    """The text of the built-in language model; test_base_lm.py compares it with `articles`."""
    return lzma.decompress(BUILTIN_TEXT.read_bytes()).decode().splitlines()


def test_another_seed_writes_other_texts(texts: list[str]) -> None:
    assert list(islice(articles(SEED + 1), 500)) != texts[:500]
    assert len(Book(SEED + 1).contents()) == len(texts)


def test_the_text_has_the_planned_length_and_few_repetitions(texts: list[str]) -> None:
    assert 7_000_000 < sum(map(len, texts)) < 10_000_000
    assert len(set(texts)) > 0.99 * len(texts)


def test_the_text_is_prose_without_markup_or_unfilled_templates(texts: list[str]) -> None:
    for text in texts:
        assert not re.search(r"[<>\[\]{}|#=_\n\t]|  |\bnone\b|\bNone\b| ,|\.\.|: \.", text), text
        assert text[0].isupper() or ENTRY.match(text), text
        assert text[-1] in ".?", text


def test_the_text_contains_no_words_of_the_simulated_log(texts: list[str]) -> None:
    words = r"\b(restaurants?|user|click(s|ed)?|impressions?|poi|scene)\b"
    assert not re.search(words, "\n".join(texts), re.IGNORECASE)


def test_every_dish_region_and_city_appears_often(texts: list[str]) -> None:
    """A quarter of the randomly ordered articles is enough to contain all names."""
    quarter = "\n".join(texts[::4])
    for table in (knowledge.dishes(), knowledge.regions(), knowledge.cities()):
        for name in table[table.columns[0]]:
            assert quarter.count(name) >= 5, name
    openings = "\n".join(text for text in texts if not ENTRY.match(text)).lower()
    assert [note for note in knowledge.dishes()["note"] if note.lower() not in openings] == []


def test_the_facts_of_a_dish_come_from_its_row(texts: list[str]) -> None:
    known = {row["dish"]: row for row in knowledge.dishes().to_dicts()}
    checked = 0
    for text in texts:
        for yuan, name in re.findall(r"[Ww]ith a price near (\d+) yuan ([^.]*?) is ", text):
            row = known.get(name)
            checked += row is not None
            assert row is None or row["price_yuan"] == int(yuan), text
    assert checked > 300


def test_a_cold_dish_never_warms(texts: list[str]) -> None:
    opening = tuple(f"Is {name} " for name in matching("is_cold"))
    for text in texts:
        if text.startswith(opening):
            assert "warms the body" not in text, text
            assert "steaming hot" not in text, text


def test_likings_are_amount_times_preference() -> None:
    regions = {row["region"]: row for row in knowledge.regions().to_dicts()}
    dishes = {row["dish"]: row for row in knowledge.dishes().to_dicts()}
    pleases = likings(dishes["Mapo tofu"], regions["Guangdong"])
    assert pleases["spicy"] == pytest.approx(-2 * 3 / 3)
    assert pleases["oily"] == pytest.approx(-1 * 3 / 3)
    assert pleases["noodles"] == 0
    assert likings(dishes["Lamb skewers"], regions["Xinjiang-Northwest"])["lamb"] == 2


def test_headings_and_habits_have_dishes() -> None:
    assert min(map(len, Book(0).headings.values())) >= 5
    assert min(len(matching(habit["dishes"])) for habit in WORDS["habits"]) >= 5


def test_every_dish_has_a_kind_and_every_origin_a_name() -> None:
    dishes = knowledge.dishes()
    assert set(dishes["category"]) == set(WORDS["kinds"])
    assert set(WORDS["origins"]) == {knowledge.NATIONAL, *FOREIGN_KITCHENS}


def test_two_of_a_hundred_renderings_are_held_out(texts: list[str]) -> None:
    candidates = [text for index, text in enumerate(texts) if held_out(index)]
    assert len(candidates) == len(texts) // 50
    trained, tested = split(texts)
    assert set(trained).isdisjoint(tested)
    assert len(tested) > 0.99 * len(candidates)


def test_an_entry_agrees_with_its_row(texts: list[str]) -> None:
    homes = {
        name.lower(): row["region"]
        for row in knowledge.dishes().to_dicts()
        for name in (row["dish"], *row["also"].split("|"))
        if name
    }
    entries = [text[:-1].split(": ") for text in texts if ENTRY.match(text)]
    of_dishes = [(homes[name.lower()], traits) for name, traits in entries if name.lower() in homes]
    assert len(of_dishes) > 40_000
    regions = set(knowledge.regions()["region"])
    for home, traits in of_dishes:
        origins = {trait.removeprefix("from ") for trait in traits.split(", ")} & regions
        assert origins <= {home}, traits
