"""Infers the roles of columns and tables from their names, with the words of `words.toml`.

The head of a name is its last word other than `id`, `number` or the like: `hotel_market_id`
identifies markets, not hotels.
"""

from __future__ import annotations

import re
import tomllib
from importlib.resources import files

_FILE = tomllib.loads(files("larr").joinpath("templates/words.toml").read_text(encoding="utf-8"))
EVENTS = [*_FILE["events"]]
"""The events of a shown place, from the weakest to the strongest."""
WORDS = {role: {*words.split()} for role, words in (_FILE | _FILE.pop("events")).items()}
"""Role of a column or event -> words, in the singular."""
_KEYS = WORDS["user"] | WORDS["place"] | WORDS["request"]
_GLUED = re.compile(r"(.+?)s?(ids?|nummer|nr|编号|号|名称|标题|name)")
"""Compounds such as `itemid` and `Kundennummer`, if the first part is a word of `_KEYS`."""
_TYPE_SUFFIX = re.compile(r":(token|float|token_seq|float_seq)$")
"""The suffixes of column names in RecBole's files."""


def words_of(name: str) -> list[str]:
    """Returns the words of a name in lower case, such as `user` and `id` for `userId`."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", _TYPE_SUFFIX.sub("", name))
    words: list[str] = []
    for word in re.findall(r"[^\W_]+", spaced.lower()):
        glued = _GLUED.fullmatch(word)
        words += glued.groups() if glued and glued[1] in _KEYS else [word]
    return words


def has_role(name: str, role: str) -> bool:
    """Returns whether a word of a name, or its singular, belongs to a role."""
    return any({word, word.removesuffix("s")} & WORDS[role] for word in words_of(name))


def is_role(name: str, role: str) -> bool:
    """Returns whether the head of a name belongs to a role; a plural such as `guests` does not."""
    heads = [word for word in words_of(name) if word not in WORDS["code"]] or [name.lower()]
    return heads[-1] in WORDS[role]


def is_name(name: str) -> bool:
    """Returns whether a column's name ends with a word for names, or with a place: `shop`."""
    return any(word in WORDS["name"] | WORDS["place"] for word in words_of(name)[-1:])
