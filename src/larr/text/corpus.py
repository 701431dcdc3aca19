"""The corpus of stage 1: one description of each place, mixed with general text."""

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
from larr.text.backbone import Parts
from larr.text.checkpoint import BUILTIN

BUILTIN_TEXT = BUILTIN / "general_text.txt.xz"
"""The training text of the built-in language model: one document per line, UTF-8."""


@dataclass(frozen=True)
class Description:
    """The description D_i = [x_i, y_i] of a place. Paper: Eq. (1)-(6)."""

    prompt: Parts
    """x_i: the keywords with `prompt = true`, such as name and location. Paper: Eq. (5)."""
    target: Parts
    """y_i: the other keywords, which the model learns to predict. Paper: Eq. (6)."""
    chain: str | None
    """The chain of the place; None for a single place."""


def row_texts(row: Mapping[str, str | None], keywords: list[KeywordConfig]) -> Parts:
    """Returns the texts t_i^k of a row, in the order of the keywords. Paper: Eq. (2)-(3)."""
    texts = ((keyword.name, row[keyword.name]) for keyword in keywords)
    return tuple((name, text) for name, text in texts if text)


def descriptions(config: Config) -> list[Description]:
    """Returns D, the descriptions of all places with a text to predict. Paper: Eq. (1).

    If all place keywords are prompts, for example only a name, all of them are predicted. Raises
    DataError if no place has a text.
    """
    keywords = [keyword for keyword in config.keywords if keyword.owner == "poi"]
    targets = [keyword for keyword in keywords if not keyword.prompt] or keywords
    prompts = [keyword for keyword in keywords if keyword not in targets]
    corpus = [
        Description(row_texts(row, prompts), target, row["chain"])
        for row in descriptions_table(config).iter_rows(named=True)
        if (target := row_texts(row, targets))
    ]
    if not corpus:
        raise DataError(
            f"no place has a text for {', '.join(keyword.name for keyword in targets)}; "
            "check the templates against the columns of places"
        )
    return corpus


def descriptions_table(config: Config) -> pl.DataFrame:
    """Returns a table with poi_id, chain, and the text of each place keyword."""
    return pl.read_parquet(artifacts.folder(config, "prepare") / "descriptions.parquet")


def general_text(config: Config) -> Iterator[str]:
    """Yields the documents of `pretrain.general_text` for stage 1, in order; none without a source.

    Reads a file line by line, since it may exceed the memory. The built-in text is larger than a
    run needs, so the seed determines its order. Raises ConfigError if the file cannot be read.
    """
    source = config.pretrain.general_text
    if source == "builtin" or (source is None and config.backbone.model == BUILTIN_MODEL):
        documents = lzma.decompress(BUILTIN_TEXT.read_bytes()).decode().splitlines()
        for index in np.random.default_rng(config.seed).permutation(len(documents)):
            yield documents[index]
    elif source is not None:
        try:
            with Path(source).open(encoding="utf-8") as file:
                yield from (line.strip() for line in file if line.strip())
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"pretrain.general_text {source} could not be read: {error}; give a UTF-8 text "
                "file with one document per line"
            ) from error
