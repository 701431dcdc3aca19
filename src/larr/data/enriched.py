"""Enriched rows: the columns that arrays are built from, in a file for each chunk of a split."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from larr.data.chunks import Mapped
from larr.data.columns import IMPRESSIONS
from larr.data.known import Enricher
from larr.data.log import SPLITS
from larr.data.names import INTERNAL, ROWS, compared_numbers, row_numbers
from larr.data.rendering import distinct_rows, rendered
from larr.data.transforms import Template, TextNumbers
from larr.data.within import add_figures
from larr.progress import track

TEXT = INTERNAL + "text {}"
"""The column of a keyword's text numbers; a keyword may be named as a feature is."""
LOG_ROW = f"{INTERNAL}row of the log"


@dataclass(frozen=True)
class Part:
    """The rows of a split in one file of the log."""

    source: Path
    split: str
    first: int
    """How many rows of the split are in earlier files."""
    rows: int
    file: Path
    """The enriched rows; the columns `TEXT` number the distinct texts of these rows alone."""

    @property
    def texts(self) -> Path:
        """The file with the numbers of these texts among all."""
        return self.file.with_suffix(".npy")


def write_enriched(
    mapped: Mapped,
    enricher: Enricher,
    texts: TextNumbers,
    evaluated: list[str],
    folder: Path,
    beside: str | None = None,
) -> list[Part]:
    """Writes `folder/enriched/`, and numbers texts; returns the parts of the log.

    With `beside`, writes also the texts of places that were shown beside an order and not clicked,
    for stage 2.
    """
    config, log = enricher.config, enricher.log
    (folder / "enriched").mkdir()
    parts: list[Part] = []
    for split in SPLITS:
        first = 0
        for source, rows in log.counts(split):
            file = folder / "enriched" / f"{split}-{len(parts):05}.parquet"
            parts.append(Part(source, split, first, rows, file))
            first += rows
    train = log.scan().filter(pl.col("split") == "train")
    # How often a user or place occurs in training; evaluate reports newcomers by it.
    occurrences = {
        key: train.group_by(key).agg(pl.len().alias(name)).collect(engine="streaming")
        for key, name in zip(("user_id", "poi_id"), IMPRESSIONS, strict=True)
    }
    orders = train.filter(pl.col("order")).select(beside or "request_id").unique()
    ordered = orders.collect(engine="streaming")
    weight = ["weight"] if "weight" in log.scan().collect_schema() else []
    names = [*evaluated, *ROWS.values(), "click", "order", *weight, *row_numbers(config)]
    enriching = _Enriching(enricher, list(dict.fromkeys(names)), occurrences, beside, ordered)
    with track("statistics and texts", sum(part.rows for part in parts), "rows") as advance:
        for part, new in zip(parts, mapped(_Enriching.write, enriching, parts), strict=True):
            np.save(part.texts, texts.add_all(new))
            advance(part.rows)
    if compared := compared_numbers(config):
        add_figures([part.file for part in parts], compared)
    return parts


def scan(parts: list[Part], split: str) -> pl.LazyFrame:
    """Returns the enriched rows of a split, lazily."""
    return pl.scan_parquet([part.file for part in parts if part.split == split])


@dataclass(frozen=True)
class _Enriching:
    """What is needed to enrich any part."""

    enricher: Enricher
    names: list[str]
    """The columns that are kept."""
    occurrences: dict[str, pl.DataFrame]
    """How often each user and place occurs in training, by the column of their IDs."""
    beside: str | None
    ordered: pl.DataFrame
    """The values of `beside` with an order."""

    def write(self, part: Part) -> TextNumbers:
        """Writes the enriched rows of a part; returns the texts among them."""
        config, owned = self.enricher.config, self.enricher.owned
        rows = self.enricher.enrich(self.enricher.log.rows(part.source, part.split))
        if part.split == "train" and self.beside:
            left = rows.with_row_index(LOG_ROW, part.first).filter(~pl.col("click"))
            left = left.join(self.ordered, on=self.beside, how="semi", maintain_order="left")
            keys = {"beside": self.beside, "poi_id": "poi_id", "log_row": LOG_ROW}
            of_places = [keyword for keyword in config.keywords if keyword.owner == "poi"]
            left = rendered(of_places, left, keys, owned)
            left.write_parquet(part.file.with_name(f"not_taken-{part.file.name}"))
        # Joins keep the order of the log: the rows of all arrays and tables correspond.
        for key, counts in self.occurrences.items():
            rows = rows.join(counts, on=key, how="left", maintain_order="left")
        rows = rows.with_columns(pl.col(IMPRESSIONS).fill_null(0))
        texts, numbered = TextNumbers(), []
        for template in map(Template, config.scene_keywords):
            distinct, index_N = distinct_rows(template, rows, owned)
            number_N = texts.add(template.column(distinct))[index_N]
            numbered.append(pl.Series(TEXT.format(template.keyword.name), number_N))
        rows.select(self.names).with_columns(numbered).write_parquet(part.file)
        return texts
