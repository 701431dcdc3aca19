"""Progress on the terminal: how much is done, how fast, how long the rest will take."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

console = Console(stderr=True, highlight=False)
SECONDS_BETWEEN_LINES = 15.0

Advance = Callable[[int], None]


class _Rate(TextColumn):
    def __init__(self, unit: str) -> None:
        super().__init__("")
        self.unit = unit

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed or 0:,.0f} {self.unit}/s")


@contextmanager
def track(title: str, total: int, unit: str) -> Iterator[Advance]:
    """Yields `advance(n)`, which moves a bar on a terminal and prints lines in a log file."""
    if not console.is_terminal:
        with _lines(title, total, unit) as advance:
            yield advance
        return
    columns = (
        TextColumn("  {task.description:<28}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(unit),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(title, total=total)
        yield lambda n: bar.advance(task, n)


@contextmanager
def _lines(title: str, total: int, unit: str) -> Iterator[Advance]:
    """A line now and then: rich itself prints a bar only once, at its end, where it cannot draw."""
    started = printed = time.monotonic()
    done = 0

    def advance(n: int) -> None:
        nonlocal done, printed
        done += n
        now = time.monotonic()
        if now - printed >= SECONDS_BETWEEN_LINES:
            printed = now
            rate = done / (now - started)
            left = (total - done) / rate if rate else float("inf")
            console.print(
                f"  {title}: {done:,} of {total:,} {unit}, {rate:,.0f}/s, {left:.0f} s left"
            )

    yield advance
    seconds = time.monotonic() - started
    console.print(
        f"  {title}: {done:,} {unit} in {seconds:.1f} s ({done / max(seconds, 1e-9):,.0f}/s)"
    )
