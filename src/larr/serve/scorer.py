"""From a request to the probabilities of its candidates, with the folded ranker.

Shapes: K candidates, T tasks, P places, V texts, S place keywords.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
from torch import Tensor

from larr import artifacts
from larr.config import Config
from larr.data.keywords import MISSING
from larr.errors import ConfigError
from larr.rankers.larr import Larr
from larr.rankers.ple import Ple
from larr.rankers.predict import load_ranker, undo_sampling
from larr.serve.features import CandidateInputs, Floats, Reader, RequestInputs, Row
from larr.serve.folded import FoldedRanker, Texts
from larr.serve.rows import Rows
from larr.serve.scoring import PlaceRows, RequestRows

PLACES_AT_A_TIME = 16_384
INPUTS = 3
"""Tensors of a place before those of `PlaceRows`: categories, numbers, texts."""
KINDS, GRAPH = ("texts", "places"), "scoring.onnx"
HEADER = 128
"""Bytes of a .npy file without any numbers."""
Embed = Callable[[list[tuple[str, str]]], Floats]
"""Keyword texts -> their vectors, [N, D]."""


class Scored(NamedTuple):
    """The probabilities of the candidates, and what is to be known of how they came about."""

    probabilities: Floats
    """Of a click, and of a click and an order, [K, T]."""
    request: RequestInputs
    candidates: CandidateInputs


class Effect(NamedTuple):
    """What one keyword's text is worth to a candidate."""

    keyword: str
    text: str
    attention: float
    """The share of `<agg>`'s attention; the texts of a candidate and `<agg>` itself have 1."""
    adds: float
    """The score less that without this text."""


class Scorer:
    """A reader of requests, the folded ranker and the table of its places."""

    def __init__(
        self, reader: Reader, ranker: FoldedRanker, stored: Sequence[Tensor] | None = None
    ) -> None:
        """Folds the places, unless their tensors of an earlier folding are given."""
        self.reader, self.ranker = reader, ranker
        if stored is None:
            inputs = [torch.from_numpy(np.ascontiguousarray(a)) for a in reader.place_inputs()]
            chunks = zip(*(array.split(PLACES_AT_A_TIME) for array in inputs), strict=True)
            parts = [ranker.places(*chunk) for chunk in chunks]
            stored = [*inputs, *(torch.cat(column) for column in zip(*parts, strict=True))]
        self.inputs, self.places = Rows(stored[:INPUTS]), Rows(stored[INPUTS:])
        self.added: dict[str, int] = {}
        """The rows of places that were added, and of those forgotten since."""

    @classmethod
    def load(cls, config: Config, model: str, reader: Reader, folded: Path | None = None) -> Self:
        """A trained ranker of `align/` with what is known after the training days.

        `folded` is what `save` wrote of it; the tables then stay on the disk until they are read.
        """
        ranker = load_ranker(config, model)
        if not isinstance(ranker, Ple):
            raise ConfigError(f"{model} cannot be served: only PLE and LARR can be folded")
        texts = _texts(config, reader) if isinstance(ranker, Larr) else None
        of_texts, of_places = (_read(folded, kind) if folded else None for kind in KINDS)
        own = FoldedRanker(ranker, reader.categories, reader.numbers, texts, of_texts)
        if folded:
            own.use(folded / GRAPH)
        return cls(reader, own, of_places)

    def save(self, folded: Path) -> None:
        """Writes the tables of texts and places, and what is computed from their rows."""
        folded.mkdir()
        any_two = PlaceRows(*self.places.take(torch.zeros(2, dtype=torch.int64)))
        self.ranker.save(any_two, folded / GRAPH)
        tensors = (self.ranker.text_tensors(), (*self.inputs.stored, *self.places.stored))
        for kind, columns in zip(KINDS, tensors, strict=True):
            for number, tensor in enumerate(columns):
                np.save(folded / f"{kind}-{number:02}.npy", tensor.numpy())

    def score(self, row: Row, candidates: Mapping[str, Sequence[Any]]) -> Scored:
        """The probabilities of the candidates of a request: its row, and their columns."""
        request = self.reader.request(row)
        told = self.reader.candidates(row["user_id"], candidates)
        places = PlaceRows(*self.places.take(torch.from_numpy(told.places)))
        return Scored(self._probabilities(self._part(request), places, told), request, told)

    def add_places(self, rows: pl.DataFrame, embed: Embed | None) -> None:
        """Adds places without a past, or new columns of such, by the columns of `Known`.

        `embed` gives the vectors of keyword texts; without it they have none. They rank with all
        this from then on. A place that comes again takes its row again.
        """
        categories_NF, numbers_NM, told = self.reader.described(rows)
        if self.ranker.tables and embed:
            self._add_texts(told, embed)
        texts_NS = torch.from_numpy(self.reader.numbered(told, len(rows)))
        inputs = (torch.from_numpy(categories_NF), torch.from_numpy(numbers_NM), texts_NS)
        end = self.places.first_added
        numbers = [self.added.setdefault(one, end + len(self.added)) for one in rows["poi_id"]]
        self.inputs.write(numbers, inputs)
        self.places.write(numbers, self.ranker.places(*inputs))
        self.reader.place_rows |= dict(zip(rows["poi_id"], numbers, strict=True))

    def forget_places(self, poi_ids: Iterable[str]) -> None:
        """From now on these added places rank as such that nobody knows."""
        for poi_id in poi_ids:
            self.reader.place_rows.pop(poi_id, None)

    def _add_texts(self, told: dict[str, pl.Series], embed: Embed) -> None:
        """Stores the texts of new places that are not stored yet."""
        new = [
            (keyword, text)
            for keyword, texts in told.items()
            for text in texts.drop_nulls().unique(maintain_order=True)
            if text not in self.reader.texts[keyword]
        ]
        if not new:
            return
        slots = {name: slot for slot, name in enumerate(self.reader.features.scene_keywords)}
        slot_N = torch.tensor([slots[keyword] for keyword, _ in new])
        numbers = self.ranker.add_texts(torch.from_numpy(embed(new)), slot_N)
        self.reader.told_since += [text for _, text in new]
        for number, (keyword, text) in zip(numbers, new, strict=True):
            self.reader.texts[keyword][text] = number

    def _part(self, request: RequestInputs) -> RequestRows:
        inputs = (request.categories, request.numbers, request.texts, request.recent)
        return self.ranker.request(*map(torch.from_numpy, inputs))

    def _probabilities(
        self, part: RequestRows, places: PlaceRows, candidates: CandidateInputs
    ) -> Floats:
        probabilities_KT = self.ranker.score(
            part,
            places,
            torch.from_numpy(candidates.categories),
            torch.from_numpy(candidates.numbers),
        )
        return undo_sampling(probabilities_KT.numpy(), self.reader.features.sampling_rate)

    def explain(self, scored: Scored, chosen: Sequence[int]) -> list[list[Effect]]:
        """For each of some candidates what every keyword's text is worth to it.

        Exact, for the text as the encoder and the matching read it: IDs and numbers stay.
        """
        request, told = scored.request, scored.candidates.rows(chosen)
        place_K = torch.from_numpy(told.places)
        categories_KF, numbers_KM, texts_KS = self.inputs.take(place_K)
        part, places = self._part(request), PlaceRows(*self.places.take(place_K))
        score_K = scores(scored.probabilities[list(chosen)])
        attention_KR = self.ranker.attention(torch.from_numpy(request.texts), texts_KS)[:, 1:]
        effects: list[list[Effect]] = [[] for _ in chosen]
        slots = {slot: at for at, slot in enumerate(self.ranker.request_slots)}
        for slot, name in enumerate(self.reader.features.scene_keywords):
            if slot in slots:
                text_K = np.full(len(chosen), request.texts[slots[slot]])
                without = self._part(request._replace(texts=_without(request.texts, slots[slot])))
                left_KT = self._probabilities(without, places, told)
            else:
                at = self.ranker.place_slots.index(slot)
                text_K = texts_KS[:, at].numpy()
                rows = self.ranker.places(categories_KF, numbers_KM, _without(texts_KS, at))
                left_KT = self._probabilities(part, rows, told)
            adds_K = score_K - scores(left_KT)
            for number, text in enumerate(text_K.tolist()):
                if text >= 0:
                    attention = float(attention_KR[number, slot])
                    adds = float(adds_K[number])
                    effects[number].append(Effect(name, self.reader.text(text), attention, adds))
        return effects


def scores(probability_KT: Floats) -> npt.NDArray[np.float64]:
    """By what candidates are ranked: the product of their probabilities, [K]."""
    product: npt.NDArray[np.float64] = probability_KT.astype(np.float64).prod(axis=1)
    return product


def _without(texts: Any, column: int) -> Any:
    """Texts of which those of a column are missing."""
    left = texts.copy() if isinstance(texts, np.ndarray) else texts.clone()
    left[..., column] = MISSING
    return left


def _read(folded: Path, kind: str) -> list[Tensor]:
    """The tensors of a folder, which stay on the disk until they are read."""
    found = []
    for path in sorted(folded.glob(f"{kind}-*.npy")):
        empty = path.stat().st_size <= HEADER  # such a file cannot be mapped
        found.append(torch.from_numpy(np.load(path, mmap_mode=None if empty else "c")))
    return found


def _texts(config: Config, reader: Reader) -> Texts:
    table = pl.read_parquet(artifacts.folder(config, "prepare") / "texts.parquet")
    slots = {name: slot for slot, name in enumerate(reader.features.scene_keywords)}
    slot_V = table["keyword"].replace_strict(slots, default=0, return_dtype=pl.Int64)
    places = [slots[name] for name, one in reader.keywords.items() if one.owner == "poi"]
    return Texts(torch.from_numpy(slot_V.to_numpy().copy()), tuple(places))
