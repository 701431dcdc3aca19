"""Texts of rows, each rendered once for all rows that have it for the same reason."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType

import numpy as np
import polars as pl

from larr.config.data import KeywordConfig
from larr.data.known import ON_ITS_DAY
from larr.data.transforms import Array, Template


def rendered(
    keywords: list[KeywordConfig],
    rows: pl.DataFrame,
    columns: dict[str, str],
    owned: Mapping[str, Collection[str]] = MappingProxyType({}),
) -> pl.DataFrame:
    """Returns columns of the rows under new names, `chain`, and their texts of the keywords."""
    chain = rows["poi_chain"] if "poi_chain" in rows.columns else pl.lit(None, pl.String)
    texts = []
    for template in map(Template, keywords):
        distinct, index_N = distinct_rows(template, rows, owned)
        texts.append(template.column(distinct)[index_N])
    return rows.select(chain.alias("chain"), *texts, **columns)


def distinct_rows(
    template: Template, rows: pl.DataFrame, owned: Mapping[str, Collection[str]]
) -> tuple[pl.DataFrame, Array]:
    """Returns rows with all texts of the template, in their order, and which of these each row has.

    What reads a place alone, or a user, is rendered once for all its rows of a day.
    """
    for row, columns in owned.items():
        if {*template.columns} <= {*columns}:
            number_N = rows[ON_ITS_DAY.format(row)].to_numpy()
            _, first, index_N = np.unique(number_N, return_index=True, return_inverse=True)
            order = np.argsort(first)
            return rows[first[order]], np.argsort(order)[index_N]
    return rows, np.arange(rows.height)
