"""Progress on the terminal: how much is done, how fast, how long the rest will take."""

from __future__ import annotations

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
    columns = (
        TextColumn("  {task.description:<28}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(unit),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        bar.add_task(title, total=total)
        (task,) = bar.tasks
        printed = 0.0

        def advance(n: int) -> None:
            nonlocal printed
            bar.advance(task.id, n)
            # where it cannot draw, rich would print nothing until the end
            seconds = task.elapsed or 0.0
            if not console.is_terminal and seconds - printed >= SECONDS_BETWEEN_LINES:
                printed, rate = seconds, max(task.completed, 1) / seconds
                left = f"{rate:,.0f}/s, {(total - task.completed) / rate:.0f} s left"
                console.print(f"  {title}: {task.completed:,} of {total:,} {unit}, {left}")

        yield advance
        if not console.is_terminal:
            seconds = task.elapsed or 1e-9
            rate = f"{task.completed / seconds:,.0f}/s"
            console.print(f"  {title}: {task.completed:,} {unit} in {seconds:.1f} s ({rate})")
