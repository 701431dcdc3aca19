"""Keywords: from the columns of a row to the texts that the language model reads.

Paper: Eq. (2)-(4), (8); the registry is `config.keywords`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import polars as pl
from polars.exceptions import PolarsError

from larr.config import Config
from larr.config.data import BucketConfig, KeywordConfig
from larr.data.contract import NEVER_FEATURES
from larr.data.values import text_column
from larr.errors import ConfigError, DataError

MISSING = -1
LARGEST_WHOLE = 2**63
_PART = re.compile(r"\[([^\[\]]*)\]|([^\[\]]+|[\[\]])")
_COLUMN = re.compile(r"\{([^{}]*)\}")
_STRAY = re.compile(r"[\[\]{}]")


class Part(NamedTuple):
    """A piece of a template; an optional one is left out where one of its columns is missing."""

    text: str
    optional: bool

    @property
    def columns(self) -> list[str]:
        """The columns named in braces."""
        return _COLUMN.findall(self.text)


def parts(keyword: KeywordConfig) -> list[Part]:
    """The template's pieces in order."""
    return [
        Part(inside or outside, optional=not outside)
        for inside, outside in _PART.findall(keyword.template)
    ]


def columns_of(keyword: KeywordConfig) -> list[str]:
    """All columns that a keyword's template names."""
    return [column for part in parts(keyword) for column in part.columns]


def check_keywords(config: Config, columns: Iterable[str]) -> None:
    """Raises ConfigError for a keyword with an unknown, a forbidden, or another owner's column."""
    known = set(columns) - {"recent"}
    for keyword in config.keywords:
        named = columns_of(keyword)
        if _STRAY.search("".join(_COLUMN.sub("", part.text) for part in parts(keyword))):
            raise ConfigError(
                f"keyword {keyword.name}: template {keyword.template!r} has a bracket or brace "
                "without its other half; columns stand in {braces}, optional parts in [brackets]"
            )
        unknown = [name for name in named if name not in known]
        if unknown or not named:
            raise ConfigError(
                f"keyword {keyword.name}: template {keyword.template!r} names "
                f"{', '.join(unknown) or 'no column'}; known columns: {', '.join(sorted(known))}"
            )
        forbidden = [name for name in named if name in NEVER_FEATURES]
        if forbidden:
            raise ConfigError(
                f"keyword {keyword.name}: {', '.join(forbidden)} says what happened and may not "
                "be read; take it out of the template"
            )
        foreign = [name for name in named if not name.startswith("poi_")]
        if keyword.owner == "poi" and foreign:
            raise ConfigError(
                f"keyword {keyword.name}: owner is poi, but {', '.join(foreign)} is no column of "
                "places; use poi_... columns or another owner"
            )
        target = [name for name in named if name.startswith(("poi_", "pair_"))]
        if keyword.owner != "poi" and target:
            raise ConfigError(
                f"keyword {keyword.name}: owner is {keyword.owner}, but {', '.join(target)} tells "
                "of the candidate, which is not known before it is asked about; use other columns "
                'or owner = "poi"'
            )
    if not any(keyword.owner == "poi" for keyword in config.keywords):
        raise ConfigError("keywords: none has the owner poi; places need at least one text")


def render(frame: pl.DataFrame, keyword: KeywordConfig) -> pl.Series:
    """The keyword's text for each row, null where it has none."""
    written = pl.concat_str([_write(part, frame.schema) for part in parts(keyword)])
    try:
        texts = frame.select(written.alias(keyword.name)).to_series()
    except PolarsError as error:
        kinds = {name: str(frame.schema[name]) for name in columns_of(keyword)}
        raise DataError(f"keyword {keyword.name}: {kinds} cannot be written: {error}") from error
    distinct = texts.unique()
    return texts.replace_strict(distinct, _tidy(distinct), return_dtype=pl.String)


def render_one(values: Mapping[str, object], template: Sequence[Part]) -> str | None:
    """The text of one row given as a mapping; the same as `render` makes."""
    written = []
    for part in template:
        told = [values.get(name) for name in part.columns]
        if None in told and not part.optional:
            return None
        if None not in told:
            said = iter([as_text(value) for value in told])
            written.append(_COLUMN.sub(lambda _, said=said: next(said), part.text))  # type: ignore[misc]
    return " ".join("".join(written).split()).strip(" ,;") or None


def as_text(value: object) -> str:
    """A single value, as `text_column` writes a column."""
    if isinstance(value, str):
        return value
    if isinstance(value, float) and value.is_integer() and abs(value) < LARGEST_WHOLE:
        value = int(value)
    if type(value) is int:
        return str(value)
    told: str = pl.Series([value]).cast(pl.String).item()
    return told


def _tidy(texts: pl.Series) -> pl.Series:
    tidied = texts.str.replace_all(r"\s+", " ").str.strip_chars(" ,;")
    return tidied.set(tidied.str.len_chars() == 0, None)


def _write(part: Part, schema: pl.Schema) -> pl.Expr:
    pattern = _COLUMN.sub("{}", part.text)
    columns = [text_column(name, schema[name]) for name in part.columns]
    text = pl.format(pattern, *columns) if columns else pl.lit(part.text)
    return text.fill_null("") if part.optional else text


def bucket_edges(bucket: BucketConfig, values: pl.Series) -> list[float]:
    """The inner edges of a bucket: those given, or quantiles of the values."""
    if bucket.edges is not None:
        return bucket.edges
    finite = values.drop_nulls().drop_nans()
    shares = np.arange(1, len(bucket.words)) / len(bucket.words)
    return [float(finite.quantile(share) or 0.0) for share in shares] if len(finite) else []


def with_levels(
    frame: pl.DataFrame, buckets: list[BucketConfig], edges: dict[str, list[float]]
) -> pl.DataFrame:
    """Adds `<column>_level`, the number said in words; null where the number is missing."""
    levels = []
    for bucket in buckets:
        value = pl.col(bucket.column).cast(pl.Float64)
        number = sum((value > edge).cast(pl.Int8) for edge in edges[bucket.column])
        words = dict(enumerate(bucket.words))
        said = pl.lit(number, pl.Int8) if isinstance(number, int) else number
        level = pl.when(value.is_not_nan()).then(
            said.replace_strict(words, default=None, return_dtype=pl.String)
        )
        levels.append(level.alias(f"{bucket.column}_level"))
    return frame.with_columns(levels)


def level_one(value: float | None, bucket: BucketConfig, edges: Sequence[float]) -> str | None:
    """The level of one number; the same as `with_levels` gives."""
    if value is None or value != value:  # noqa: PLR0124 - NaN
        return None
    return bucket.words[sum(value > edge for edge in edges)]


class TextNumbers:
    """Numbers every distinct (keyword, text) in the order in which they come."""

    def __init__(self) -> None:
        self._ids: dict[str, dict[str, int]] = {}
        self._rows: list[tuple[str, str]] = []

    def number(self, texts: pl.Series) -> np.ndarray:
        """The text numbers of a column named after its keyword, int32; MISSING for null."""
        ids = self._ids.setdefault(texts.name, {})
        distinct = texts.drop_nulls().unique(maintain_order=True).to_list()
        for text in distinct:
            if text not in ids:
                ids[text] = len(self._rows)
                self._rows.append((texts.name, text))
        numbers = texts.replace_strict(
            distinct, [ids[text] for text in distinct], default=MISSING, return_dtype=pl.Int32
        )
        return numbers.fill_null(MISSING).to_numpy()

    @property
    def count(self) -> int:
        """How many distinct texts there are."""
        return len(self._rows)

    def table(self) -> pl.DataFrame:
        """text_id (int32, the row number), keyword, text."""
        frame = pl.DataFrame(self._rows, schema=["keyword", "text"], orient="row")
        return frame.with_row_index("text_id").with_columns(pl.col("text_id").cast(pl.Int32))
