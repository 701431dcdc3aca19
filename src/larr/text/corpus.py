"""The corpus of stage 1: a description of each place, and general text beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl

from larr import artifacts
from larr.config import Config
from larr.config.data import KeywordConfig
from larr.config.text import BUILTIN_MODEL
from larr.errors import ConfigError, DataError
from larr.text.backbone import KeywordText
from larr_lab.city import encyclopedia


@dataclass(frozen=True)
class Description:
    """D_i = [x_i, y_i]: what the model is given of a place and what it has to tell.

    Paper: Eq. (1)-(6).
    """

    given: list[KeywordText]
    """x_i: the keywords with `prompt = true`, name and location. Paper: Eq. (5)."""
    told: list[KeywordText]
    """y_i: the place's other keywords. Paper: Eq. (6)."""
    chain: str | None
    """The chain that the place is a branch of."""


def texts_of(row: Mapping[str, str | None], keywords: list[KeywordConfig]) -> list[KeywordText]:
    """The texts t_i^k that a row has for these keywords, in order. Paper: Eq. (2)-(3)."""
    named = [(keyword.name, row[keyword.name]) for keyword in keywords]
    return [(name, text) for name, text in named if text]


def descriptions(config: Config) -> list[Description]:
    """D, the descriptions of all places that have something to tell. Paper: Eq. (1)."""
    keywords = [keyword for keyword in config.keywords if keyword.owner == "poi"]
    told = [keyword for keyword in keywords if not keyword.prompt]
    if not told:
        raise ConfigError(
            "stage 1 has nothing to predict: give at least one keyword with owner = "
            '"poi" and prompt = false'
        )
    given = [keyword for keyword in keywords if keyword.prompt]
    written = [
        Description(texts_of(row, given), texts_of(row, told), row["chain"])
        for row in descriptions_table(config).iter_rows(named=True)
    ]
    kept = [description for description in written if description.told]
    if not kept:
        raise DataError(
            f"no place has a text for {', '.join(keyword.name for keyword in told)}; "
            "check the templates against the columns of places"
        )
    return kept


def descriptions_table(config: Config) -> pl.DataFrame:
    """poi_id, chain, and a column of texts for each POI keyword."""
    return pl.read_parquet(artifacts.folder(config, "prepare") / "descriptions.parquet")


def general_text(config: Config) -> Iterator[str]:
    """The general documents that are mixed into stage 1, in the order in which they are taken.

    Unless a file is given: the encyclopedia of the built-in city and of the built-in model, and
    for other tables and another model none.
    """
    path = config.pretrain.general_text
    if path is None:
        if config.dataset.kind == "city" or config.backbone.model == BUILTIN_MODEL:
            yield from encyclopedia.articles(config.seed)
        return
    try:
        with path.open(encoding="utf-8") as file:
            yield from (line.strip() for line in file if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"pretrain.general_text {path} could not be read: {error}; give a UTF-8 text file "
            "with a document a line"
        ) from error


def in_random_order(parts: list[KeywordText], random: np.random.Generator) -> list[KeywordText]:
    """The parts shuffled."""
    return [parts[number] for number in random.permutation(len(parts))]
