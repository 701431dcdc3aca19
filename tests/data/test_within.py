"""Figures within requests equal those of a naive twin, also if files divide a request."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from larr.data.within import add_figures, with_figures, within_names

NAMES = ["price", "ctr"]


@pytest.fixture(scope="module")
def rows() -> pl.DataFrame:
    """Requests of one to many candidates, with ties and missing numbers."""
    random, prices = np.random.default_rng(0), [1.0, 2.0, 3.0, None, np.nan]
    return pl.DataFrame(
        {
            "request_id": [f"r{number}" for number in random.integers(0, 60, 300)],
            "price": [prices[number] for number in random.integers(0, 5, 300)],
            "ctr": random.random(300),
        }
    )


def naive(values: list[float | None], value: float | None) -> tuple[float, float]:
    """Returns the rank of a value within its request, and its difference from the mean."""
    known = [v for v in values if v is not None and np.isfinite(v)]
    if value not in known:
        return np.nan, np.nan
    smaller = sum(v < value for v in known) + (sum(v == value for v in known) - 1) / 2
    rank = smaller / (len(known) - 1) if len(known) > 1 else np.nan
    return rank, value - sum(known) / len(known)


def test_figures_equal_a_naive_twin(rows: pl.DataFrame) -> None:
    figures = with_figures(rows, NAMES).select(within_names(NAMES))
    for row, of_row in zip(rows.to_dicts(), figures.to_dicts(), strict=True):
        request = rows.filter(request_id=row["request_id"])
        for name in NAMES:
            rank, difference = naive(request[name].to_list(), row[name])
            assert of_row[f"{name}_rank"] == pytest.approx(rank, nan_ok=True)
            assert of_row[f"{name}_difference"] == pytest.approx(difference, nan_ok=True)
        assert of_row["request_candidates"] == request.height


def test_a_request_that_is_divided_among_files_is_complete(
    rows: pl.DataFrame, tmp_path: Path
) -> None:
    expected, files = with_figures(rows, NAMES), []
    for number, part in enumerate((rows[:120], rows[120:121], rows[121:])):
        files.append(tmp_path / f"{number}.parquet")
        part.write_parquet(files[-1])
    add_figures(files, NAMES)
    written = pl.concat([pl.read_parquet(file) for file in files])
    for name in expected.columns[1:]:
        assert np.allclose(written[name], expected[name], equal_nan=True), name
