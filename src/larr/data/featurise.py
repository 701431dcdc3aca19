"""Rows as a client sends them -> the batch that the rankers read, by what `larr prepare` kept."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import polars as pl
import torch

from larr.config import Config
from larr.data import features
from larr.data.batches import Batch
from larr.data.enrich import KNOWN, Known
from larr.data.keywords import MISSING, render
from larr.data.time_columns import with_time_columns


@dataclass(frozen=True)
class Featuriser:
    """What turns rows of the day after the training days into what they would be in the log."""

    config: Config
    known: Known
    encoder: features.FeatureEncoder
    texts: dict[str, pl.DataFrame]
    """For each scene keyword its texts and their numbers."""
    tasks: int

    @classmethod
    def load(cls, config: Config, data: Path) -> Self:
        """Reads the folder that `larr prepare` wrote."""
        table = pl.read_parquet(data / "texts.parquet")
        return cls(
            config,
            Known.load(config, data / KNOWN),
            features.load(config, data / "vocabularies"),
            {
                keyword.name: table.filter(pl.col("keyword") == keyword.name)
                for keyword in config.scene_keywords
            },
            len(features.read_features(data).tasks),
        )

    def batch(self, rows: pl.DataFrame) -> Batch:
        """The batch of some rows with the columns of the contract's impressions.

        A text that `larr embed` has not seen is missing; labels and keys are zeros.
        """
        full = self.known.with_recent(self.known.enrich(with_time_columns(rows)))
        arrays = [
            self.encoder.categories(full),
            self.encoder.numbers(full),
            self.encoder.recent_places(full),
            self._texts(full),
            np.zeros((rows.height, self.tasks), np.uint8),
            np.zeros((rows.height, 2), np.int32),
        ]
        return Batch(*map(torch.from_numpy, arrays))

    def _texts(self, rows: pl.DataFrame) -> np.ndarray:
        columns = []
        for keyword in self.config.scene_keywords:
            table = self.texts[keyword.name]
            rendered = render(rows, keyword)
            numbers = rendered.replace_strict(
                table["text"], table["text_id"], default=MISSING, return_dtype=pl.Int32
            )
            columns.append(numbers.fill_null(MISSING).to_numpy())
        return np.stack(columns, axis=1) if columns else np.zeros((rows.height, 0), np.int32)
