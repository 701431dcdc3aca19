"""All engines (one process, a pool, Ray) write the same bytes and raise the same errors."""

from __future__ import annotations

import sys
import time
from functools import partial
from pathlib import Path
from typing import Literal

import polars as pl
import pytest

from larr import artifacts
from larr.config import ClusterConfig, Config
from larr.data import folds
from larr.data.chunks import parallel_map
from larr.data.prepare import prepare
from larr.errors import ConfigError, DataError
from tests.own_tables import own_config, write_own

ROWS, PLACES, USERS, REQUEST = 400, 20, 30, 4
ENGINES = ["cluster.workers=2", "cluster={engine='ray', workers=2}"]


def log() -> pl.DataFrame:
    """Five days of impressions with weights, invalid rows and invalid values; users alternate."""
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
    """Returns the hash of each file in `prepare/`."""
    recorded = artifacts.manifest(artifacts.folder(config, "prepare")) or {}
    return {name: file["sha256"] for name, file in recorded["files"].items()}


@pytest.mark.parametrize("engine", ENGINES)
def test_every_engine_writes_the_same_bytes(
    tmp_path: Path, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folds, "ENOUGH_ROWS", 1)  # one part is held back
    settings = ["dataset.split_by=user_id", "features.within_request=true"]
    alone = configured(tmp_path / "alone", log(), *settings)
    prepare(alone)
    other = configured(tmp_path / "other", log(), *settings, engine)
    prepare(other)
    expected = files(alone)
    assert files(other) == expected
    assert {"held_back/0/train/weights.npy", "rejected/impressions-00001.parquet"} <= {*expected}
    assert not (tmp_path / "other" / "out" / "prepare" / "shared").exists()
    same = other.model_copy(update={"cluster": alone.cluster})
    assert artifacts.stage(same, "prepare").is_current()


def test_every_engine_raises_the_same_error(tmp_path: Path) -> None:
    """The fourth chunk has an ID as spreadsheets write large numbers."""
    request = pl.when(pl.int_range(ROWS) == 350).then(pl.lit("1.23E+17")).otherwise("request_id")
    rounded = log().with_columns(request_id=request)
    messages = []
    for name, workers in (("alone", 1), ("other", 2)):
        config = configured(tmp_path / name, rounded, f"cluster.workers={workers}")
        with pytest.raises(DataError) as raised:
            prepare(config)
        messages.append(str(raised.value))
    assert "request_id holds floats, such as 1.23E+17" in messages[0]
    assert messages[0] == messages[1]


@pytest.mark.parametrize("engine", ["local", pytest.param("ray", marks=pytest.mark.slow)])
def test_results_keep_the_order_of_chunks_and_errors_their_type(
    tmp_path: Path, engine: Literal["local", "ray"]
) -> None:
    cluster, numbers = ClusterConfig(engine=engine, workers=2), pl.DataFrame({"n": range(9)})
    with parallel_map(cluster, tmp_path / "shared") as pmap:
        assert list(pmap(partial(looked_up, numbers), range(9))) == [*range(9)]
        assert list(pmap(partial(looked_up, numbers.reverse()), iter(range(3)))) == [8, 7, 6]
        with pytest.raises(DataError, match=r"^chunk 3 is bad$"):
            list(pmap(refused, range(9)))


def looked_up(numbers: pl.DataFrame, chunk: int) -> int:
    time.sleep(0.01 * (chunk % 2))
    return int(numbers["n"][chunk])


def refused(chunk: int) -> None:
    if chunk == 3:
        raise DataError("chunk 3 is bad")


def test_engine_ray_requires_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with (
        pytest.raises(ConfigError, match=r"pip install 'larr\[ray\]'"),
        parallel_map(ClusterConfig(engine="ray"), tmp_path / "shared"),
    ):
        pass
