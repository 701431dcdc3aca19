"""Enriched rows: the columns from which arrays are built, one file per chunk of a split."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl

from larr.data.chunks import ParallelMap
from larr.data.columns import IMPRESSIONS
from larr.data.enricher import Enricher
from larr.data.log import SPLITS
from larr.data.names import INTERNAL, ROWS, compared_numbers, row_numbers
from larr.data.rendering import distinct_rows, rendered
from larr.data.transforms import MISSING, Template, TextIds, Vocabulary
from larr.data.within import add_figures
from larr.progress import track

TEXT = INTERNAL + "text {}"
"""The column of a keyword's text numbers; the prefix avoids collisions with features."""
LOG_ROW = f"{INTERNAL}row of the log"


@dataclass(frozen=True)
class Part:
    """The rows of a split in one file of the log."""

    source: Path
    split: str
    first: int
    """The number of rows of the split in earlier files."""
    rows: int
    file: Path
    """The enriched rows; the columns `TEXT` hold text numbers local to this file, or MISSING."""

    @property
    def texts(self) -> Path:
        """The file that maps local to global text numbers; MISSING, -1, is its last entry."""
        return self.file.with_suffix(".npy")


def write_enriched(
    pmap: ParallelMap,
    enricher: Enricher,
    texts: TextIds,
    evaluated: list[str],
    folder: Path,
    beside: str | None = None,
) -> list[Part]:
    """Writes `folder/enriched/` and adds to `texts`; returns the parts of the log.

    With `beside`, also writes the texts of unclicked places that competed with an order, for
    stage 2.
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
    train = log.training()
    # By the number of training rows of a user or place, `evaluate` reports on cold ones.
    occurrences = {
        key: train.group_by(key).agg(pl.len().alias(name)).collect(engine="streaming")
        for key, name in zip(("user_id", "poi_id"), IMPRESSIONS, strict=True)
    }
    orders = train.filter(pl.col("order")).select(beside or "request_id").unique()
    ordered = orders.collect(engine="streaming")
    weight = ["weight"] if "weight" in log.scan().collect_schema() else []
    names = [*evaluated, *ROWS.values(), "click", "order", *weight, *row_numbers(config)]
    write = partial(_write, enricher, list(dict.fromkeys(names)), occurrences, beside, ordered)
    with track("statistics and texts", sum(part.rows for part in parts), "rows") as advance:
        for part, new in zip(parts, pmap(write, parts), strict=True):
            np.save(part.texts, np.concatenate([*map(texts.add, new), [MISSING]], dtype=np.int32))
            advance(part.rows)
    if compared := compared_numbers(config):
        add_figures([part.file for part in parts], compared)
    return parts


def scan(parts: list[Part], split: str) -> pl.LazyFrame:
    """Returns the enriched rows of a split, lazily."""
    files = [part.file for part in parts if part.split == split]
    return pl.scan_parquet(files) if files else pl.scan_parquet(parts[0].file).clear()


def _write(
    enricher: Enricher,
    names: list[str],
    occurrences: dict[str, pl.DataFrame],
    beside: str | None,
    ordered: pl.DataFrame,
    part: Part,
) -> list[pl.Series]:
    """Writes the columns `names` of the enriched rows of a part.

    Returns the distinct texts of each keyword, which are numbered from 0, keyword by keyword. For
    the other arguments see `write_enriched`.
    """
    config, owned = enricher.config, enricher.owned
    rows = enricher.enrich(enricher.log.rows(part.source, part.split))
    if part.split == "train" and beside:
        left = rows.with_row_index(LOG_ROW, part.first).filter(~pl.col("click"))
        left = left.join(ordered, on=beside, how="semi", maintain_order="left")
        keys = {"beside": beside, "poi_id": "poi_id", "log_row": LOG_ROW}
        place_keywords = [keyword for keyword in config.keywords if keyword.owner == "poi"]
        left = rendered(place_keywords, left, keys, owned)
        left.write_parquet(part.file.with_name(f"not_taken-{part.file.name}"))
    # Joins keep the order of the log, so the rows of all arrays and tables correspond.
    for key, counts in occurrences.items():
        rows = rows.join(counts, on=key, how="left", maintain_order="left")
    rows = rows.with_columns(pl.col(IMPRESSIONS).fill_null(0))
    texts: list[pl.Series] = []
    numbered = []
    for template in map(Template, config.scene_keywords):
        distinct, index_N = distinct_rows(template, rows, owned)
        column, first = template.column(distinct), sum(map(len, texts))
        texts.append(column.drop_nulls().unique(maintain_order=True))
        number_D = Vocabulary(texts[-1]).column(column)
        number_D = np.where(number_D > 0, number_D + first - 1, MISSING).astype(np.int32)
        numbered.append(pl.Series(TEXT.format(template.keyword.name), number_D[index_N]))
    rows.select(names).with_columns(numbered).write_parquet(part.file)
    return texts
