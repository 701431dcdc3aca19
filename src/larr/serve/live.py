"""The versions that a running service ranks with, and their change while it runs."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass

from rich.markup import escape

from larr.errors import InputError, LarrError
from larr.progress import console
from larr.serve.arms import position
from larr.serve.places import ID, JOURNAL, WITHDRAWN, Journal, withdrawn
from larr.serve.ranking import Columns, RankAnswer, Ranking, RankRequest
from larr.serve.store import Arm, Store


@dataclass(frozen=True)
class Opened:
    """An arm and its ranking."""

    arm: Arm
    ranking: Ranking


class Live:
    """Ranks with the arms that the store names; `refresh` follows the store."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.journal = Journal(store.folder / JOURNAL)
        self.accepted: dict[str, Columns] = {}
        """The places that came later and were not withdrawn, by their IDs, as sent last."""
        self._catching_up = threading.Lock()
        self._catch_up()
        self.has_followed = False
        """Whether the places that came before the start are embedded."""
        self.refused: str | None = None
        """Why the store's latest choice is not served, if it is not."""
        self.opened: list[Opened] = []
        self.opened = self._open(store.arms())

    def rank(self, asked: RankRequest) -> RankAnswer:
        """The answer of the arm that the user is in."""
        opened = self.choose(asked.user_id)
        answer = opened.ranking.rank(asked)
        answer.arm = opened.arm.name
        return answer

    def choose(self, user_id: str | int) -> Opened:
        """The same arm for a user as long as the arms stay."""
        opened = self.opened
        at = position(str(user_id), opened[-1].arm.version) if len(opened) > 1 else 0.0
        for one in opened:
            at -= one.arm.share
            if at < 0:
                return one
        return opened[-1]

    def accept(self, row: Columns) -> None:
        """Keeps a new place on the disk; `refresh` embeds its texts."""
        if type(row.get(ID)) is int:
            row = row | {ID: str(row[ID])}
        for one in self.opened:
            one.ranking.check_place(row)
        if self.status(str(row["poi_id"])) == "trained":
            raise InputError(f"place {row['poi_id']!r:.80} is known from training")
        self.journal.append(row)

    def withdraw(self, poi_id: str) -> bool:
        """Takes an accepted place back; `refresh` forgets it. False if nobody knows it."""
        status = self.status(poi_id)
        if status == "trained":
            raise InputError(
                f"place {poi_id!r:.80} is known from training and cannot be withdrawn; leave it "
                "out of `candidates`"
            )
        if status is not None:
            self.journal.append({WITHDRAWN: poi_id})
        return status is not None

    def status(self, poi_id: str) -> str | None:
        """`trained`, `embedded` or `accepted`; None of a place that nobody knows."""
        self._catch_up()
        rankings = [one.ranking for one in self.opened]
        if all(poi_id in ranking.trained for ranking in rankings):
            return "trained"
        row = self.accepted.get(poi_id)
        if row is None:
            return None
        as_sent = (poi_id in one.trained or one.added.get(poi_id) == row for one in rankings)
        return "embedded" if all(as_sent) else "accepted"

    def refresh(self) -> None:
        """Follows the places that came and went, and opens what the store names now.

        A version that is refused leaves all as it was.
        """
        try:
            self._catch_up()
            accepted = dict(self.accepted)
            for one in self.opened:
                one.ranking.follow(accepted)
            arms = self.store.arms()
            if arms != [one.arm for one in self.opened]:
                opened = self._open(arms)
                for one in opened:
                    one.ranking.follow(accepted)
                self.opened = opened
                told = ", ".join(f"{one.name}: {one.version} ({one.share:.0%})" for one in arms)
                console.print(f"serving {told}")
            self.refused = None
        except Exception as error:
            told = str(error) if isinstance(error, LarrError) else f"{error!r}"
            if told != self.refused:
                console.print(f"[bold red]not served:[/bold red] {escape(told)}")
            self.refused = told
        self.has_followed = True

    def _catch_up(self) -> None:
        """Reads what this process or another one has accepted or withdrawn."""
        with self._catching_up:
            for row in self.journal.news():
                gone = withdrawn(row)
                if gone is None:
                    self.accepted[str(row[ID])] = row
                else:
                    self.accepted.pop(gone, None)

    def _open(self, arms: Sequence[Arm]) -> list[Opened]:
        known = {one.arm.version: one.ranking for one in self.opened}
        return [Opened(arm, known.get(arm.version) or self.store.load(arm.version)) for arm in arms]
