"""Enriched rows: the columns and texts from which arrays are built, one file per chunk of a split.

A text is rendered once for all rows of the same place or user on a day.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl

from larr.config.data import KeywordConfig
from larr.data.chunks import ParallelMap
from larr.data.columns import IMPRESSIONS
from larr.data.enricher import ON_ITS_DAY, Enricher
from larr.data.log import SPLITS
from larr.data.names import INTERNAL, ROWS, compared_numbers, row_numbers
from larr.data.transforms import MISSING, Array, Template, TextIds
from larr.data.within import add_figures
from larr.progress import track

TEXT = INTERNAL + "text {}"
"""The column of a keyword's text IDs."""
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
    """The enriched rows; the columns `TEXT` hold text IDs of this file, or MISSING."""

    @property
    def texts(self) -> Path:
        """The file that maps its text IDs to those of all parts; its last entry is MISSING, -1."""
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

    With `beside`, also writes the texts of unclicked places shown beside an order, for stage 2:
    those with the value of an order in this column.
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
    orders = train.filter(pl.col("order")).select(beside).unique() if beside else None
    ordered = orders.collect(engine="streaming") if orders is not None else None
    weight = ["weight"] if "weight" in log.scan().collect_schema() else []
    names = [*evaluated, *ROWS.values(), "click", "order", *weight, *row_numbers(config)]
    write = partial(_write, enricher, list(dict.fromkeys(names)), occurrences, ordered)
    with track("statistics and texts", sum(part.rows for part in parts), "rows") as advance:
        for part, found in zip(parts, pmap(write, parts), strict=True):
            ids = [texts.add_value(keyword, text) for keyword, text in found]
            np.save(part.texts, np.array([*ids, MISSING], np.int32))
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
    ordered: pl.DataFrame | None,
    part: Part,
) -> list[tuple[str, str]]:
    """Writes the columns `names` of the enriched rows of a part; returns its texts by their IDs.

    For the other arguments see `write_enriched`.
    """
    config, owned = enricher.config, enricher.owned
    rows = enricher.enrich(enricher.log.rows(part.source, part.split))
    if part.split == "train" and ordered is not None:
        (beside,) = ordered.columns
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
    texts, columns = TextIds(), []
    for template in map(Template, config.scene_keywords):
        distinct, index_N = distinct_rows(template, rows, owned)
        id_D = texts.add(template.column(distinct))
        columns.append(pl.Series(TEXT.format(template.keyword.name), id_D[index_N]))
    rows.select(names).with_columns(columns).write_parquet(part.file)
    return list(texts)


def rendered(
    keywords: list[KeywordConfig],
    rows: pl.DataFrame,
    columns: dict[str, str],
    owned: Mapping[str, Collection[str]],
) -> pl.DataFrame:
    """Returns `columns` (new name -> column), `chain`, and the texts of the keywords."""
    chain = rows["poi_chain"] if "poi_chain" in rows.columns else pl.lit(None, pl.String)
    texts = []
    for template in map(Template, keywords):
        distinct, index_N = distinct_rows(template, rows, owned)
        texts.append(template.column(distinct)[index_N])
    return rows.select(chain.alias("chain"), *texts, **columns)


def distinct_rows(
    template: Template, rows: pl.DataFrame, owned: Mapping[str, Collection[str]]
) -> tuple[pl.DataFrame, Array]:
    """Returns rows that have all texts of a template, and the position of each row's text in them.

    If the template reads only a place or only a user, there is one row for each of them and day.
    """
    for row, columns in owned.items():
        if {*template.columns} <= {*columns}:
            number_N = rows[ON_ITS_DAY.format(row)].to_numpy()
            _, first, index_N = np.unique(number_N, return_index=True, return_inverse=True)
            return rows[first], index_N
    return rows, np.arange(rows.height)
