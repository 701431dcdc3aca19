"""What names of columns and tables say, by the words of `words.toml`.

The head of a name is its last word other than `id`, `number` or the like: `hotel_market_id`
identifies markets, not hotels.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from importlib.resources import files

_FILE = tomllib.loads(files("larr").joinpath("templates/words.toml").read_text(encoding="utf-8"))
EVENTS: list[str] = [*_FILE["events"]]
"""The events of a shown place, from the weakest to the strongest."""
WORDS = {role: {*words.split()} for role, words in (_FILE | _FILE.pop("events")).items()}
"""Role of a column or event -> words, in the singular."""
_KEYS = WORDS["user"] | WORDS["place"] | WORDS["request"]
_UNSPACED = re.compile(r"[\u3040-\u30ff\u4e00-\u9fff]")
"""Letters of languages that are written without spaces: Chinese and Japanese."""
_PARTS = {role: tuple(filter(_UNSPACED.match, words)) for role, words in WORDS.items()}
"""Role -> the words that can be parts of a longer word, such as 下单 in 是否下单."""
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


def has_role(name: str, *roles: str) -> bool:
    """Returns whether a word of a name, or its singular, belongs to one of some roles."""
    words = words_of(name)
    singulars = {word.removesuffix(end) for word in words for end in ("", "s", "es")}
    return any(
        singulars & WORDS[role] or any(part in word for word in words for part in _PARTS[role])
        for role in roles
    )


def is_role(name: str, *roles: str) -> bool:
    """Returns whether the head of a name belongs to a role; a plural such as `guests` does not."""
    heads = [word for word in words_of(name) if word not in WORDS["code"]] or [name.lower()]
    return _belongs(heads[-1:], roles)


def is_name(name: str) -> bool:
    """Returns whether a name ends with a word for names, or with a place: `shop`."""
    return _belongs(words_of(name)[-1:], ("name", "place"))


def is_kind(name: str) -> bool:
    """Returns whether a name ends with a word such as `category`."""
    return _belongs(words_of(name)[-1:], ("kind",))


def _belongs(words: list[str], roles: Iterable[str]) -> bool:
    """Returns whether one of some words belongs to a role; in Chinese, its end is enough."""
    return any(w in WORDS[role] or w.endswith(_PARTS[role]) for w in words for role in roles)
