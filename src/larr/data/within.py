"""Compares each candidate with the others of its request: ranks and differences of numbers.

Shapes: N rows of complete requests, W numbers, G figures.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl

from larr.data.transforms import Array

CANDIDATES = "request_candidates"


def within_names(names: Sequence[str]) -> list[str]:
    """Returns the names of the figures for some numbers."""
    figures = [f"{name}_{figure}" for figure in ("rank", "difference") for name in names]
    return [*figures, CANDIDATES] if names else []


def within_request(number_NW: Array, request_N: Array) -> Array:
    """Returns rank, difference from the mean, and number of candidates, [N, 2 W + 1].

    The rank is the share of other candidates with a smaller number; equal ones count half. Missing
    numbers are NaN. `request_N` numbers the requests from 0 without gaps.
    """
    count_R = np.bincount(request_N)
    figures = np.full((len(number_NW), 2 * number_NW.shape[1] + 1), np.nan)
    figures[:, -1] = count_R[request_N]
    for position, number_N in enumerate(number_NW.T):
        known_N = np.flatnonzero(np.isfinite(number_N))
        request, number = request_N[known_N], number_N[known_N]
        # bincount sums in row order, so a request has the same sum in any table.
        count = np.bincount(request, minlength=len(count_R))[request]
        mean = np.bincount(request, number, minlength=len(count_R))[request] / count
        order = np.lexsort((number, request))
        in_order, sorted_N = request[order], number[order]
        starts = np.diff(in_order, prepend=-1) > 0
        ties = starts | (np.diff(sorted_N, prepend=np.nan) != 0)
        tie, first = np.cumsum(ties) - 1, np.flatnonzero(starts)[np.cumsum(starts) - 1]
        place = np.flatnonzero(ties)[tie] + (np.bincount(tie)[tie] - 1) / 2 - first
        with np.errstate(invalid="ignore"):  # a single candidate has no rank
            figures[known_N[order], position] = place / (count[order] - 1)
        figures[known_N, number_NW.shape[1] + position] = number - mean
    return figures


def request_numbers(rows: pl.DataFrame) -> Array:
    """Returns the number of each row's request, from 0 without gaps, int64 [N]."""
    return rows["request_id"].rank("dense").to_numpy().astype(np.int64) - 1


def with_figures(rows: pl.DataFrame, names: Sequence[str]) -> pl.DataFrame:
    """Adds the figures of the numbers `names` to rows of complete requests."""
    if not names:
        return rows
    request_N = request_numbers(rows)
    number_NW = np.stack([rows[name].cast(pl.Float64).to_numpy() for name in names], axis=1)
    figures = within_request(number_NW, request_N).T
    return rows.with_columns(map(pl.Series, within_names(names), figures))


def add_figures(files: list[Path], names: Sequence[str]) -> None:
    """Adds the figures to files among which requests may be divided.

    One file at a time is in memory, with the rows of its requests in other files.
    """
    columns, path = ["request_id", *names], "path of the file"
    rows = pl.scan_parquet(files, include_file_paths=path).select(*columns, path)
    parts = rows.group_by("request_id").agg(pl.col(path).n_unique())
    divided = parts.filter(pl.col(path) > 1).select("request_id")
    elsewhere = rows.join(divided, on="request_id", how="semi").collect(engine="streaming")
    for file in files:
        own = pl.read_parquet(file)
        others = elsewhere.filter(pl.col(path) != str(file)).select(columns)
        others = others.join(own, on="request_id", how="semi")
        complete = with_figures(pl.concat([own.select(columns), others]), names)
        figures = complete.head(own.height).select(within_names(names))
        pl.concat([own, figures], how="horizontal").write_parquet(file)
