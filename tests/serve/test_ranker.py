"""The served ranker returns the scores of the trained one for all requests."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from larr import artifacts
from larr.config import Config
from larr.data.batches import Batch, LogRows
from larr.data.features import ColumnSplit, undo_sampling
from larr.rankers import build
from larr.rankers.best import Blend
from larr.rankers.neural import NeuralRanker
from larr.rankers.predict import load_ranker, predict, probabilities
from larr.serve.features import CandidateInputs, PlaceInputs, RequestInputs
from larr.serve.publish import write_ranker
from larr.serve.ranker import ServedRanker, scores
from larr.serve.version import ServedVersion
from larr.text.figures import TextFigures
from tests.ranking_log import OWNERS, Sizes, small_align, write_log
from tests.serving import log, request_of

SIZES = Sizes(rows=200, test_rows=60, categories=(40, 30, 6, 5), numbers=3)
CATEGORIES = ColumnSplit(place=(1,), request=(0, 2), candidate=(3,))
NUMBERS = ColumnSplit(place=(1,), request=(0,), candidate=(2,))
PLACE_SLOTS = [slot for slot in range(SIZES.keywords) if OWNERS[slot] == "poi"]
REQUEST_SLOTS = [slot for slot in range(SIZES.keywords) if slot not in PLACE_SLOTS]


@dataclass
class BatchReader:
    """Replaces `Reader`: places and request come from a batch."""

    config: Config
    batch: Batch
    features: Any
    texts: Any
    names = ("user_id", "poi_id", "scene_0", "scene_1")
    categories, numbers = CATEGORIES, NUMBERS
    place_slots, request_slots = np.array(PLACE_SLOTS), np.array(REQUEST_SLOTS)

    def place_inputs(self) -> PlaceInputs:
        inputs = (
            self.batch.categories[:, CATEGORIES.place],
            self.batch.numbers[:, NUMBERS.place],
            self.batch.texts[:, PLACE_SLOTS],
        )
        return PlaceInputs(*(rows.numpy() for rows in inputs))

    def request(self, _: Any) -> RequestInputs:
        inputs = (
            self.batch.categories[0, CATEGORIES.request],
            self.batch.numbers[0, NUMBERS.request],
            self.batch.texts[0, REQUEST_SLOTS],
            self.batch.recent[0],
        )
        history = np.zeros((3, 1), np.int32)
        return RequestInputs(*(row.numpy() for row in inputs), history, True, [], [], {})

    def candidates(self, _: str, columns: Any) -> CandidateInputs:
        rows = columns["row"]
        return CandidateInputs(
            rows,
            self.batch.categories[rows][:, CATEGORIES.candidate].numpy(),
            self.batch.numbers[rows][:, NUMBERS.candidate].numpy(),
            [],
        )


def make(folder: Path, name: str, settings: dict[str, Any]) -> tuple[Config, NeuralRanker]:
    shared = small_align().with_settings(settings).model_dump()
    config = write_log(folder, SIZES, small_align(models=[name], **shared))
    model = build(config, name).eval()
    with torch.no_grad():  # no bias has its neutral value
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return config, model


def one_request(batch: Batch) -> Batch:
    """The rows become candidates of the first row's request; keywords share no texts."""
    of_keyword_BR = batch.texts // SIZES.keywords * SIZES.keywords + torch.arange(SIZES.keywords)
    is_missing = (batch.texts < 0) | (of_keyword_BR >= SIZES.texts)
    texts = torch.where(is_missing, -1, of_keyword_BR).int()
    texts[:, REQUEST_SLOTS] = texts[0, REQUEST_SLOTS]
    categories, numbers = batch.categories.clone(), batch.numbers.clone()
    categories[:, CATEGORIES.request] = categories[0, CATEGORIES.request]
    numbers[:, NUMBERS.request] = numbers[0, NUMBERS.request]
    recent = batch.recent[:1].expand(batch.rows, -1)
    return batch._replace(categories=categories, numbers=numbers, texts=texts, recent=recent)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("ple", {}),
        ("ple", {"hidden": ["poi_id"]}),
        ("larr", {}),
        ("larr", {"scene.matching": False}),
        ("larr", {"scene.pre_norm": False}),
        ("larr", {"ctcvr": "product", "hidden": ["scene_0"]}),
        ("ple", {"ple.cross_layers": 1, "hidden": ["poi_id"]}),
        ("larr", {"ple.cross_layers": 2}),
        ("larr", {"scene.whitened": True}),
        ("larr", {"scene.whitened": True, "scene.layers": 2}),
        ("larr", {"scene.layers": 2}),
        ("larr", {"scene.pooling": "mean"}),
        ("dcn", {}),
        ("wide_deep", {"hidden": ["poi_id"]}),
        ("deepfm", {}),
        ("din", {"ctcvr": "product"}),
    ],
)
def test_served_scores_equal_those_of_the_model(
    tmp_path: Path, in_torch: None, name: str, settings: dict[str, Any]
) -> None:
    config, model = make(tmp_path, name, settings)
    data = artifacts.folder(config, "prepare")
    batch = one_request(next(LogRows(data / "test").in_order(SIZES.test_rows)))
    features = SimpleNamespace(
        scene_keywords=tuple(f"k{slot}" for slot in range(SIZES.keywords)), sampling_rate=0.2
    )
    texts = SimpleNamespace(table=lambda: pl.read_parquet(data / "texts.parquet"))
    reader: Any = BatchReader(config, batch, features, texts)
    members: dict[str, Any] = {name: (model, 1.0)}
    write_ranker(members, reader, batch.select(torch.arange(2)), tmp_path / "ranker")
    ranker = ServedRanker(tmp_path / "ranker", reader)
    row_K = np.random.default_rng(0).permutation(SIZES.test_rows)
    with torch.inference_mode():
        raw = model(batch.select(torch.from_numpy(row_K))).sigmoid().numpy()
    expected = undo_sampling(raw, 0.2)
    assert expected.std() > 1e-4  # the scores differ by far more than the tolerance below
    for count in (len(row_K), 1):
        scored = ranker.score({"user_id": "u"}, {"row": row_K[:count]})
        assert np.abs(scored.probabilities - expected[:count]).max() < 1e-6


def test_served_scores_equal_those_of_the_evaluation(
    served: Config, version: ServedVersion
) -> None:
    expected_NT = predict(served, served.align.models[0])
    served_scores = []
    for _, group in log(served).group_by("request_id", maintain_order=True):
        served_scores.append(version.ranker.score(*request_of(group)).probabilities)
    assert expected_NT.std() > 1e-4
    assert np.abs(np.concatenate(served_scores) - expected_NT).max() < 1e-5


def figures_of(ranker: Blend, texts: torch.Tensor, data: Path) -> torch.Tensor:
    """The text figures of the first test rows, with other texts."""
    history_N = np.load(data / "test" / "history.npy")[: len(texts), 0]
    parts = [torch.zeros(len(texts), 0)]
    for folder in ranker.figures:
        read = texts.numpy(), history_N, np.load(data / "histories.npy"), np.zeros_like(history_N)
        parts.append(torch.from_numpy(TextFigures.open(folder).compute(*read)))
    return torch.cat(parts, dim=1)


def test_a_text_adds_the_score_minus_the_score_without_it(
    served: Config, version: ServedVersion
) -> None:
    if not version.ranker.reads_texts:
        pytest.skip("it reads no texts")
    group = log(served).head(10)
    assert group["request_id"].n_unique() == 1
    scored = version.ranker.score(*request_of(group))
    chosen = [7, 2]
    ranker = load_ranker(served, served.align.models[0])
    data = artifacts.folder(served, "prepare")
    rows = LogRows(data / "test").with_figures(ranker.figures)
    batch = next(rows.in_order(group.height))
    keywords = [keyword.name for keyword in served.scene_keywords]
    score_B = scores(probabilities(ranker, batch))
    texts = pl.read_parquet(data / "texts.parquet")["text"]
    for number, effects in zip(chosen, version.ranker.explain(scored, chosen), strict=True):
        assert len(effects) == int((batch.texts[number] >= 0).sum()) > 5
        assert 0.2 < sum(effect.attention for effect in effects) < 1
        for effect in effects:
            slot = keywords.index(effect.keyword)
            left = batch._replace(texts=batch.texts.clone())
            assert effect.text == texts[int(left.texts[number, slot])]
            left.texts[:, slot] = -1
            left = left._replace(figures=figures_of(ranker, left.texts, data))
            without = scores(probabilities(ranker, left))
            assert effect.adds == pytest.approx(score_B[number] - without[number], abs=1e-6)
        assert max(abs(effect.adds) for effect in effects) > 1e-4
