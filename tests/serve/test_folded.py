"""The folded ranker gives the unfolded one's scores, whatever is asked of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from larr.config import Config
from larr.data import batches
from larr.data.batches import Batch
from larr.data.features import ColumnSplit
from larr.errors import ConfigError
from larr.rankers import build
from larr.rankers.ple import Ple
from larr.serve.folded import FoldedRanker, Texts
from larr.serve.rows import Rows
from larr.serve.scoring import PlaceRows
from tests.ranking_log import OWNERS, Sizes, small_align, write_log

SIZES = Sizes(rows=200, test_rows=60, categories=(40, 30, 6, 5), numbers=3)
CATEGORIES = ColumnSplit(place=(1,), request=(0, 2), candidate=(3,))
NUMBERS = ColumnSplit(place=(1,), request=(0,), candidate=(2,))
PLACE_SLOTS = tuple(slot for slot in range(SIZES.keywords) if OWNERS[slot] == "poi")
REQUEST_SLOTS = [slot for slot in range(SIZES.keywords) if slot not in PLACE_SLOTS]


def make(folder: Path, name: str, **settings: Any) -> tuple[Config, Ple]:
    config = write_log(folder, SIZES, small_align(**(settings | {"models": [name]})))
    model = build(config, name).eval()
    assert isinstance(model, Ple)
    with torch.no_grad():  # so that no bias is at its neutral value
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return config, model


def texts_of_keywords(batch: Batch) -> Batch:
    """The same rows where each keyword's texts are its own, as in a real log."""
    slots = torch.arange(SIZES.keywords)
    own_BR = batch.texts // SIZES.keywords * SIZES.keywords + slots
    own_BR = torch.where((batch.texts < 0) | (own_BR >= SIZES.texts), -1, own_BR)
    return batch._replace(texts=own_BR.int())


def one_request(batch: Batch) -> Batch:
    """The rows as candidates of the first row's request."""
    categories, numbers, texts = (
        batch.categories.clone(),
        batch.numbers.clone(),
        batch.texts.clone(),
    )
    categories[:, CATEGORIES.request] = categories[0, CATEGORIES.request]
    numbers[:, NUMBERS.request] = numbers[0, NUMBERS.request]
    texts[:, REQUEST_SLOTS] = texts[0, REQUEST_SLOTS]
    recent = batch.recent[:1].expand(batch.rows, -1)
    return batch._replace(categories=categories, numbers=numbers, texts=texts, recent=recent)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("ple", {}),
        ("larr", {}),
        ("larr", {"scene.matching": False}),
        ("larr", {"scene.pre_norm": False}),
        ("larr", {"ctcvr": "product", "hidden": ["scene_0"]}),
    ],
)
def test_folded_scores_are_those_of_the_model(
    tmp_path: Path, name: str, settings: dict[str, Any]
) -> None:
    align = small_align().with_settings(settings).model_dump(exclude={"tuned", "variants"})
    config, model = make(tmp_path, name, **align)
    texts = Texts(torch.arange(SIZES.texts) % SIZES.keywords, PLACE_SLOTS)
    folded = FoldedRanker(model, CATEGORIES, NUMBERS, texts)
    batch = next(batches.in_order(config.output / "prepare" / "test", SIZES.test_rows))
    batch = one_request(texts_of_keywords(batch))
    table = folded.places(
        batch.categories[:, CATEGORIES.place],
        batch.numbers[:, NUMBERS.place],
        batch.texts[:, PLACE_SLOTS],
    )
    part = folded.request(
        batch.categories[0, CATEGORIES.request],
        batch.numbers[0, NUMBERS.request],
        batch.texts[0, REQUEST_SLOTS],
        batch.recent[0],
    )
    order = torch.randperm(batch.rows)
    rows = batch.select(order)
    own = (rows.categories[:, CATEGORIES.candidate], rows.numbers[:, NUMBERS.candidate])
    places = PlaceRows(*Rows(table).take(order))
    with torch.inference_mode():
        expected = model(rows).logits.sigmoid()
    assert expected.std() > 1e-3
    assert (folded.score(part, places, *own) - expected).abs().max() < 1e-6
    folded.save(PlaceRows(*(column[:2] for column in table)), tmp_path / "graph")
    folded.use(tmp_path / "graph")
    assert (folded.score(part, places, *own) - expected).abs().max() < 1e-6
    first = PlaceRows(*(column[:1] for column in places))
    alone = folded.score(part, first, *(column[:1] for column in own))
    assert (alone - expected[:1]).abs().max() < 1e-6


def test_an_encoder_of_two_layers_is_not_folded(tmp_path: Path) -> None:
    align = small_align().with_settings({"scene.layers": 2})
    _, model = make(tmp_path, "larr", **align.model_dump(exclude={"tuned", "variants"}))
    texts = Texts(torch.arange(SIZES.texts) % SIZES.keywords, PLACE_SLOTS)
    with pytest.raises(ConfigError, match=r"cannot be folded: scene\.layers is 2"):
        FoldedRanker(model, CATEGORIES, NUMBERS, texts)
