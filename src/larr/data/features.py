"""The features of rankers: their description (`features.json`) and their encoder.

Shapes: N rows, F categories, M numbers, L recent places, T tasks.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, Self

import numpy as np
import polars as pl
from polars.exceptions import PolarsError
from pydantic import BaseModel

from larr import artifacts
from larr.config import Config
from larr.config.data import StatisticConfig
from larr.data.names import INTERNAL, number_names
from larr.data.transforms import Array, Scales, Vocabulary, text_column
from larr.errors import ConfigError

LARGEST = 1e30
"""Scales ignore larger numbers, which are errors and whose squares may overflow."""
SCALE_ROWS = 1_000_000
"""Training rows from which means and standard deviations are computed."""
ROW = f"{INTERNAL}row of the sample"
SCALES, CATEGORY = "scales.parquet", "category-{}.parquet"
SCATTER = 2_654_435_761
"""2^32 over the golden ratio: its multiples modulo 2^32 are spread evenly, whatever their step."""


class Category(BaseModel, frozen=True):
    """A categorical feature: `size` counts index 0, the unknown value."""

    name: str
    size: int
    side: Literal["user", "poi", "scene"]


class ColumnSplit(NamedTuple):
    """The positions of features, grouped by the inputs that determine their values."""

    place: tuple[int, ...]
    """Features that depend on the place alone."""
    request: tuple[int, ...]
    """Features of the user and the scene, equal for all candidates of a request."""
    candidate: tuple[int, ...]
    """Features that depend on request and candidate, such as the distance."""


class Features(BaseModel, frozen=True):
    """The content of the arrays (`features.json`)."""

    dataset: str
    tasks: tuple[Literal["click", "order"], ...]
    categories: tuple[Category, ...]
    numbers: tuple[str, ...]
    recent: int
    statistics: tuple[StatisticConfig, ...] = ()
    """The cross statistics among the numbers."""
    scene_keywords: tuple[str, ...]
    train_rows: int
    test_rows: int
    sampling_rate: float = 1.0
    sampled_share: float | None = None
    """The share of unclicked places that `[dataset.negatives]` sampled."""
    candidate_features: tuple[str, ...] = ()
    """Categories and numbers that differ between the candidates of a request."""

    def split(self, names: Sequence[str]) -> ColumnSplit:
        """Returns the split of the features `names`, as positions in `names`."""
        split: dict[str, list[int]] = {"place": [], "request": [], "candidate": []}
        for number, name in enumerate(names):
            owner = "place" if name.startswith("poi_") else "request"
            split["candidate" if name in self.candidate_features else owner].append(number)
        return ColumnSplit(**{part: tuple(numbers) for part, numbers in split.items()})


def read_features(data: Path) -> Features:
    """Returns `features.json` of the folder that `larr prepare` wrote."""
    return Features.model_validate(artifacts.read_json(data / "features.json"))


def undo_sampling(probability_NT: Array, rate: float) -> Array:
    """Corrects probabilities for a log that keeps a share `rate` of the impressions without click.

    Decision 27: each kept impression without a click represents 1 / rate impressions, so every
    probability is divided by click + (1 - click) / rate.
    """
    click_N1 = probability_NT[:, :1]
    return probability_NT / (click_N1 + (1 - click_N1) / rate)


@dataclass(frozen=True)
class FeatureEncoder:
    """Vocabularies and scales, fitted on the training days."""

    vocabularies: dict[str, Vocabulary]
    scales: Scales
    recent: int

    def arrays(
        self, rows: pl.DataFrame, known: Mapping[str, Array] | None = None
    ) -> dict[str, Array]:
        """Returns `categories`, int32 [N, F], and `numbers`, float32 [N, M], of enriched rows.

        For `known` see `categories`.
        """
        categories_NF = self.categories(rows, self.vocabularies, known)
        return {"categories": categories_NF, "numbers": self.scales.column(rows)}

    def categories(
        self, rows: pl.DataFrame, names: Collection[str], known: Mapping[str, Array] | None = None
    ) -> Array:
        """Returns the indices of some categories, int32 [N, F].

        `known` holds indices that were looked up before, by category.
        """
        known, index_NF = known or {}, np.zeros((rows.height, len(names)), np.int32)
        for position, name in enumerate(names):
            words = self.vocabularies[name]
            index_NF[:, position] = known[name] if name in known else words.column(rows[name])
        return index_NF

    @property
    def places(self) -> Vocabulary:
        """The vocabulary of poi_id, shared by recent places; empty if poi_id is not a feature."""
        return self.vocabularies.get("poi_id", Vocabulary(pl.Series([], dtype=pl.String)))

    def save(self, folder: Path) -> None:
        """Writes the vocabularies, in the order of `features.categories`, and the scales."""
        folder.mkdir(exist_ok=True)
        for number, vocabulary in enumerate(self.vocabularies.values()):
            texts = vocabulary.texts.rename("value").to_frame()
            texts.write_parquet(folder / CATEGORY.format(number))
        scales = self.scales
        columns = {"name": scales.names, "mean": scales.mean_M, "deviation": scales.deviation_M}
        types = {"name": pl.String, "mean": pl.Float64, "deviation": pl.Float64}
        pl.DataFrame(columns, schema=types).write_parquet(folder / SCALES)

    @classmethod
    def load(cls, config: Config, folder: Path) -> Self:
        vocabularies = {
            name: Vocabulary(pl.read_parquet(folder / CATEGORY.format(number))["value"])
            for number, name in enumerate(dict.fromkeys(config.features.categories))
        }
        names, mean_M, deviation_M = pl.read_parquet(folder / SCALES).get_columns()
        scales = Scales(tuple(names), mean_M.to_numpy(), deviation_M.to_numpy())
        return cls(vocabularies, scales, config.features.recent)


def fit(config: Config, train: pl.LazyFrame) -> FeatureEncoder:
    """Returns an encoder with vocabularies of all training rows, and scales of a sample."""
    schema = train.collect_schema()
    vocabularies = {}
    for name in config.features.categories:
        texts = train.select(text_column(name, schema[name])).drop_nulls().unique()
        vocabularies[name] = Vocabulary(texts.collect(engine="streaming").to_series().sort())
    names = number_names(config)
    sampled = sample(train.select(names), SCALE_ROWS)
    mean_M, deviation_M = np.zeros(len(names)), np.ones(len(names))
    for position, name in enumerate(names):
        values = as_numbers(sampled[name], "features.numbers").drop_nulls().drop_nans().to_numpy()
        values = values[np.abs(values) < LARGEST]
        if len(values):
            # fsum is exact, so the result does not depend on the order of the rows.
            mean_M[position] = mean = math.fsum(values) / len(values)
            variance = math.fsum((values - mean) ** 2) / len(values)
            deviation_M[position] = math.sqrt(variance) or 1.0
    scales = Scales(tuple(names), mean_M, deviation_M)
    return FeatureEncoder(vocabularies, scales, config.features.recent)


def sample(rows: pl.LazyFrame, at_most: int) -> pl.DataFrame:
    """Returns a sample of about `at_most` rows.

    Taking every n-th row could always pick the same position in a request.
    """
    count = rows.select(pl.len()).collect(engine="streaming").item()
    if count > at_most:
        scattered = pl.col(ROW).cast(pl.UInt64) * SCATTER % 2**32
        chosen = scattered < at_most / count * 2**32
        rows = rows.with_row_index(ROW).filter(chosen).drop(ROW)
    return rows.collect(engine="streaming")


def as_numbers(values: pl.Series, setting: str) -> pl.Series:
    """Returns the values as float64; raises ConfigError, with the setting, for other values."""
    try:
        return values.cast(pl.Float64)
    except PolarsError:
        texts = values.cast(pl.String).drop_nulls()
        wrong = texts.filter(texts.cast(pl.Float64, strict=False).is_null())
        raise ConfigError(
            f"{setting}: {values.name} must hold numbers, but {len(wrong):,} values are not, "
            f"such as {wrong.head(1).to_list()!r:.80}; correct them, or leave the cells empty"
        ) from None
