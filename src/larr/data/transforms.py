"""Transforms from columns to model inputs, each in two equivalent forms.

`column` transforms the rows of a table, for training; `value` transforms one request, for serving,
where a data frame per request would dominate the latency. `larr.data.snapshot` does the same for
statistics.

Shapes: N rows, M numbers, L recent places.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any, Self, TypeVar

import numpy as np
import numpy.typing as npt
import polars as pl
from polars.exceptions import PolarsError

from larr.config.data import BucketConfig, KeywordConfig
from larr.errors import DataError

Array = npt.NDArray[Any]
Frame = TypeVar("Frame", pl.DataFrame, pl.LazyFrame)
Texts = TypeVar("Texts", pl.Expr, pl.Series)
CLIP_DEVIATIONS = 5.0
LARGEST_WHOLE = 2**63
_PART = re.compile(r"\[([^\[\]]*)\]|([^\[\]]+|[\[\]])")
_COLUMN = re.compile(r"\{([^{}]*)\}")
_WORD = r"[\p{L}\p{N}]+"
_STRAY = re.compile(r"[\[\]{}]")
MISSING = -1
"""The ID of a missing text."""
TIME_WORDS: dict[str, tuple[str, dict[int, str]]] = {
    "meal_slot": (
        "hour",
        dict.fromkeys(range(5, 10), "breakfast")
        | dict.fromkeys(range(10, 14), "lunch")
        | dict.fromkeys(range(14, 17), "afternoon tea")
        | dict.fromkeys(range(17, 21), "dinner")
        | dict.fromkeys((21, 22, 23, 0, 1, 2, 3, 4), "late night"),
    ),
    # The hour in words, for texts and vocabularies.
    "hour_band": ("hour", {hour: f"{hour} o'clock" for hour in range(24)}),
    "day_kind": (
        "weekday",
        dict.fromkeys(range(1, 6), "weekday") | dict.fromkeys((6, 7), "weekend"),
    ),
    # In the northern hemisphere.
    "season": (
        "month",
        dict.fromkeys((12, 1, 2), "winter")
        | dict.fromkeys((3, 4, 5), "spring")
        | dict.fromkeys((6, 7, 8), "summer")
        | dict.fromkeys((9, 10, 11), "autumn"),
    ),
}
"""Column -> part of the time, and the word for each of its values."""
NAME_WORDS = "poi_name_words"
"""The distinct words of a place's name in lower case, joined by commas: a column of places that is
added if a setting reads it."""
AGE = "poi_log_age"
"""log(1 + hours since the column `since` of a place) at the time of the request."""
TIME_COLUMNS = ("day", "hour", *TIME_WORDS)


def with_time_columns(frame: Frame) -> Frame:
    """Adds `TIME_COLUMNS`, computed from the column `time`."""
    time = pl.col("time").dt
    parts = {"hour": time.hour(), "weekday": time.weekday(), "month": time.month()}
    texts = {
        column: parts[part].replace_strict(words, return_dtype=pl.String)
        for column, (part, words) in TIME_WORDS.items()
    }
    return frame.with_columns(day=time.date(), hour=time.hour(), **texts)


def time_columns(time: datetime) -> dict[str, object]:
    """Returns `TIME_COLUMNS` for the time of one request."""
    parts = {"hour": time.hour, "weekday": time.isoweekday(), "month": time.month}
    texts = {column: words[parts[part]] for column, (part, words) in TIME_WORDS.items()}
    return {"day": time.date(), "hour": time.hour, **texts}


def text_column(column: str, dtype: pl.DataType) -> pl.Expr:
    """Returns a column as texts, for templates and vocabularies.

    4.0 becomes "4", since many readers return integer columns with missing values as floats.
    """
    value = pl.col(column)
    if not dtype.is_float():
        return value.cast(pl.String)
    integer = value.cast(pl.Int64, strict=False)
    return pl.when(integer == value).then(integer.cast(pl.String)).otherwise(value.cast(pl.String))


def as_texts(values: pl.Series) -> pl.Series:
    """Returns the texts of `text_column`."""
    text = text_column("value", values.dtype).alias(values.name)
    return values.rename("value").to_frame().select(text).to_series()


def split_values(texts: Texts) -> Texts:
    """Returns lists of the comma-separated values in texts."""
    return texts.str.split(",").list.eval(pl.element().str.strip_chars())


def with_name_words(places: pl.DataFrame) -> pl.DataFrame:
    """Adds the column `NAME_WORDS`, or computes it again."""
    words = pl.col("poi_name").str.to_lowercase().str.extract_all(_WORD)
    joined = words.list.unique(maintain_order=True).list.join(", ")
    return places.with_columns(joined.alias(NAME_WORDS))


def with_age(rows: pl.DataFrame) -> pl.DataFrame:
    """Adds `AGE`, if places have a column `since`; it is null where `since` is missing."""
    if "poi_since" not in rows.columns:
        return rows
    hours = (pl.col("time") - pl.col("poi_since")) / pl.duration(hours=1)
    return rows.with_columns(hours.clip(lower_bound=0.0).log1p().alias(AGE))


def age_values(time: datetime, since_K: Array) -> Array:
    """Returns `AGE` of the places of one request, float64 [K], with NaN where `since` is missing.

    `since_K` holds datetime64 in microseconds.
    """
    age_K: Array = np.datetime64(time, "us") - since_K
    return np.log1p(np.maximum(age_K / np.timedelta64(1, "h"), 0.0))


def text_value(value: object) -> str:
    """Returns a value as text; the value form of `text_column`."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer() and abs(value) < LARGEST_WHOLE:
        value = int(value)
    if isinstance(value, int):
        return str(value)
    # Python and polars format 1e-05 and 1e16 differently; vocabularies are written by polars.
    found: str = pl.Series([value]).cast(pl.String).item()
    return found


@dataclass(frozen=True)
class Vocabulary:
    """The values of a category as texts; indices count from 1.

    Index 0 is for missing and unknown values.
    """

    texts: pl.Series

    def column(self, values: pl.Series) -> Array:
        """Returns the index of each value, int32 [N]."""
        texts, indices = as_texts(values), range(1, len(self.texts) + 1)
        index_N = texts.replace_strict(self.texts, indices, default=0, return_dtype=pl.Int32)
        return index_N.fill_null(0).to_numpy()

    def value(self, value: object) -> int:
        return 0 if value is None else self._indices.get(text_value(value), 0)

    def padded_column(self, lists: pl.Series, length: int) -> Array:
        """Returns the indices of the first values of each list, int32 [N, L], padded with 0."""
        columns = [self.column(lists.list.get(i, null_on_oob=True)) for i in range(length)]
        return np.stack(columns, axis=1) if columns else np.zeros((len(lists), 0), np.int32)

    def padded_value(self, values: Sequence[str], length: int) -> Array:
        """Returns the indices of the first values of one list, int32 [L], padded with 0."""
        index_L = np.zeros(length, np.int32)
        index_L[: len(values)] = [self.value(value) for value in values[:length]]
        return index_L

    @cached_property
    def _indices(self) -> dict[str, int]:
        return {text: index for index, text in enumerate(self.texts, 1)}


@dataclass(frozen=True)
class Scales:
    """Means and standard deviations of the numeric features in the training days."""

    names: tuple[str, ...]
    mean_M: Array
    deviation_M: Array

    def column(self, frame: pl.DataFrame) -> Array:
        """Returns the standardised numbers of a table, float32 [N, M]."""
        # A column fits in the CPU cache, so processing them one by one is twice as fast.
        scaled_NM = np.empty((frame.height, len(self.names)), np.float32)
        for position, name in enumerate(self.names):
            number_N1 = frame[name].cast(pl.Float64).to_numpy()[:, None]
            scaled_NM[:, position] = self.select([position]).value(number_N1)[:, 0]
        return scaled_NM

    def value(self, number_M: Array) -> Array:
        """Returns numbers (float64 [M] or [N, M], NaN for missing) standardised, as float32.

        A missing number becomes 0, the mean.
        """
        scaled_M = number_M - self.mean_M
        scaled_M /= self.deviation_M
        scaled_M[~np.isfinite(scaled_M)] = 0.0
        np.clip(scaled_M, -CLIP_DEVIATIONS, CLIP_DEVIATIONS, out=scaled_M)
        return scaled_M.astype(np.float32)

    def select(self, positions: Sequence[int]) -> Scales:
        chosen = list(positions)
        names = tuple(self.names[position] for position in chosen)
        return Scales(names, self.mean_M[chosen], self.deviation_M[chosen])


@dataclass(frozen=True)
class Levels:
    """Converts a number to words: the column `<column>_level` of a bucket. Decision 13."""

    bucket: BucketConfig
    edges: list[float]
    """In ascending order; a number equal to an edge belongs to the level below it."""

    @classmethod
    def fit(cls, bucket: BucketConfig, values: pl.Series) -> Self:
        """Returns levels with the configured edges, or with quantiles of `values` as edges."""
        if bucket.edges is not None:
            return cls(bucket, bucket.edges)
        finite = values.drop_nulls().drop_nans()
        shares = np.arange(1, len(bucket.words)) / len(bucket.words)
        edges = [float(finite.quantile(share) or 0.0) for share in shares] if len(finite) else []
        return cls(bucket, edges)

    def column(self, frame: pl.DataFrame) -> pl.Series:
        """Returns the level of each row; null if the number is missing."""
        position_N = self.positions(frame[self.bucket.column].cast(pl.Float64).to_numpy())
        return pl.Series(self.bucket.level, [*self.bucket.words, None]).gather(position_N)

    def value(self, number: float | None) -> str | None:
        if number is None or np.isnan(number):
            return None
        return self.bucket.words[bisect_left(self.edges, number)]

    def positions(self, number_N: Array) -> Array:
        """Returns the index of each number's word; the number of words for NaN."""
        position_N = np.searchsorted(self.edges, number_N)
        return np.where(np.isnan(number_N), len(self.bucket.words), position_N)


def with_levels(rows: pl.DataFrame, levels: Sequence[Levels]) -> pl.DataFrame:
    """Adds missing levels of the columns that the rows have."""
    columns = rows.columns
    missing = [
        level
        for level in levels
        if level.bucket.column in columns and level.bucket.level not in columns
    ]
    return rows.with_columns(level.column(rows) for level in missing)


class Template:
    """The template of a keyword: columns in braces, optional parts in brackets.

    A part in brackets is omitted if one of its columns is missing. If another column is missing the
    row has no text.
    """

    def __init__(self, keyword: KeywordConfig) -> None:
        self.keyword = keyword
        self.parts: list[tuple[str, bool]] = [
            (optional or required, not required)
            for optional, required in _PART.findall(keyword.template)
        ]
        """The parts of the template, and whether each is optional."""
        self.columns: list[str] = [name for text, _ in self.parts for name in _COLUMN.findall(text)]
        self.is_balanced = not any(_STRAY.search(_COLUMN.sub("", text)) for text, _ in self.parts)
        """Whether all brackets and braces are matched."""

    def column(self, frame: pl.DataFrame) -> pl.Series:
        """Returns the text of each row or null, as a series with the keyword's name.

        Raises DataError for a column that cannot be converted to text.
        """
        parts = []
        for text, is_optional in self.parts:
            columns = [text_column(name, frame.schema[name]) for name in _COLUMN.findall(text)]
            part = pl.format(_COLUMN.sub("{}", text), *columns) if columns else pl.lit(text)
            parts.append(part.fill_null("") if is_optional else part)
        try:
            texts = frame.select(pl.concat_str(parts).alias(self.keyword.name)).to_series()
        except PolarsError as error:
            kinds = {name: str(frame.schema[name]) for name in self.columns}
            raise DataError(
                f"keyword {self.keyword.name}: cannot convert {kinds} to text: {error}"
            ) from error
        # Few texts are distinct, so only these are normalised.
        distinct = texts.unique()
        tidy = distinct.str.replace_all(r"\s+", " ").str.strip_chars(" ,;")
        tidy = tidy.set(tidy.str.len_chars() == 0, None)
        return texts.replace_strict(distinct, tidy, return_dtype=pl.String)

    def value(self, values: Mapping[str, object]) -> str | None:
        """Returns the text of one row, a mapping from columns to values."""
        written = []
        for text, is_optional in self.parts:
            columns = [values.get(name) for name in _COLUMN.findall(text)]
            if None not in columns:
                written.append(_COLUMN.sub(lambda name: text_value(values[name[1]]), text))
            elif not is_optional:
                return None
        return " ".join("".join(written).split()).strip(" ,;") or None


class TextIds:
    """The IDs of texts: distinct pairs of keyword and text are numbered in order of insertion.

    The ID of a text is also the row of its vector.
    """

    def __init__(self, table: pl.DataFrame | None = None) -> None:
        """Starts empty, or with a table that `table()` returned."""
        self._texts: list[tuple[str, str]] = []
        self._ids: dict[tuple[str, str | None], int] = {}
        if table is not None:
            for keyword, text in table.sort("text_id").select("keyword", "text").iter_rows():
                self.add_value(keyword, text)

    def add(self, texts: pl.Series) -> Array:
        """Returns the ID of each text, as `column` does; new texts get one."""
        for text in texts.drop_nulls().unique(maintain_order=True):
            self.add_value(texts.name, text)
        return self.column(texts)

    def add_value(self, keyword: str, text: str) -> int:
        """Returns the ID of one text; a new text gets one."""
        key = (keyword, text)
        if key not in self._ids:
            self._texts.append(key)
            self._ids[key] = len(self._texts) - 1  # last, as other threads may look it up
        return self._ids[key]

    def column(self, texts: pl.Series) -> Array:
        """Returns the ID of each text, int32 [N]; the series has the name of the keyword.

        Nulls and unknown texts are MISSING.
        """
        distinct = texts.drop_nulls().unique(maintain_order=True)
        ids = [self.value(texts.name, text) for text in distinct]
        id_N = texts.replace_strict(distinct, ids, default=MISSING, return_dtype=pl.Int32)
        return id_N.fill_null(MISSING).to_numpy()

    def value(self, keyword: str, text: str | None) -> int:
        """Returns the ID of one text, or MISSING."""
        return self._ids.get((keyword, text), MISSING)

    def text(self, text_id: int) -> str:
        return self._texts[text_id][1]

    def __len__(self) -> int:
        return len(self._texts)

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self._texts)

    def table(self) -> pl.DataFrame:
        """Returns a table with text_id (int32, the row number), keyword and text."""
        schema = {"keyword": pl.String, "text": pl.String}
        frame = pl.DataFrame(self._texts, schema, orient="row")
        return frame.with_row_index("text_id").with_columns(pl.col("text_id").cast(pl.Int32))
