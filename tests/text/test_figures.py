"""Text figures compared with a naive implementation, standardised, and computed online."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from larr import artifacts
from larr.config import Config
from larr.data.batches import LogRows
from larr.data.folds import HELD_BACK
from larr.data.histories import ALIKE, KINDS
from larr.data.log import SPLITS
from larr.text import figures
from larr.text.embed import embed
from larr.text.figures import (
    KERNELS,
    MIN_TEXTS,
    PER_KIND,
    PRIOR_SHARE,
    PRIOR_WEIGHT,
    TextFigures,
    write_figures,
)
from tests.fake_data import load


@pytest.fixture(scope="module")
def written(city: Config, tmp_path_factory: pytest.TempPathFactory) -> Config:
    """The city with vectors and figures of `letters`."""
    config = city.model_copy(update={"output": tmp_path_factory.mktemp("figures")})
    (config.output / "prepare").symlink_to(city.output / "prepare")
    for verb in ("pretrain", "contrast"):
        with artifacts.building(config, verb):
            pass
    embed(config, [], ["letters"])
    return config


def folder(config: Config) -> Path:
    return config.output / "embed" / "letters" / "figures"


def unit(vector: np.ndarray) -> np.ndarray:
    length = float(np.linalg.norm(vector))
    return vector / length if length > 1e-6 else vector * 0


def naive(config: Config, row: int) -> Iterator[float]:
    """Yields the figures of a test row before standardisation."""
    data = config.output / "prepare"
    keywords = pl.read_parquet(data / "texts.parquet")["keyword"].to_numpy()
    vectors = np.load(config.output / "embed" / "letters" / "vectors.npy").astype(np.float64)
    centred = {
        text: unit(vectors[text] - vectors[keywords == keywords[text]].mean(axis=0))
        for text in range(len(vectors))
    }
    owners = [keyword.owner for keyword in config.scene_keywords]
    texts = load(config, "test/texts")[row]
    names = [keyword.name for keyword in config.scene_keywords]
    compared = [
        slot
        for slot, owner in enumerate(owners)
        if owner != "poi" and (keywords == names[slot]).sum() >= MIN_TEXTS
    ]
    assert compared
    for request in compared:
        for place in (slot for slot, owner in enumerate(owners) if owner == "poi"):
            both = [centred.get(texts[slot], np.zeros(128)) for slot in (request, place)]
            yield both[0] @ both[1] if both[0].any() and both[1].any() else np.nan
    static = pl.read_parquet(data / "place_texts.parquet").to_numpy()

    def of_place(number: int) -> np.ndarray:
        return unit(sum((centred[text] for text in static[number] if text >= 0), np.zeros(128)))

    candidate = of_place(load(config, "test/keys")[row, 1])
    histories = load(config, "histories")[load(config, "test/history")[row, 0]]
    kinds = [
        np.array([of_place(number) @ candidate for number in history if number])
        for history in histories
    ]
    for close in kinds:
        if not len(close):
            yield from [np.nan] * len(PER_KIND)
            continue
        yield from (close.max(), close.mean())
    for kernel in KERNELS:
        taken, clicked, left, _ = (np.exp(kernel * (close - 1)).sum() for close in kinds)
        accepted, similar = taken + clicked, taken + clicked + left
        yield (accepted + PRIOR_SHARE * PRIOR_WEIGHT) / (similar + PRIOR_WEIGHT)
        yield np.log1p(similar)


def test_figures_equal_a_naive_implementation(written: Config) -> None:
    settings = artifacts.read_json(folder(written) / "figures.json")
    stored = np.load(folder(written) / "test.npy")
    mean, deviation = np.array(settings["means"]), np.array(settings["deviations"])
    for row in (0, 57, len(stored) - 1):
        expected = (np.array(list(naive(written, row))) - mean) / deviation
        expected = np.clip(np.nan_to_num(expected, nan=0.0), -5, 5)
        np.testing.assert_allclose(stored[row], expected, atol=3e-3)


def test_figures_have_distinct_names_and_are_standardised_on_training_rows(written: Config) -> None:
    names = artifacts.read_json(folder(written) / "figures.json")["names"]
    train = np.load(folder(written) / "train.npy")
    assert train.shape[1] == len(names) == len(set(names))
    assert {f"{kind}_largest" for kind in (*KINDS, ALIKE)} < set(names)
    assert np.isfinite(train).all()
    complete = train[:, names.index("similar_10")]
    np.testing.assert_allclose((complete.mean(), complete.std()), (0, 1), atol=1e-2)


def test_figures_computed_online_equal_those_of_the_log(written: Config) -> None:
    texts, history = (load(written, f"test/{name}") for name in ("texts", "history"))
    histories, stored = load(written, "histories"), np.load(folder(written) / "test.npy")
    opened = TextFigures.open(folder(written))
    for row in (0, 57, len(texts) - 1):
        one = slice(row, row + 1)
        found = opened.compute(texts[one], history[one, 0], histories, np.zeros(1, np.int64))
        np.testing.assert_allclose(found, stored[one], atol=1e-5)


def test_figures_within_requests_read_complete_requests(
    written: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(figures, "ROWS", 100)  # requests cross the borders of chunks
    config = written.model_copy(
        update={"features": written.features.model_copy(update={"within_request": True})}
    )
    vectors = written.output / "embed" / "letters" / "vectors.npy"
    figures.write_figures(config, vectors, tmp_path)
    names = artifacts.read_json(tmp_path / "figures.json")["names"]
    assert {"taken_largest_rank", "accepted_10_difference"} < set(names)
    stored, alone = (np.load(path / "test.npy") for path in (tmp_path, folder(written)))
    np.testing.assert_allclose(stored[:, : alone.shape[1]], alone, atol=1e-3)
    texts, history, requests = (
        load(written, f"test/{name}") for name in ("texts", "history", "requests")
    )
    opened, histories = TextFigures.open(tmp_path), load(written, "histories")
    for request in np.unique(requests)[:3]:
        rows = np.flatnonzero(requests[:, 0] == request)
        one = np.zeros(len(rows), np.int64)
        found = opened.compute(texts[rows], history[rows, 0], histories, one)
        # The last digit may depend on the number of rows computed together.
        assert (np.abs(found - stored[rows]) < 1e-3).mean() > 0.99
        rank = opened.raw(texts[rows], history[rows, 0], histories)[:, 0].argsort().argsort()
        assert (np.diff(stored[rows, alone.shape[1]][rank.argsort()]) >= 0).all()


def test_keywords_without_vectors_have_no_figures(written: Config, tmp_path: Path) -> None:
    texts = pl.read_parquet(written.output / "prepare" / "texts.parquet")
    vectors = np.load(folder(written).parent / "vectors.npy")
    vectors[~texts["keyword"].is_in(["user_taste", "poi_menu"]).to_numpy()] = 0
    np.save(tmp_path / "vectors.npy", vectors)
    (tmp_path / "figures").mkdir()
    write_figures(written, tmp_path / "vectors.npy", tmp_path / "figures")
    settings = artifacts.read_json(tmp_path / "figures" / "figures.json")
    assert [name for name in settings["names"] if "_x_" in name] == ["user_taste_x_poi_menu"]
    names = artifacts.read_json(folder(written) / "figures.json")["names"]
    found, complete = (
        np.load(path / "test.npy") for path in (tmp_path / "figures", folder(written))
    )
    at = names.index("user_taste_x_poi_menu")
    assert "taken_largest" in settings["names"]
    write_figures(written, tmp_path / "vectors.npy", tmp_path / "figures", compares_places=False)
    settings = artifacts.read_json(tmp_path / "figures" / "figures.json")
    assert settings["names"] == ["user_taste_x_poi_menu"]
    np.testing.assert_allclose(found[:, 0], complete[:, at], atol=1e-4)


def test_figures_are_computed_once(written: Config) -> None:
    before = (folder(written) / "train.npy").stat().st_mtime_ns
    embed(written, ["letters"], ["letters"])
    assert (folder(written) / "train.npy").stat().st_mtime_ns == before
    embed(written, ["letters"])
    assert (folder(written) / "train.npy").stat().st_mtime_ns == before


def test_held_back_parts_have_figures_of_their_own_histories(
    written: Config, tmp_path: Path
) -> None:
    data = shutil.copytree(written.output / "prepare", tmp_path / "prepare")
    part = data / HELD_BACK / "0"
    for split in SPLITS:
        (part / split).mkdir(parents=True)
        for name in ("texts", "history"):
            np.save(part / split / f"{name}.npy", load(written, f"{split}/{name}")[::-1])
    histories = load(written, "histories").copy()
    histories[load(written, "test/history")[-1, 0]] = 0
    np.save(part / "histories.npy", histories)
    (tmp_path / "figures").mkdir()
    vectors = folder(written).parent / "vectors.npy"
    write_figures(written.model_copy(update={"output": tmp_path}), vectors, tmp_path / "figures")
    rows = LogRows(part / "test", part=f"{HELD_BACK}/0").with_figures([tmp_path / "figures"])
    (found,), complete = rows.figure_arrays(), np.load(folder(written) / "test.npy")[::-1]
    changed = (histories != load(written, "histories"))[load(written, "test/history")[:, 0]]
    changed = changed.any(axis=(1, 2))[::-1]
    assert 0 < changed.sum() < len(changed)
    np.testing.assert_allclose(found[~changed], complete[~changed], atol=3e-3)
    assert (found[changed] != complete[changed]).any(axis=1).all()
