"""Rows as a client sends them -> the batch that the rankers read, by what `larr prepare` kept."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import polars as pl
import torch

from larr.config import Config
from larr.data.batches import Batch
from larr.data.features import FeatureEncoder, read_features
from larr.data.keywords import TextNumbers
from larr.data.known import KNOWN, Known
from larr.data.time_columns import with_time_columns
from larr.data.transforms import Template


@dataclass(frozen=True)
class Featuriser:
    """Turns rows of the day after the training days into the arrays that they would have had."""

    known: Known
    encoder: FeatureEncoder
    templates: list[Template]
    texts: TextNumbers
    tasks: int

    @classmethod
    def load(cls, config: Config, data: Path) -> Self:
        """Reads the folder that `larr prepare` wrote."""
        return cls(
            Known.load(config, data / KNOWN),
            FeatureEncoder.load(config, data / "vocabularies"),
            [Template(keyword) for keyword in config.scene_keywords],
            TextNumbers(pl.read_parquet(data / "texts.parquet")),
            len(read_features(data).tasks),
        )

    def batch(self, rows: pl.DataFrame) -> Batch:
        """Returns the batch of rows that have the columns of the contract's impressions.

        A text that `larr embed` has not seen is missing; labels and keys are zeros.
        """
        rows = self.known.with_recent(self.known.enrich(with_time_columns(rows)))
        text_NR = np.zeros((rows.height, len(self.templates)), np.int32)
        for slot, template in enumerate(self.templates):
            text_NR[:, slot] = self.texts.column(template.column(rows))
        arrays = self.encoder.arrays(rows) | {
            "texts": text_NR,
            "labels": np.zeros((rows.height, self.tasks), np.uint8),
            "keys": np.zeros((rows.height, 2), np.int32),
        }
        return Batch(**{name: torch.from_numpy(array) for name, array in arrays.items()})
