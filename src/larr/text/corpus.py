"""The corpus of stage 1: one description of each place, and general text mixed in with them."""

from __future__ import annotations

import lzma
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from larr import artifacts
from larr.config import Config
from larr.config.data import KeywordConfig
from larr.config.text import BUILTIN_MODEL
from larr.errors import ConfigError, DataError
from larr.text.backbone import KeywordText
from larr.text.checkpoint import BUILTIN

BUILTIN_TEXT = BUILTIN / "general_text.txt.xz"
"""What the built-in language model was trained on: one document per line, UTF-8."""


@dataclass(frozen=True)
class Description:
    """D_i = [x_i, y_i] of one place. Paper: Eq. (1)-(6)."""

    prompt: list[KeywordText]
    """x_i: the keywords with `prompt = true`, such as name and location. Paper: Eq. (5)."""
    target: list[KeywordText]
    """y_i: the other keywords, which the model learns to predict. Paper: Eq. (6)."""
    chain: str | None
    """The chain that the place is a branch of."""


def texts_of(row: Mapping[str, str | None], keywords: list[KeywordConfig]) -> list[KeywordText]:
    """Returns the texts t_i^k of a row for these keywords, in order. Paper: Eq. (2)-(3)."""
    texts = [(keyword.name, row[keyword.name]) for keyword in keywords]
    return [(name, text) for name, text in texts if text]


def descriptions(config: Config) -> list[Description]:
    """Returns D, the descriptions of all places that have a text to predict. Paper: Eq. (1).

    Where every keyword of places is a prompt, such as a name alone, all of them are predicted.
    Raises DataError if no place has a text.
    """
    keywords = [keyword for keyword in config.keywords if keyword.owner == "poi"]
    targets = [keyword for keyword in keywords if not keyword.prompt] or keywords
    prompts = [keyword for keyword in keywords if keyword not in targets]
    every_place = [
        Description(texts_of(row, prompts), texts_of(row, targets), row["chain"])
        for row in descriptions_table(config).iter_rows(named=True)
    ]
    corpus = [description for description in every_place if description.target]
    if not corpus:
        raise DataError(
            f"no place has a text for {', '.join(keyword.name for keyword in targets)}; "
            "check the templates against the columns of places"
        )
    return corpus


def descriptions_table(config: Config) -> pl.DataFrame:
    """Returns the columns poi_id, chain, and the texts of each POI keyword."""
    return pl.read_parquet(artifacts.folder(config, "prepare") / "descriptions.parquet")


def general_text(config: Config) -> Iterator[str]:
    """Yields the general documents for stage 1 in the order of their use; none if none are set.

    A file is read line by line, since it may be larger than the memory. The built-in text has more
    than one run needs; each seed reads it in another random order. Raises ConfigError if the file
    cannot be read.
    """
    source = config.pretrain.general_text
    if source == "builtin" or (source is None and config.backbone.model == BUILTIN_MODEL):
        documents = lzma.decompress(BUILTIN_TEXT.read_bytes()).decode().splitlines()
        for number in np.random.default_rng(config.seed).permutation(len(documents)):
            yield documents[number]
    elif source is not None:
        try:
            with Path(source).open(encoding="utf-8") as file:
                yield from (line.strip() for line in file if line.strip())
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"pretrain.general_text {source} could not be read: {error}; give a UTF-8 text "
                "file with one document per line"
            ) from error
