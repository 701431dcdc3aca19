"""Encodes the enriched rows of each split as arrays for rankers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from larr import artifacts
from larr.data.chunks import ParallelMap
from larr.data.enriched import TEXT, Part
from larr.data.enricher import Enricher
from larr.data.features import FeatureEncoder
from larr.data.log import SPLITS
from larr.data.names import PLACE, ROWS, USER
from larr.data.statistics import RecentPlaces
from larr.data.transforms import Array
from larr.progress import track


def write_arrays(
    pmap: ParallelMap, enricher: Enricher, encoder: FeatureEncoder, parts: list[Part], folder: Path
) -> dict[str, int]:
    """Writes the arrays of each split to its folder; returns their numbers of rows."""
    log, mean_weight = enricher.log, None
    if "weight" in log.scan().collect_schema():
        weights = log.training().select(pl.col("weight").mean())
        mean_weight = weights.collect(engine="streaming").item()
    encoding = _Encoding(
        encoder,
        enricher.recent,
        np.insert(encoder.places.column(log.places["poi_id"]), 0, 0),
        {
            name: (ROWS[key], np.insert(words.column(table[name]), 0, 0))
            for key, table in (("user_id", log.users), ("poi_id", log.places))
            for name, words in encoder.vocabularies.items()
            if name in table.columns
        },
        [TEXT.format(keyword.name) for keyword in enricher.config.scene_keywords],
        log.tasks,
        mean_weight,
        folder,
    )
    counts = {s: sum(part.rows for part in parts if part.split == s) for s in SPLITS}
    for split, rows in counts.items():
        (folder / split).mkdir()
        for name, values in encoding.arrays(parts[0], rows=0).items():
            shape = (rows, values.shape[1])
            artifacts.new_array(folder / split / f"{name}.npy", values.dtype, shape)
    with track("arrays", sum(counts.values()), "rows") as advance:
        for rows in pmap(encoding.write, parts):
            advance(rows)
    return counts


@dataclass(frozen=True)
class _Encoding:
    """Shared data for encoding parts."""

    encoder: FeatureEncoder
    recent: RecentPlaces
    place_P: Array
    """The category index of each place."""
    indices: dict[str, tuple[str, Array]]
    """For each category of users or places, the column of row numbers, and the index of each row:
    values are looked up once per user or place."""
    texts: list[str]
    tasks: Sequence[str]
    mean_weight: float | None
    """The mean weight of the training rows, or None in a log without weights."""
    folder: Path

    def write(self, part: Part) -> int:
        """Writes the rows of a part into the arrays; returns their number."""
        for name, values in self.arrays(part).items():
            artifacts.write_rows(self.folder / part.split / f"{name}.npy", part.first, values)
        return part.rows

    def arrays(self, part: Part, rows: int | None = None) -> dict[str, Array]:
        """Returns the arrays of a part, or of its first rows."""
        table = pl.read_parquet(part.file, n_rows=rows)
        days = table.select(pl.col("time").dt.epoch("d")).to_numpy().astype(np.int32)
        known = {name: index[table[row].to_numpy()] for name, (row, index) in self.indices.items()}
        text_NR = table.select(self.texts).to_numpy().reshape(table.height, len(self.texts))
        arrays = self.encoder.arrays(table, known) | {
            "recent": self.place_P[self.recent.as_of(table[USER].to_numpy(), days[:, 0])],
            "texts": np.load(part.texts)[text_NR],
            "days": days,
            "labels": table.select(self.tasks).to_numpy().astype(np.uint8),
            "keys": table.select(USER, PLACE).to_numpy().astype(np.int32),
            "requests": table.select(pl.col("request_id").hash()).to_numpy().view(np.int64),
        }
        if self.mean_weight:
            weight_N1 = table.select("weight").to_numpy() / self.mean_weight
            arrays["weights"] = weight_N1.astype(np.float32)
        return arrays
