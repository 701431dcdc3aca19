"""The terminal: tables, and progress bars with amount of work, rate and remaining time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich import box
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

console = Console(stderr=True, highlight=False, markup=False)
SECONDS_BETWEEN_LINES = 5.0

Advance = Callable[[int], None]


def plain_table(*headers: str, title: str | None = None) -> Table:
    """Returns an empty table without frames."""
    return Table(*headers, title=title, box=box.SIMPLE, padding=(0, 1, 0, 0))


def rounded(rate: float, unit: str) -> str:
    """Returns a rate such as `1,200 rows/s`, or `0.4 steps/s` with a decimal below 1."""
    return f"{rate:,.{int(0 < rate < 1)}f} {unit}"


@contextmanager
def track(title: str, total: int, unit: str) -> Iterator[Advance]:
    """Yields `advance(n)`, which updates a bar on a terminal, or prints lines to a log file."""
    columns = (
        TextColumn("  {task.description:<28}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    draws = console.is_terminal
    with Progress(*columns, console=console, disable=not draws) as bar:
        bar.add_task(title, total=total, rate=f"0 {unit}/s")
        (task,) = bar.tasks
        printed = 0.0

        def advance(n: int) -> None:
            nonlocal printed
            seconds = task.elapsed or 1e-9
            rate = (task.completed + n) / seconds
            bar.update(task.id, advance=n, rate=rounded(rate, f"{unit}/s"))
            # Without a terminal rich prints nothing until the end.
            if not draws and seconds - printed >= SECONDS_BETWEEN_LINES:
                printed = seconds
                line = f"  {title}: {task.completed:,} of {total:,} {unit}"
                if task.completed:
                    left = (total - task.completed) / rate
                    line += f", {task.fields['rate']}, {left:.0f} s left"
                console.print(line)

        yield advance
        if not draws:
            seconds, rate = task.elapsed or 0.0, task.fields["rate"]
            console.print(f"  {title}: {task.completed:,} {unit} in {seconds:.1f} s, {rate}")
