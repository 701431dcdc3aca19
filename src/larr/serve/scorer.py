"""From a request to the probabilities of its candidates, with the folded ranker.

Shapes: K candidates, T tasks, P places, V texts, S place keywords.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Self

import numpy as np
import polars as pl
import torch

from larr import artifacts
from larr.config import Config
from larr.errors import ConfigError
from larr.models.larr import Larr
from larr.models.ple import Ple
from larr.predict import load_ranker, undo_sampling
from larr.serve.features import CandidateInputs, Floats, Reader, RequestInputs, Row
from larr.serve.folded import FoldedRanker, PlaceTable, Texts

PLACES_AT_A_TIME = 16_384


class Scored(NamedTuple):
    """The probabilities of the candidates, and what is to be known of how they came about."""

    probabilities: Floats
    """Of a click, and of a click and an order, [K, T]."""
    request: RequestInputs
    candidates: CandidateInputs


class Scorer:
    """A reader of requests, the folded ranker and the table of its places."""

    def __init__(self, reader: Reader, ranker: FoldedRanker, places: PlaceTable) -> None:
        self.reader, self.ranker, self.places = reader, ranker, places

    @classmethod
    def load(cls, config: Config, model: str, reader: Reader) -> Self:
        """Folds a trained ranker of `ranker/` with what is known after the training days."""
        ranker = load_ranker(config, model)
        if not isinstance(ranker, Ple):
            raise ConfigError(f"{model} cannot be served: only PLE and LARR can be folded")
        texts = _texts(config, reader) if isinstance(ranker, Larr) else None
        folded = FoldedRanker(ranker, reader.categories, reader.numbers, texts)
        return cls(reader, folded, _places(reader, folded))

    def score(self, row: Row, candidates: Sequence[Row]) -> Scored:
        """The probabilities of the candidates of a request: its columns, and theirs."""
        request = self.reader.request(row)
        told = self.reader.candidates(row["user_id"], candidates)
        inputs = (request.categories, request.numbers, request.texts, request.recent)
        part = self.ranker.request(*map(torch.from_numpy, inputs))
        probabilities_KT = self.ranker.score(
            part,
            self.places.rows(torch.from_numpy(told.places)),
            torch.from_numpy(told.categories),
            torch.from_numpy(told.numbers),
        )
        rate = self.reader.features.sampling_rate
        return Scored(undo_sampling(probabilities_KT.numpy(), rate), request, told)


def _texts(config: Config, reader: Reader) -> Texts:
    table = pl.read_parquet(artifacts.folder(config, "prepare") / "texts.parquet")
    slots = {name: slot for slot, name in enumerate(reader.features.scene_keywords)}
    slot_V = table["keyword"].replace_strict(slots, default=0, return_dtype=pl.Int64)
    places = [slots[name] for name, one in reader.keywords.items() if one.owner == "poi"]
    return Texts(torch.from_numpy(slot_V.to_numpy().copy()), tuple(places))


def _places(reader: Reader, folded: FoldedRanker) -> PlaceTable:
    arrays = [torch.from_numpy(np.ascontiguousarray(array)) for array in reader.place_inputs()]
    chunks = zip(*(array.split(PLACES_AT_A_TIME) for array in arrays), strict=True)
    parts = [folded.places(*chunk) for chunk in chunks]
    return PlaceTable(*(torch.cat(columns) for columns in zip(*parts, strict=True)))
