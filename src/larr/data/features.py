"""The features of a row: what `features.json` says of them, and the arrays that the rankers read.

Legend: N rows, F categories, M numbers, L recent places.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import polars as pl
from polars.exceptions import PolarsError
from pydantic import BaseModel, ConfigDict

from larr import artifacts
from larr.config import Config
from larr.data.contract import NEVER_FEATURES
from larr.data.values import text_column
from larr.errors import ConfigError

SAMPLE_ROWS = 1_000_000
ROW = "row of the sample"
SCATTER = 2_654_435_761
"""2^32 over the golden ratio: multiples of it are spread evenly, whatever their step."""
CLIP_DEVIATIONS = 5.0
NESTED = (pl.List, pl.Struct, pl.Array)
"""Kinds of columns that are no single value."""


class Category(BaseModel):
    """A categorical feature: `size` counts index 0, the unknown value."""

    model_config = ConfigDict(frozen=True)
    name: str
    size: int
    side: Literal["user", "poi", "scene"]


class ColumnSplit(NamedTuple):
    """The positions of features, by what their values depend on."""

    place: tuple[int, ...]
    """The place alone, whoever asks."""
    request: tuple[int, ...]
    """The user and the scene, the same for all candidates of a request."""
    candidate: tuple[int, ...]
    """The request and the candidate, such as its distance."""


class Features(BaseModel):
    """What the arrays of the log hold (`features.json`)."""

    model_config = ConfigDict(frozen=True)
    dataset: str
    tasks: tuple[Literal["click", "order"], ...]
    categories: tuple[Category, ...]
    numbers: tuple[str, ...]
    recent: int
    scene_keywords: tuple[str, ...]
    train_rows: int
    test_rows: int
    sampling_rate: float = 1.0
    candidate_features: tuple[str, ...] = ()
    """Categories and numbers that differ between the candidates of a request."""

    def split(self, names: Sequence[str]) -> ColumnSplit:
        """Returns the split of some features by their positions in `names`."""
        places = [n for n, name in enumerate(names) if name.startswith("poi_")]
        candidate = [n for n, name in enumerate(names) if name in self.candidate_features]
        request = [n for n in range(len(names)) if n not in (*places, *candidate)]
        return ColumnSplit(tuple(places), tuple(request), tuple(candidate))


def read_features(data: Path) -> Features:
    """Returns the content of `features.json` in the folder that `larr prepare` wrote."""
    return Features.model_validate(artifacts.read_json(data / "features.json"))


@dataclass(frozen=True)
class FeatureEncoder:
    """Vocabularies and scales, fitted on the training days alone."""

    vocabularies: dict[str, pl.Series]
    scales: dict[str, tuple[float, float]]
    recent: int

    def categories(self, frame: pl.DataFrame) -> np.ndarray:
        """The index of each category in its vocabulary, int32 [N, F]; 0 for unknown or missing."""
        columns = [
            index(frame.select(text_column(name, frame.schema[name])).to_series(), values)
            for name, values in self.vocabularies.items()
        ]
        return np.stack(columns, axis=1) if columns else np.zeros((frame.height, 0), np.int32)

    def numbers(self, frame: pl.DataFrame) -> np.ndarray:
        """Standardised numbers, float32 [N, M]; a missing one is 0, the training mean."""
        columns = []
        for name, (mean, deviation) in self.scales.items():
            value = frame[name].cast(pl.Float64).to_numpy()
            scaled = np.nan_to_num((value - mean) / deviation, posinf=0.0, neginf=0.0)
            columns.append(np.clip(scaled, -CLIP_DEVIATIONS, CLIP_DEVIATIONS))
        stacked = np.stack(columns, axis=1) if columns else np.zeros((frame.height, 0))
        return stacked.astype(np.float32)

    def recent_places(self, frame: pl.DataFrame) -> np.ndarray:
        """Vocabulary indices of the recent places, int32 [N, L], 0 where there is none."""
        places = [
            index(frame["recent"].list.get(i, null_on_oob=True), self.vocabularies["poi_id"])
            for i in range(self.recent)
        ]
        return np.stack(places, axis=1) if places else np.zeros((frame.height, 0), np.int32)


def index(values: pl.Series, vocabulary: pl.Series) -> np.ndarray:
    """The number of each value in a vocabulary, counted from 1; 0 if it is not there."""
    numbers = pl.int_range(1, len(vocabulary) + 1, dtype=pl.Int32, eager=True)
    coded = values.replace_strict(vocabulary, numbers, default=0, return_dtype=pl.Int32)
    return coded.fill_null(0).to_numpy()


def check_features(config: Config, columns: pl.Schema) -> None:
    """Raises ConfigError for a feature that is not there, is no value or says what happened."""
    for kind in ("categories", "numbers"):
        for name in getattr(config.features, kind):
            if name in NEVER_FEATURES:
                raise ConfigError(
                    f"features.{kind}: {name} says what happened and may not be a feature"
                )
            if name not in columns:
                raise ConfigError(
                    f"features.{kind}: no column {name}; there are {', '.join(sorted(columns))}"
                )
            if isinstance(columns[name], NESTED):
                raise ConfigError(
                    f"features.{kind}: {name} holds {columns[name]}; give a column of single values"
                )
    known = [keyword.name for keyword in config.scene_keywords if keyword.owner == "poi"]
    if config.features.recent_keyword and config.features.recent_keyword not in known:
        raise ConfigError(
            f"features.recent_keyword: {config.features.recent_keyword} is no scene keyword of a "
            f"place; there are {', '.join(known)}"
        )
    if config.features.recent and "poi_id" not in config.features.categories:
        raise ConfigError("features.recent needs poi_id among features.categories")


def fit(config: Config, train: pl.LazyFrame) -> FeatureEncoder:
    """Fits vocabularies on all training rows, scales on a sample of them."""
    schema = train.collect_schema()
    vocabularies = {
        name: train.select(text_column(name, schema[name]))
        .drop_nulls()
        .unique()
        .collect(engine="streaming")
        .to_series()
        .sort()
        for name in config.features.categories
    }
    sampled = sample(train.select(config.features.numbers), SAMPLE_ROWS)
    scales = {
        name: _scale(as_numbers(sampled[name], "features.numbers"))
        for name in config.features.numbers
    }
    return FeatureEncoder(vocabularies, scales, config.features.recent)


def as_numbers(values: pl.Series, where: str) -> pl.Series:
    """The values as float64; ConfigError if they are no numbers."""
    try:
        return values.cast(pl.Float64)
    except PolarsError:
        raise ConfigError(
            f"{where}: {values.name} is expected to hold numbers, it has {values.dtype} such as "
            f"{values.drop_nulls().head(1).to_list()!r:.80}"
        ) from None


def sample(rows: pl.LazyFrame, at_most: int) -> pl.DataFrame:
    """About so many rows, scattered: rows in step would be the same position of every request."""
    count = int(rows.select(pl.len()).collect(engine="streaming").item())
    if count > at_most:
        scattered = pl.col(ROW).cast(pl.UInt64) * SCATTER % 2**32
        chosen = scattered < at_most / count * 2**32
        rows = rows.with_row_index(ROW).filter(chosen).drop(ROW)
    return rows.collect(engine="streaming")


def _scale(values: pl.Series) -> tuple[float, float]:
    finite = values.drop_nulls().drop_nans().to_numpy()
    if len(finite) == 0:
        return 0.0, 1.0
    mean = math.fsum(finite) / len(finite)  # exact, so that no order of summing shows
    deviation = math.sqrt(math.fsum((finite - mean) ** 2) / len(finite))
    return mean, deviation or 1.0


def save(encoder: FeatureEncoder, folder: Path) -> None:
    """Writes each vocabulary and the scales, for serving."""
    folder.mkdir(exist_ok=True)
    for name, values in encoder.vocabularies.items():
        pl.DataFrame({"value": values}).write_parquet(folder / f"{name}.parquet")
    scales = [(name, *scale) for name, scale in encoder.scales.items()]
    pl.DataFrame(scales, schema=["name", "mean", "deviation"], orient="row").write_parquet(
        folder / "scales.parquet"
    )


def load(config: Config, folder: Path) -> FeatureEncoder:
    """Reads what `save` wrote."""
    vocabularies = {
        name: pl.read_parquet(folder / f"{name}.parquet")["value"]
        for name in config.features.categories
    }
    scales = pl.read_parquet(folder / "scales.parquet").rows()
    return FeatureEncoder(
        vocabularies,
        {name: (mean, deviation) for name, mean, deviation in scales},
        config.features.recent,
    )
