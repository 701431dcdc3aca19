"""The versions that a running service ranks with, and their change while it runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from larr.buckets import position
from larr.errors import LarrError
from larr.progress import console
from larr.serve.ranking import RankAnswer, Ranking, RankRequest
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
        self.refused: str | None = None
        """Why the store's latest choice is not served, if it is not."""
        self.opened = self._open(store.arms())

    def rank(self, asked: RankRequest) -> RankAnswer:
        """The answer of the arm that the user is in."""
        opened = self.choose(asked.user_id)
        answer = opened.ranking.rank(asked)
        answer.arm = opened.arm.name
        return answer

    def choose(self, user_id: str) -> Opened:
        """The same arm for a user as long as the arms stay."""
        opened = self.opened
        at = position(user_id, opened[-1].arm.version) if len(opened) > 1 else 0.0
        for one in opened:
            at -= one.arm.share
            if at < 0:
                return one
        return opened[-1]

    def refresh(self) -> None:
        """Opens what the store names now; a version that is refused leaves all as it was."""
        try:
            arms = self.store.arms()
            if arms != [one.arm for one in self.opened]:
                self.opened = self._open(arms)
                told = ", ".join(f"{one.name}: {one.version} ({one.share:.0%})" for one in arms)
                console.print(f"serving {told}")
            self.refused = None
        except LarrError as error:
            if str(error) != self.refused:
                console.print(f"[bold red]not served:[/bold red] {error}")
            self.refused = str(error)

    def _open(self, arms: Sequence[Arm]) -> list[Opened]:
        known = {one.arm.version: one.ranking for one in getattr(self, "opened", [])}
        return [Opened(arm, known.get(arm.version) or self.store.load(arm.version)) for arm in arms]
