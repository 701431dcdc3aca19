"""A log prepared in one process, in several or on Ray has the same bytes and the same errors."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from larr import artifacts
from larr.config import ClusterConfig, Config
from larr.data.chunks import mapping
from larr.data.prepare import prepare
from tests.own_tables import own_config, write_own

ROWS, PLACES, USERS, REQUEST = 400, 20, 30, 4
ENGINES = ["cluster.workers=2"]


def log() -> pl.DataFrame:
    """Five days of impressions with weights, bad rows and bad values; users are dealt in turn."""
    row, request = pl.int_range(ROWS), pl.int_range(ROWS) // REQUEST
    return pl.select(
        request_id=request,
        user_id=pl.when(row % 150 == 5).then(9_999).otherwise(request * 7 % USERS),
        poi_id=pl.format("p{}", (row * 11 + request) % PLACES),
        time=pl.datetime(2024, 4, 1, 12) + pl.duration(minutes=request * 70),
        click=(row * 13 + request) % 5 == 0,
        order=(row * 13 + request) % 10 == 0,
        weight=1.0 + row % 3,
        temperature_c=pl.when(row % 50 == 7)
        .then(pl.lit("hot"))
        .otherwise((row % 40).cast(pl.String)),
    )


def configured(folder: Path, impressions: pl.DataFrame, *settings: str) -> Config:
    folder.mkdir()
    tables = {
        "places": pl.select(id=pl.format("p{}", pl.int_range(PLACES))).with_columns(title="id"),
        "users": pl.select(user_id=pl.int_range(USERS)),
    }
    overrides = write_own(folder, impressions=impressions, **tables)
    numbers = ['features.numbers=["temperature_c"]', 'features.candidate_columns=["temperature_c"]']
    overrides += [*numbers, *settings, "dataset.chunk_rows=100"]
    return own_config(folder, overrides)


def files(config: Config) -> dict[str, str]:
    """The hash of each file of `prepare/`."""
    recorded = artifacts.manifest(artifacts.folder(config, "prepare")) or {}
    return {name: file["sha256"] for name, file in recorded["files"].items()}


@pytest.mark.parametrize("engine", ENGINES)
def test_every_engine_writes_the_same_bytes(tmp_path: Path, engine: str) -> None:
    settings = ["dataset.split_by=user_id", "features.within_request=true"]
    alone = configured(tmp_path / "alone", log(), *settings)
    prepare(alone)
    other = configured(tmp_path / "other", log(), *settings, engine)
    prepare(other)
    expected = files(alone)
    assert files(other) == expected
    assert {"held_back/0/train/weights.npy", "rejected/impressions-00003.parquet"} <= {*expected}
    assert not (tmp_path / "other" / "out" / "prepare" / "shared").exists()
    same = other.model_copy(update={"cluster": alone.cluster})
    assert artifacts.stage(same, "prepare").is_current()


def add(numbers: pl.DataFrame, chunk: int) -> int:
    return int(numbers["number"][chunk]) + 1


def test_results_come_in_the_order_of_the_chunks(tmp_path: Path) -> None:
    numbers = pl.DataFrame({"number": range(30)})
    with mapping(ClusterConfig(workers=2), tmp_path / "shared") as mapped:
        assert list(mapped(add, numbers, iter(range(30)))) == list(range(1, 31))
        assert list(mapped(add, numbers.reverse(), range(3))) == [30, 29, 28]
