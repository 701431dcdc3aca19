"""Versions are complete or refused, replayed before serving, changed and rolled back."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from larr import artifacts
from larr.config import Config
from larr.data.prepare import prepare
from larr.errors import ConfigError, StaleError
from larr.rankers.predict import require_ranker
from larr.serve import publish as module
from larr.serve.live import Live, arm_position
from larr.serve.publish import publish as write
from larr.serve.store import GOLDEN, MANIFEST, READY, VERSIONS, Store, VersionError, check
from tests.data.test_prepare import with_tables
from tests.serving import Published, copy_graphs, run_of


@pytest.fixture(scope="module")
def published(publish: Callable[[str], Published]) -> Published:
    return publish("larr")


def test_a_version_is_self_contained(store: Store, served: Config) -> None:
    (manifest,) = store.versions()
    folder = store.folder / "versions" / manifest["version"]
    check(folder)
    assert manifest["model"] == served.align.models[0]
    assert not (folder / "prepare" / "train").exists()
    assert len(artifacts.read_json(folder / GOLDEN)) >= 20
    assert [path.name for path in (store.folder / "versions").iterdir()] == [manifest["version"]]


def test_the_same_run_gives_the_same_version(
    store: Store, served: Config, published: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = store.arms()[0].version
    assert write(store, served, served.align.models[0]) == first
    assert len(store.versions()) == 1
    (store.folder / VERSIONS / first / "ranker" / "larr" / "embeddings.npy").write_bytes(b"")
    copy_graphs(monkeypatch, published.store.folder / VERSIONS / first)
    again = write(store, served, served.align.models[0])
    store.load(again)


def test_simultaneous_changes_are_serialised(
    store: Store, second: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Store, "load", lambda *_: None)
    versions = [store.arms()[0].version, second]
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda n: Store(store.folder).activate(versions[n % 2]), range(40)))
    assert store.arms()[0].version in versions
    assert store.roll_back()[0].version in versions


def test_the_error_for_a_broken_version_names_it(store: Store, second: str) -> None:
    folder = store.folder / "versions" / second
    for name, message in ((READY, "version is incomplete"), (MANIFEST, "cannot be read")):
        content = (folder / name).read_bytes()
        (folder / name).unlink()
        with pytest.raises(VersionError, match=message):
            store.activate(second)
        (folder / name).write_bytes(content)
    weights = folder / "ranker" / "larr" / "embeddings.npy"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(VersionError, match=r"embeddings.npy has changed since"):
        store.activate(second)
    weights.unlink()
    with pytest.raises(VersionError, match=r"embeddings.npy is missing"):
        store.activate(second)
    assert store.arms()[0].version != second
    for name in ("nowhere", "../..", "../versions/" + second, ""):
        with pytest.raises(VersionError, match=r"has no version .*; it has "):
            store.activate(name)


def test_a_version_with_scores_unlike_the_evaluation_is_refused(
    store: Store, second: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    golden = artifacts.read_json(store.folder / "versions" / second / GOLDEN)
    for probabilities in golden[3]["probabilities"].values():
        probabilities[0] += 1e-3
    monkeypatch.setattr("larr.serve.store.read_golden", lambda _: golden)
    with pytest.raises(VersionError, match="golden request 3 returns"):
        store.activate(second)


def test_a_change_can_be_undone(store: Store, second: str) -> None:
    first = store.arms()
    with pytest.raises(VersionError, match="no previous version"):
        store.roll_back()
    store.activate(second)
    assert [arm.version for arm in store.arms()] == [second]
    store.activate(first[0].version, share=0.3)
    store.activate(first[0].version, share=0.3)  # changes nothing, so there is nothing to undo
    assert [arm.version for arm in store.roll_back()] == [second]
    assert store.roll_back() == store.arms() == first
    with pytest.raises(VersionError, match="no previous version"):
        store.roll_back()


def test_a_user_always_has_the_same_arm(store: Store, second: str) -> None:
    store.activate(second, share=0.3)
    live = Live(store)
    users = [f"u{number}" for number in range(2_000)]
    arms = [live.choose(user).arm.name for user in users]
    assert arms == [live.choose(user).arm.name for user in users]
    assert np.mean([arm == "B" for arm in arms]) == pytest.approx(0.3, abs=0.04)
    with pytest.raises(ConfigError, match="expected more than 0"):
        store.activate(second, share=0.0)
    with pytest.raises(VersionError, match="a test needs another current version"):
        store.activate(store.arms()[0].version, share=0.5)


def test_a_refused_version_changes_nothing(store: Store, second: str) -> None:
    live, first = Live(store), store.arms()
    store.activate(second)
    (store.folder / "versions" / second / READY).unlink()
    live.refresh()
    assert [one.arm for one in live.opened] == first
    assert "READY is missing" in (live.refused or "")
    (store.folder / "versions" / second / READY).touch()
    live.refresh()
    assert (live.opened[0].arm.version, live.refused) == (second, None)


def test_arms_of_different_tests_are_independent() -> None:
    users = [f"u{number}" for number in range(4_000)]
    one, other = (np.array([arm_position(user, salt) for user in users]) for salt in ("a", "b"))
    assert abs(np.corrcoef(one, other)[0, 1]) < 0.05
    assert one.mean() == pytest.approx(0.5, abs=0.03)


def test_an_untrained_model_is_refused(
    store: Store, served: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "require_ranker", require_ranker)
    with pytest.raises(StaleError, match=r"align.dcn: it is missing.*add dcn to align\.models"):
        write(store, served, "dcn")
    with pytest.raises(ConfigError, match="nosuch"):
        write(store, served, "nosuch")


def test_a_run_of_an_older_larr_is_refused(store: Store, served: Config, tmp_path: Path) -> None:
    older = tmp_path / "older"
    shutil.copytree(served.output, older)
    (older / "prepare" / "requests.parquet").unlink()
    with pytest.raises(VersionError, match="run `larr prepare --force`"):
        write(store, served.model_copy(update={"output": older}), served.align.models[0])
    assert len(store.versions()) == 1


def test_a_log_with_inconsistent_scenes_is_published(
    city: Config, tmp_path: Path, in_torch: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within requests, scene fields are missing in some rows and times advance."""
    log = pl.read_parquet(city.output / "prepare" / "raw" / "impressions").with_row_index("row")
    log = log.with_columns(
        pl.when(pl.col("row") % 20 != 7).then("weather"),
        pl.when(pl.col("row") % 20 != 3).then("temperature_c"),
        pl.col("time") + pl.duration(seconds=20) * pl.col("position"),
    ).drop("row")
    log.write_parquet(tmp_path / "impressions.parquet")
    config = with_tables(city, tmp_path / "own", impressions=tmp_path / "impressions.parquet")
    prepare(config)
    monkeypatch.setattr(module, "require_ranker", lambda *_: None)
    store = Store(tmp_path / "store")
    (tmp_path / "run").mkdir()
    version = write(store, run_of(config, "larr", tmp_path / "run"), "larr")
    scene, candidate = store.load(version).accepted
    assert {"weather", "temperature_c"} <= set(scene)
    assert "distance_km" in candidate
    assert not {"weather", "meal_slot", "temperature_c"} & set(candidate)


def test_a_folder_without_versions_is_refused(store: Store, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    shutil.copytree(store.folder, tmp_path / "run" / "store")
    with pytest.raises(VersionError, match=r"did you mean .*run/store"):
        Store(tmp_path / "run").arms()
    with pytest.raises(VersionError, match="is this the right folder"):
        Store(tmp_path / "nowhere").arms()
