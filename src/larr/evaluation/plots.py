"""The plots of the report: inline SVG with the colours of the page, light or dark."""

from __future__ import annotations

import html
import io
import re
import warnings
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

WIDTH_INCHES = 5.0
ROW_INCHES = 0.52
COLOURS = {
    "#111101": "ink",
    "#777702": "muted",
    "#dddd03": "line",
    "#118804": "up",
    "#cc2205": "down",
    "#fefe06": "card",
}
"""A placeholder colour, unique in the SVG -> the CSS variable that replaces it."""
INK, MUTED, LINE, UP, DOWN, CARD = COLOURS
Gain = tuple[str, dict[str, Any] | None]
"""A label, and a gain of report.json: `percent`, `low` and `high`."""
STYLE = {
    "svg.fonttype": "none",  # keeps letters as text: small, searchable files
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
}


def forest(title: str, gains: Iterable[Gain], higher_is_better: bool = True) -> str:
    """Plots gains with their intervals, a row for each, around the line of no gain.

    Leaves out gains without an interval; returns "" if none is left.
    """
    rows = _with_interval(gains)
    if not rows:
        return ""
    better, worse = (UP, DOWN) if higher_is_better else (DOWN, UP)

    def draw(axes: Axes) -> None:
        axes.axvline(0, color=MUTED, linewidth=1)
        box = {"facecolor": CARD, "edgecolor": "none", "pad": 1.5}
        # labels come from the data: parse_math would render "$x$" as a formula
        write = partial(
            axes.text, transform=axes.get_yaxis_transform(), va="center", parse_math=False, bbox=box
        )
        for row, (label, percent, low, high) in enumerate(reversed(rows)):
            colour = better if low > 0 else worse if high < 0 else MUTED
            axes.plot([low, high], [row, row], color=colour, linewidth=2.5)
            axes.plot([percent], [row], "o", color=colour, markersize=6)
            text = f"{percent:+.2f} [{low:+.2f}, {high:+.2f}]"
            write(0.005, row + 0.4, label)
            write(0.995, row + 0.4, text, ha="right", color=MUTED)
        axes.margins(x=0.04)
        axes.set(ylim=(-0.35, len(rows) - 0.3), yticks=[], xlabel="gain in %")
        axes.grid(axis="x", color=LINE, linewidth=0.6)

    return _svg(title, ROW_INCHES * len(rows) + 0.55, draw)


def sweep(title: str, axis: str, gains: Iterable[Gain]) -> str:
    """Plots gains with their intervals over the values of a setting, evenly spaced.

    Leaves out gains without an interval; returns "" if none is left.
    """
    rows = _with_interval(gains)
    if not rows:
        return ""
    labels, percents, *_ = zip(*rows, strict=True)

    def draw(axes: Axes) -> None:
        axes.axhline(0, color=MUTED, linewidth=1)
        axes.plot(range(len(rows)), percents, color=LINE, linewidth=1.6)
        for x, (_, percent, low, high) in enumerate(rows):
            axes.plot([x, x], [low, high], color=UP, linewidth=2.5)
            axes.plot([x], [percent], "o", color=UP, markersize=6)
        axes.set_xticks(range(len(rows)), labels)
        axes.set(xlim=(-0.5, len(rows) - 0.5), xlabel=axis, ylabel="gain in %")
        axes.grid(axis="y", color=LINE, linewidth=0.6)

    return _svg(title, 3.0, draw)


def reliability(title: str, curves: dict[str, list[tuple[float, float]]]) -> str:
    """Plots observed against predicted shares of bins, with the diagonal."""

    def draw(axes: Axes) -> None:
        top = max(max(point) for curve in curves.values() for point in curve) * 1.05 or 1.0
        axes.plot([0, top], [0, top], color=LINE, linewidth=1.2)
        axes.set_prop_cycle(color=[MUTED, UP, INK], marker=["s", "o", "^"])
        for name, points in curves.items():
            axes.plot(*zip(*points, strict=True), label=name, linewidth=1.2, markersize=5)
        axes.set(xlim=(0, top), ylim=(0, top), xlabel="predicted share", ylabel="observed share")
        axes.legend(frameon=False)

    return _svg(title, 3.6, draw)


def learning(title: str, curves: dict[str, list[float]]) -> str:
    """Plots recorded figures in their order."""

    def draw(axes: Axes) -> None:
        axes.set_prop_cycle(color=[UP, INK, MUTED, DOWN], linestyle=["-", "--", "-.", ":"])
        for name, values in curves.items():
            axes.plot(range(1, len(values) + 1), values, linewidth=1.6, label=name)
        if len(curves) > 1:
            axes.legend(frameon=False)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("in the order of the training")
        axes.grid(axis="y", color=LINE, linewidth=0.6)

    return _svg(title, 2.4, draw)


def _with_interval(gains: Iterable[Gain]) -> list[tuple[str, float, float, float]]:
    """Returns the label, percentage, low and high of each gain with an interval."""
    return [
        (label, gain["percent"], gain["low"], gain["high"])
        for label, gain in gains
        if gain is not None and None not in (gain["percent"], gain["low"])
    ]


def _svg(title: str, height_inches: float, draw: Callable[[Axes], None]) -> str:
    """Returns a figure as an SVG element with the colours and font of the page."""
    written = io.StringIO()
    # the fixed salt and date give the same plot the same bytes
    with matplotlib.rc_context(STYLE | {"svg.hashsalt": title}), warnings.catch_warnings():
        # the browser has the glyphs that matplotlib's font lacks
        warnings.filterwarnings("ignore", message="Glyph")
        figure = Figure((WIDTH_INCHES, height_inches), layout="constrained")
        figure.patch.set_alpha(0)
        axes = figure.add_subplot()
        draw(axes)
        axes.set_facecolor("none")
        axes.tick_params(length=0)
        axes.spines[["top", "right", "left"]].set_visible(False)
        figure.savefig(written, format="svg", metadata={"Date": None, "Creator": None})
    svg = written.getvalue()
    svg = svg[svg.index("<svg") :]
    for colour, name in COLOURS.items():
        svg = svg.replace(colour, f"var(--{name})")
    svg = re.sub(r" font-family: [^;\"]*;", "", svg)
    return svg.replace("<svg", f'<svg role="img" aria-label="{html.escape(title)}"', 1)
