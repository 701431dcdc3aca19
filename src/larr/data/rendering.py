"""Renders the texts of rows, once for all rows of the same place or user on a day."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import polars as pl

from larr.config.data import KeywordConfig
from larr.data.enricher import ON_ITS_DAY
from larr.data.transforms import Array, Template


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
    """Returns rows that have all texts of a template, and the index of each row's text in these.

    If the template reads only a place or only a user, there is one row for each of them and day.
    """
    for row, columns in owned.items():
        if {*template.columns} <= {*columns}:
            number_N = rows[ON_ITS_DAY.format(row)].to_numpy()
            _, first, index_N = np.unique(number_N, return_index=True, return_inverse=True)
            return rows[first], index_N
    return rows, np.arange(rows.height)
