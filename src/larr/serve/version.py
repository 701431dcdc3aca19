"""A loaded version of the model: answers `POST /v1/rank` without HTTP, and adds places.

Shapes: K candidates.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Mapping

import numpy as np
import polars as pl

from larr.data.snapshot import Row
from larr.data.values import joined
from larr.errors import InputError
from larr.progress import console
from larr.serve.embedder import Embedder, NotStoredError
from larr.serve.features import POSITION
from larr.serve.near import Nearby
from larr.serve.places import to_known_row
from larr.serve.ranker import Embed, Scored, ServedRanker, scores
from larr.serve.request import (
    EXPLAINED,
    Columns,
    RankAnswer,
    RankedPlace,
    RankRequest,
    Scalar,
    candidate_columns,
    check_values,
    local_time,
)

Candidates = dict[str, list[Scalar]]


class ServedVersion:
    """Answers rank requests with one version of the model."""

    def __init__(
        self, ranker: ServedRanker, version: str, embedders: Mapping[str, Embedder]
    ) -> None:
        """`embedders` embed the texts of new places, by the source of the vectors."""
        self.ranker, self.id, self.embedders = ranker, version, embedders
        self.accepted = ranker.reader.client_columns()
        self.time_zone = ranker.reader.config.dataset.tables.time_zone
        """The zone of the tables' times; empty if unknown."""
        self.needs_time = ranker.reader.reads_time and not self.time_zone
        """Whether requests must send the time, because the server may be in another zone."""
        self.known_places = ranker.reader.snapshot.places
        self.trained = frozenset(self.known_places["poi_id"])
        self.added: dict[str, Columns] = {}
        """The places added after training, by ID."""
        self.unreadable: dict[str, Columns] = {}
        """The added places that this version cannot read."""
        self.located: dict[str, Columns] = {}
        """The accepted places among `nearby`, embedded or not, by ID."""
        self.nearby = Nearby(self.known_places)
        self._locating, self._syncing = threading.Lock(), threading.Lock()

    def rank(self, request: RankRequest) -> RankAnswer:
        """Returns the best `k` of the candidates; raises InputError for an invalid request."""
        candidates = self._candidates(request)
        columns = {name: joined(value) for name, value in request.scene.items()}
        for name, value in columns.items():
            check_values(name, [value], self.accepted.scene, "scene")
        if request.explain and request.k > EXPLAINED:
            raise InputError(
                f"explain: at most {EXPLAINED} places can be explained, k is {request.k}"
            )
        if request.explain and not self.ranker.reads_texts:
            raise InputError("explain: the ranker of this version reads no texts")
        time = local_time(request.time, self.time_zone)
        answer = RankAnswer(uuid.uuid4().hex, self.id, "A", [], [])
        if not candidates["poi_id"]:
            answer.degraded += ["nothing_near"] if request.near else []
            return answer
        # as in the tables of the data contract, an empty text counts as missing
        scene = {name: value for name, value in columns.items() if value not in (None, "")}
        row = {**scene, "user_id": str(request.user_id), "time": time}
        scored = self.ranker.score(row, candidates)
        answer.degraded = self._degraded(scene, candidates, scored)
        if request.time is None and self.needs_time:
            answer.degraded.insert(0, "missing:time")
        score_K, tasks = scores(scored.probabilities), self.ranker.reader.features.tasks
        best = np.argsort(-score_K, kind="stable")[: request.k].tolist()
        for number in best:
            poi_id = str(candidates["poi_id"][number])
            by_task = dict(zip(tasks, scored.probabilities[number].tolist(), strict=True))
            degraded = [] if scored.candidates.places[number] else ["new_place"]
            answer.items.append(RankedPlace(poi_id, float(score_K[number]), by_task, degraded))
        if request.explain:
            for item, texts in zip(answer.items, self.ranker.explain(scored, best), strict=True):
                item.texts = texts
        return answer

    def _candidates(self, request: RankRequest) -> Candidates:
        """Returns the columns of the candidates, which are sent or found nearby."""
        near, sent = request.near, request.candidates
        if near is None and sent is None:
            raise InputError("send `candidates`, or `near` for the places near a point; got none")
        if near is not None and sent is not None:
            raise InputError("send either `candidates` or `near`, not both")
        if near is None:
            return candidate_columns(sent or [], self.accepted.candidate)
        if not len(self.nearby.ids):
            raise InputError("`near` needs places with lat and lon; send `candidates` instead")
        places = self.nearby.search(near.lat, near.lon, near.within_km, near.at_most)
        return {"poi_id": [*places], "distance_km": [*places.values()]}

    def _degraded(self, scene: Row, candidates: Candidates, scored: Scored) -> list[str]:
        """Returns the content of `RankAnswer.degraded`."""
        missing = [name for name in self.accepted.scene if name not in scene]
        missing += [
            name
            for name in self.accepted.candidate
            if name != POSITION and None in candidates.get(name, [None])
        ]
        return [
            *([] if scored.request.known else ["unknown_user"]),
            *(f"missing:{name}" for name in missing),
            *(f"unknown_value:{n}" for n in scored.request.unknown + scored.candidates.unknown),
            *(f"missing_text:{name}" for name in scored.request.missing),
        ]

    def check_place(self, row: Columns) -> None:
        """Raises InputError for a place that cannot be added.

        Raises UnavailableError if this machine cannot embed its texts.
        """
        to_known_row(row, self.known_places)
        for source in self.ranker.sources | self.ranker.figures.keys():
            if source in self.embedders:
                self.embedders[source].require_packages()
            elif source in self.ranker.sources:  # of other sources the figures are missing
                raise InputError(
                    f"places cannot be added: this version cannot embed new texts with `{source}`"
                )

    def locate_places(self, accepted: Mapping[str, Columns]) -> None:
        """Lets `near` find the places of `accepted`, by ID, before their texts are embedded.

        Other threads may change `accepted`.
        """
        with self._locating:
            places = {i: row for i, row in dict(accepted).items() if i not in self.trained}
            new = {i: row for i, row in places.items() if self.located.get(i) != row}
            if changed := new.keys() | (self.located.keys() - places.keys()):
                self.nearby = self.nearby.changed(changed, new.values())
                self.located = places

    def sync_places(self, accepted: Mapping[str, Columns], *, stored_only: bool = False) -> None:
        """Adds, updates and removes places to match `accepted`, by ID.

        Places known from training do not change. A place that cannot be added is left out without
        affecting others; with `stored_only` also one with a text whose vector is not stored. Other
        threads may change `accepted`. Raises OSError and MemoryError, which are not the fault of a
        place, so that the caller tries again.
        """
        self.locate_places(accepted)
        embedders: Mapping[str, Embed] = self.embedders
        if stored_only:
            embedders = {source: each.stored for source, each in self.embedders.items()}
        with self._syncing:
            accepted = dict(accepted)
            if gone := self.added.keys() - accepted.keys():
                for poi_id in gone:  # it now ranks as an unknown place
                    self.ranker.reader.place_rows.pop(poi_id, None)
                self.added = {i: row for i, row in self.added.items() if i not in gone}
            wanted = {
                poi_id: row
                for poi_id, row in accepted.items()
                if poi_id not in self.trained
                and row not in (self.added.get(poi_id), self.unreadable.get(poi_id))
            }
            if wanted:
                self._add(wanted, embedders)

    def _add(self, wanted: Mapping[str, Columns], embedders: Mapping[str, Embed]) -> None:
        """Adds all places at once; on failure bisects them to isolate the faulty ones."""
        try:
            rows = [to_known_row(row, self.known_places) for row in wanted.values()]
            frame = pl.concat(rows, how="diagonal")
            self.ranker.add_places(frame, embedders)
        except (OSError, MemoryError):
            raise
        except Exception as error:  # usually one place that another version accepted
            if len(wanted) > 1:
                places = list(wanted.items())
                for half in (places[: len(places) // 2], places[len(places) // 2 :]):
                    self._add(dict(half), embedders)
            elif not isinstance(error, NotStoredError):
                self.unreadable |= wanted
                console.print(f"version {self.id}: {', '.join(wanted)} is left out: {error}")
            return
        self.added |= wanted
