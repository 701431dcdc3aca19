"""The plots of the report: inline SVG whose colours follow the page, light or dark."""

from __future__ import annotations

import html
import io
import re
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

WIDTH_INCHES = 5.0
ROW_INCHES = 0.52
FONT_POINTS = 10
COLOURS = {
    "#111101": "ink",
    "#777702": "muted",
    "#dddd03": "line",
    "#118804": "up",
    "#cc2205": "down",
    "#fefe06": "card",
}
"""A colour drawn -> the CSS variable that takes its place."""
INK, MUTED, LINE, UP, DOWN, CARD = COLOURS
SERIES = (MUTED, UP, INK)
MARKERS = ("s", "o", "^")
_RC = {
    "svg.fonttype": "none",
    "font.size": FONT_POINTS,
    "text.color": INK,
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
}


class Effect(NamedTuple):
    """A row of a forest plot: a gain in % with its interval."""

    label: str
    percent: float
    low: float
    high: float


def forest(title: str, effects: Sequence[Effect], higher_is_better: bool = True) -> str:
    """Returns gains with their intervals beside the line of no gain, coloured by good and bad."""
    with matplotlib.rc_context(_RC):
        height = ROW_INCHES * len(effects) + 0.55
        figure = Figure((WIDTH_INCHES, height), layout="constrained")
        axes = figure.add_subplot()
        axes.axvline(0, color=MUTED, linewidth=1)
        for row, effect in enumerate(reversed(effects)):
            _draw(axes, row, effect, higher_is_better)
        low, high = min(0.0, *(e.low for e in effects)), max(0.0, *(e.high for e in effects))
        margin = 0.04 * (high - low or 1.0)
        axes.set_xlim(low - margin, high + margin)
        axes.set_ylim(-0.35, len(effects) - 0.3)
        axes.set_yticks([])
        axes.set_xlabel("gain in %")
        axes.grid(axis="x", color=LINE, linewidth=0.6)
        _bare(axes)
        return _svg(figure, title)


def sweep(title: str, axis: str, effects: Sequence[Effect]) -> str:
    """Gains with their intervals over the values of a setting, evenly spaced."""
    with matplotlib.rc_context(_RC):
        figure = Figure((WIDTH_INCHES, 3.0), layout="constrained")
        axes = figure.add_subplot()
        axes.axhline(0, color=MUTED, linewidth=1)
        places = range(len(effects))
        axes.plot(places, [effect.percent for effect in effects], color=LINE, linewidth=1.6)
        for place, effect in enumerate(effects):
            axes.plot([place, place], [effect.low, effect.high], color=UP, linewidth=2.5)
            axes.plot([place], [effect.percent], "o", color=UP, markersize=6)
        axes.set_xticks(places, [effect.label for effect in effects])
        axes.set_xlim(-0.5, len(effects) - 0.5)
        axes.set_xlabel(axis)
        axes.set_ylabel("gain in %")
        axes.grid(axis="y", color=LINE, linewidth=0.6)
        _bare(axes)
        return _svg(figure, title)


def _draw(axes: Axes, row: int, effect: Effect, higher_is_better: bool) -> None:
    up, down = (UP, DOWN) if higher_is_better else (DOWN, UP)
    colour = up if effect.low > 0 else down if effect.high < 0 else MUTED
    axes.plot([effect.low, effect.high], [row, row], color=colour, linewidth=2.5)
    axes.plot([effect.percent], [row], "o", color=colour, markersize=6)
    said = f"{effect.percent:+.2f} [{effect.low:+.2f}, {effect.high:+.2f}]"
    above = axes.get_yaxis_transform()
    box = {"facecolor": CARD, "edgecolor": "none", "pad": 1.5}
    style: dict[str, Any] = {"transform": above, "va": "center", "parse_math": False, "bbox": box}
    axes.text(0.005, row + 0.4, effect.label, **style)
    axes.text(0.995, row + 0.4, said, ha="right", color=MUTED, **style)


def reliability(title: str, curves: dict[str, list[tuple[float, float]]]) -> str:
    """Observed against predicted shares in bins of equal count; the diagonal is calibrated."""
    with matplotlib.rc_context(_RC):
        figure = Figure((WIDTH_INCHES, 3.6), layout="constrained")
        axes = figure.add_subplot()
        top = max(max(point) for curve in curves.values() for point in curve) * 1.05 or 1.0
        axes.plot([0, top], [0, top], color=LINE, linewidth=1.2)
        for number, (name, points) in enumerate(curves.items()):
            style: dict[str, Any] = {"color": SERIES[number % 3], "marker": MARKERS[number % 3]}
            axes.plot(*zip(*points, strict=True), label=name, linewidth=1.2, markersize=5, **style)
        axes.set_xlim(0, top)
        axes.set_ylim(0, top)
        axes.set_xlabel("predicted share")
        axes.set_ylabel("observed share")
        axes.legend(frameon=False)
        _bare(axes)
        return _svg(figure, title)


def learning(title: str, curves: dict[str, list[float]]) -> str:
    """Figures over the steps at which they were taken."""
    with matplotlib.rc_context(_RC):
        figure = Figure((WIDTH_INCHES, 2.4), layout="constrained")
        axes = figure.add_subplot()
        for number, (name, values) in enumerate(curves.items()):
            colour, style = (UP, INK, MUTED, DOWN)[number % 4], ("-", "--", "-.", ":")[number % 4]
            steps = range(1, len(values) + 1)
            axes.plot(steps, values, color=colour, linestyle=style, linewidth=1.6, label=name)
        if len(curves) > 1:
            axes.legend(frameon=False)
        axes.set_xlabel("record")
        axes.grid(axis="y", color=LINE, linewidth=0.6)
        _bare(axes)
        return _svg(figure, title)


def _bare(axes: Axes) -> None:
    axes.set_facecolor("none")
    axes.tick_params(length=0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)


def _svg(figure: Figure, title: str) -> str:
    figure.patch.set_alpha(0)
    written = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": title}), warnings.catch_warnings():
        # the browser has the glyphs that matplotlib's own font lacks
        warnings.filterwarnings("ignore", message="Glyph")
        figure.savefig(written, format="svg", metadata={"Date": None, "Creator": None})
    drawn = written.getvalue()
    drawn = drawn[drawn.index("<svg") :]
    for colour, name in COLOURS.items():
        drawn = drawn.replace(colour, f"var(--{name})")
    drawn = re.sub(r" font-family: [^;\"]*;", "", drawn)
    described = f'<svg role="img" aria-label="{html.escape(title)}"'
    return drawn.replace("<svg", described, 1)
