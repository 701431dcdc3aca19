"""The versions of a running service, and switching between them while it runs."""

from __future__ import annotations

import hashlib
import threading
from typing import NamedTuple

from rich.text import Text

from larr.errors import InputError, LarrError
from larr.progress import console
from larr.serve.places import ID, JOURNAL, WITHDRAWN, Journal
from larr.serve.request import Arm, Columns, RankAnswer, RankRequest
from larr.serve.store import Store
from larr.serve.version import ServedVersion


class Opened(NamedTuple):
    """An arm and its loaded version."""

    arm: Arm
    version: ServedVersion


class Live:
    """Ranks with the arms that the store names; `refresh` follows the store."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.journal = Journal(store.folder / JOURNAL)
        self.accepted: dict[str, Columns] = {}
        """The added places that were not withdrawn, by ID, as last sent."""
        self._reading = threading.Lock()
        self._read_journal()
        self.refused: str | None = None
        """Why the store's current versions are not served, if they are not."""
        self.opened = [Opened(arm, store.load(arm.version)) for arm in store.arms()]
        for opened in self.opened:  # as before a restart; `refresh` embeds what was not embedded
            opened.version.sync_places(self.accepted, stored_only=True)

    def rank(self, request: RankRequest) -> RankAnswer:
        """Returns the answer of the user's arm."""
        opened = self.choose(request.user_id)
        answer = opened.version.rank(request)
        answer.arm = opened.arm.name
        return answer

    def choose(self, user_id: str | int) -> Opened:
        """Returns the arm of a user, which is constant as long as the arms do not change."""
        first, *others = self.opened  # read once, because `refresh` may replace it
        for second in others:  # at most one, during a test
            if arm_position(str(user_id), second.arm.version) >= first.arm.share:
                return second
        return first

    def accept(self, row: Columns) -> None:
        """Writes a new place to disk; `near` then finds it, and `refresh` embeds its texts.

        Raises InputError for a place that cannot be added, and UnavailableError if this machine
        cannot embed its texts.
        """
        if type(row.get(ID)) is int:
            row = row | {ID: str(row[ID])}
        for opened in self.opened:
            opened.version.check_place(row)
        if self.status(str(row["poi_id"])) == "trained":
            raise InputError(
                f"place {row['poi_id']!r:.80} is already known from training; its columns change "
                "with the next version (`larr run`, `larr publish`)"
            )
        self.journal.append(row)
        self._locate_places()

    def withdraw(self, poi_id: str) -> bool:
        """Withdraws an accepted place, which `refresh` then removes; False if it is unknown."""
        status = self.status(poi_id)
        if status is None:
            return False
        if status == "trained":
            raise InputError(
                f"place {poi_id!r:.80} is known from training and cannot be withdrawn; leave it "
                "out of `candidates`"
            )
        self.journal.append({WITHDRAWN: poi_id})
        self._locate_places()
        return True

    def status(self, poi_id: str) -> str | None:
        """Returns `trained`, `embedded` or `accepted`; None for an unknown place."""
        self._read_journal()
        versions = [opened.version for opened in self.opened]
        if all(poi_id in version.trained for version in versions):
            return "trained"
        if (row := self.accepted.get(poi_id)) is None:
            return None
        as_sent = (poi_id in each.trained or each.added.get(poi_id) == row for each in versions)
        return "embedded" if all(as_sent) else "accepted"

    def refresh(self) -> None:
        """Adds and removes places, and loads the store's current versions.

        Keeps the previous versions if one is refused.
        """
        try:
            self._locate_places()
            for opened in self.opened:
                opened.version.sync_places(self.accepted)
            arms = self.store.arms()
            if arms != [opened.arm for opened in self.opened]:
                known = {opened.arm.version: opened.version for opened in self.opened}
                changed = [
                    Opened(arm, known.get(arm.version) or self.store.load(arm.version))
                    for arm in arms
                ]
                for opened in changed:
                    opened.version.sync_places(self.accepted)
                self.opened = changed  # atomic: a request sees either the old or the new arms
                names = ", ".join(f"{arm.name}: {arm.version} ({arm.share:.0%})" for arm in arms)
                console.print(f"serving {names}")
            self.refused = None
        except Exception as error:  # a bad version must not stop a working service
            reason = str(error) if isinstance(error, LarrError) else f"{error!r}"
            if reason != self.refused:
                console.print(Text("not served:", style="bold red"), reason)
            self.refused = reason

    def _locate_places(self) -> None:
        self._read_journal()
        for opened in self.opened:
            opened.version.locate_places(self.accepted)

    def _read_journal(self) -> None:
        """Reads the places that any process has accepted or withdrawn since the last call."""
        with self._reading:
            for row in self.journal.read_new():
                if ID in row:
                    self.accepted[row[ID]] = row
                else:
                    self.accepted.pop(row[WITHDRAWN], None)


def arm_position(user_id: str, test: str) -> float:
    """Returns a number in [0, 1), uniform over users and independent between tests."""
    digest = hashlib.sha256(f"{test} {user_id}".encode()).digest()
    return int.from_bytes(digest[:6]) / 2**48
