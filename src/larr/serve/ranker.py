"""The ranker of a version: one or several trained rankers over the same requests.

Shapes: K candidates, T tasks, P places, R scene keywords, N new texts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from larr import artifacts
from larr.data.features import undo_sampling
from larr.data.snapshot import Row
from larr.data.transforms import MISSING
from larr.serve.features import CandidateInputs, PlaceInputs, Reader, RequestInputs
from larr.serve.forms import FORMS, Served, text_indices
from larr.serve.request import TextEffect
from larr.serve.tables import Array, Table
from larr.text.figures import TextFigures

MEMBERS, PLACES, FIGURES = "members.json", "places", "figures"
Embed = Callable[[list[tuple[str, str]]], Array]
"""Keywords and texts -> their vectors, float32 [N, D]."""


class Scored(NamedTuple):
    """The probabilities of candidates, and the inputs they were computed from."""

    probabilities: Array
    """Of a click, and of a click and an order, float64 [K, T]."""
    request: RequestInputs
    candidates: CandidateInputs


class Member(NamedTuple):
    """A trained ranker with its weight in the mean of the logits."""

    served: Served
    weight: float
    sources: list[str]
    """The sources of its text vectors, in the order of their columns."""
    figures: list[str]
    """The sources of its text figures."""


class ServedRanker:
    """The weighted mean of its members' logits, with the reader of their requests."""

    def __init__(self, folder: Path, reader: Reader) -> None:
        """Opens the files of `larr.serve.publish`."""
        self.reader, self.places = reader, Table.open(folder / PLACES)
        paths = sorted((folder / FIGURES).glob("*"))
        self.figures = {path.name: TextFigures.open(path) for path in paths}
        """The text figures that members read, by the source of their vectors."""
        self.added_rows: dict[str, int] = {}
        """The rows of added places, including withdrawn ones."""
        self.members = []
        for name, member in artifacts.read_json(folder / MEMBERS).items():
            served = FORMS[member.pop("form")](folder / name, reader, self.places)
            self.members.append(Member(served, **member))
        self.sources = {source for member in self.members for source in member.sources}
        """The sources of the members' text vectors."""
        self.reads_texts = bool(self.sources or self.figures)

    def score(self, row: Row, candidates: Mapping[str, Sequence[Any]]) -> Scored:
        """Scores a request, given by its row and the columns of its candidates."""
        request = self.reader.request(row)
        inputs = self.reader.candidates(request, candidates)
        return Scored(self.probabilities(request, inputs), request, inputs)

    def probabilities(
        self, request: RequestInputs, candidates: CandidateInputs, places: PlaceInputs | None = None
    ) -> Array:
        """Returns the probabilities of candidates, float64 [K, T]; `places` as in `Served`."""
        same_K = np.zeros(len(candidates.places), np.int64)  # one user and one request
        figures: dict[str, Array] = {}
        if self.figures:
            places_K = places or PlaceInputs(**self.places.take(candidates.places))
            text_KR = text_indices(self.reader, places_K, request)
            for source, read in self.figures.items():
                figures[source] = read.compute(text_KR, same_K, request.history[None], same_K)
        logits = []
        for member in self.members:
            parts = [figures[source] for source in member.figures]
            figure_KG = np.hstack([np.zeros((len(same_K), 0), np.float32), *parts])
            logits.append(
                member.weight * member.served.logits(request, candidates, figure_KG, places)
            )
        mean_KT = np.sum(logits, axis=0, dtype=np.float64)
        probability_KT = (1 + np.tanh(mean_KT / 2)) / 2  # its sigmoid, without an overflow
        return undo_sampling(probability_KT, self.reader.features.sampling_rate)

    def explain(self, scored: Scored, chosen: Sequence[int]) -> list[list[TextEffect]]:
        """Returns the effect of each text on some candidates: the score minus that without it.

        The effect is exact and covers every use of the text by a ranker; IDs and numbers do not
        change. A text of places is removed from all candidates, because figures within the request
        compare them.
        """
        reader, request, candidates = self.reader, scored.request, scored.candidates
        places = PlaceInputs(**self.places.take(candidates.places))
        text_KR = text_indices(reader, places, request)
        found = (member.served.attention(text_KR[list(chosen)]) for member in self.members)
        # from the first member with a scene encoder
        attention_KR = next((each_KR for each_KR in found if each_KR is not None), None)
        score_K = scores(scored.probabilities)
        effects: list[list[TextEffect]] = [[] for _ in chosen]
        for slot, keyword in enumerate(reader.features.scene_keywords):
            without_K = text_KR.copy()
            without_K[:, slot] = MISSING
            if slot in reader.request_slots:
                left = request._replace(texts=without_K[0, reader.request_slots])
                left_KT = self.probabilities(left, candidates)
            else:
                changed = places._replace(texts=without_K[:, reader.place_slots])
                left_KT = self.probabilities(request, candidates, changed)
            adds_K = score_K - scores(left_KT)
            for number, row in enumerate(chosen):
                if text_KR[row, slot] == MISSING:
                    continue
                text = reader.texts.text(text_KR[row, slot])
                attention = None if attention_KR is None else float(attention_KR[number, slot])
                effects[number].append(TextEffect(keyword, text, attention, float(adds_K[row])))
        return effects

    def add_places(self, rows: pl.DataFrame, embedders: Mapping[str, Embed]) -> None:
        """Adds places without statistics, or updates added ones, which keep their rows.

        They have columns of `Snapshot.places`. `embedders` embed new texts, by the source of the
        vectors.
        """
        self._add_texts(self.reader.place_texts(rows), embedders)
        inputs = self.reader.inputs_of(rows)
        end = self.places.first_added
        row_P = [
            self.added_rows.setdefault(poi_id, end + len(self.added_rows))
            for poi_id in rows["poi_id"]
        ]
        for member in self.members:
            member.served.add_places(row_P, inputs)
        self.places.write(row_P, inputs._asdict())
        self.reader.add(rows, row_P)  # last, because requests find the places afterwards

    def _add_texts(self, texts: Sequence[pl.Series], embedders: Mapping[str, Embed]) -> None:
        """Embeds those texts of new places, a column for each keyword, that have no vectors yet.

        If a source of a member's vectors cannot embed, the texts stay missing for all sources. If a
        source is only used for figures, they stay missing for these.
        """
        known, keywords = self.reader.texts, self.reader.features.scene_keywords
        new = [
            (column.name, text)
            for column in texts
            for text in column.drop_nulls().unique(maintain_order=True)
            if known.value(column.name, text) == MISSING
        ]
        wanted = self.sources | (self.figures.keys() & embedders.keys())
        if not new or not wanted or not wanted <= embedders.keys():
            return
        vectors = {source: embedders[source](new) for source in wanted}
        slot_N = np.array([keywords.index(keyword) for keyword, _ in new])
        numbers = range(len(known), len(known) + len(new))
        for member in self.members:
            if member.sources:
                joined_ND = np.hstack([vectors[source] for source in member.sources])
                member.served.add_texts(numbers, slot_N, joined_ND)
        for source, figures in self.figures.items():
            figures.add_texts(slot_N, vectors.get(source))
        for keyword, text in new:  # last, because requests look up an index as soon as it is known
            known.add_value(keyword, text)


def scores(probability_KT: Array) -> npt.NDArray[np.float64]:
    """Returns the scores of candidates, the product of their probabilities, [K]."""
    return np.asarray(probability_KT.astype(np.float64).prod(axis=1))
