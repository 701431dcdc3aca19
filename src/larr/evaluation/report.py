"""The report for people: one HTML page that needs no network, and tables on the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich import box
from rich.table import Table

from larr.evaluation import plots
from larr.evaluation.findings import AUCS, BASE, CEILING, LARR, METRICS, SHUFFLED
from larr.html import environment
from larr.progress import console

Json = dict[str, Any]
NAMES = {
    "wide_deep": "Wide&Deep",
    "deepfm": "DeepFM",
    "dcn": "DCN-v2",
    "din": "DIN",
    "lightgbm": "LightGBM",
    "p5": "P5",
    "ple": "PLE",
    "larr": "LARR",
    "larr_random": "LARR (random)",
    "larr_tfidf": "LARR (TF-IDF)",
    "larr_untuned": "LARR (untuned LM)",
    "larr_shuffled": "LARR (shuffled)",
    "larr_minilm": "LARR (MiniLM)",
    "ceiling": "Ceiling",
    "pretrained": "LM after stage 1",
    "untuned": "Untuned LM",
    "tfidf": "TF-IDF",
}
"""How people read the name of a model or of vectors; a control is LARR with other vectors."""
TITLES = {
    "ctr_auc": "CTR AUC",
    "ctcvr_auc": "CTCVR AUC",
    "ctr_gauc": "CTR GAUC",
    "ctcvr_gauc": "CTCVR GAUC",
    "ctr_logloss": "CTR LogLoss",
    "ctcvr_logloss": "CTCVR LogLoss",
}
MOMENTS = {"before": 0, "untuned": 0, "after": 1, "cpt only": 1, "whole": 2}
"""A word in the name of a figure of the language model -> the column: untuned, stage 1, stage 2."""
FEWEST_RECORDS = 3
FEWEST_USERS = 40
"""Of fewer a bootstrap over users has too narrow an interval for a verdict."""
SHOWN_VALUES = 12
"""Values of a column in a plot, the largest; the table below it has all."""


def page(found: Json) -> str:
    """The HTML page of a report."""
    return rendered(
        "report.html.j2",
        found=found,
        metrics=told_metrics(found),
        sentences=list(sentences(found)),
        plots=_plots(found),
        base=BASE,
        main=_main_pair(found),
        verdict=_verdict(found)[0],
        learned=_learned(found["language_model"]),
        other_figures=_other_figures(found["language_model"]),
        total_seconds=sum(stage["seconds"] for stage in found["stages"].values()),
    )


def rendered(template: str, *packages: str, **context: Any) -> str:
    """A page from a template of larr, or of other packages, with the filters for figures."""
    templates = environment(*packages)
    templates.filters |= {
        "name": name,
        "title": TITLES.__getitem__,
        "figure": figure,
        "signed": signed,
        "pair": pair_name,
    }
    return templates.get_template(template).render(context)


def print_tables(found: Json) -> None:
    """The models' metrics and the gains, on the terminal."""
    seeds = ", ".join(map(str, found["seeds"]))
    table = Table(title=f"{found['dataset']}, seed {seeds}", box=box.SIMPLE, padding=(0, 1, 0, 0))
    table.add_column("model", no_wrap=True)
    for metric in told_metrics(found):
        table.add_column(TITLES[metric], justify="right")
    for model, metrics in found["models"].items():
        cells = [
            figure(metrics[metric] and metrics[metric]["mean"]) for metric in told_metrics(found)
        ]
        table.add_row(name(model), *cells)
    console.print(table)
    for sentence in sentences(found):
        console.print(sentence)


def told_metrics(found: Json) -> list[str]:
    """The metrics that this data set has."""
    return [metric for metric in METRICS if metric.split("_")[0] in found["tasks"]]


def name(model: str) -> str:
    """A model's name for people; that of a variant is its own."""
    return NAMES.get(model, model.replace("_", " "))


def pair_name(pair: str) -> str:
    """`a_over_b` for people."""
    first, second = pair.split("_over_")
    return f"{name(first)} over {name(second)}"


def figure(value: float | None, digits: int = 4) -> str:
    """A number, or a dash where there is none."""
    return "–" if value is None else f"{value:,.{digits}f}"


def signed(value: float, digits: int = 2, sign: str = "+") -> str:
    """A number with its sign, or with a minus alone if `sign` is empty; never -0."""
    return format(value, f"{sign}z.{digits}f")


def gain(told: Json | None, digits: int = 2, sign: str = "+") -> str:
    """A percentage and its interval, in one unbroken piece."""
    if told is None or told["percent"] is None:
        return "–"
    said = f"{signed(told['percent'], digits, sign)}\u00a0%"
    if told["low"] is None:
        return said
    low, high = signed(told["low"], digits, sign), signed(told["high"], digits, sign)
    return f"{said}\u00a0[{low},\u00a0{high}]"


def sentences(found: Json) -> Iterator[str]:
    """The finding in plain words: the gain, the distance to the ceiling, the controls."""
    main = _main_pair(found)
    if main is None:
        yield "No pair of models was compared: evaluate.gains names none that was trained."
        return
    gains = found["gains"][main]
    told = [auc for auc in AUCS if gains[auc] is not None]
    said = " and ".join(f"{gain(gains[auc])} {TITLES[auc]}" for auc in told)
    yield f"{pair_name(main)}: {said}. {_verdict(found)[1]}"
    closed = found["distance_closed"]["all"].get(main.split("_over_")[0])
    if closed is not None and main.endswith(f"_over_{BASE}"):
        said = " and ".join(f"{gain(closed[auc], 0, '')} in {TITLES[auc]}" for auc in told)
        yield f"Of the distance from {name(BASE)} to the ceiling it closes {said}."
    collapsed = found["language_model"].get("contrast", {}).get("collapsed")
    if collapsed:
        seeds = "" if collapsed == 1 else f" on {collapsed:.0%} of the seeds"
        yield f"Contrastive tuning collapsed{seeds}: the vectors there are those from before it."
    control = found["gains"].get(f"{SHUFFLED}_over_{BASE}")
    if control is not None:
        yield (
            f"With the same vectors shuffled among the texts the gain over {name(BASE)} is "
            f"{gain(control[AUCS[0]])} CTR AUC: what is left without the meaning of the texts."
        )
    rivals = {
        rival: found["gains"][rival][AUCS[0]]
        for rival in found["gains"]
        if rival.startswith(f"{LARR}_over_{LARR}_")
    }
    if rivals:
        listed = "; ".join(
            f"{name(rival.split('_over_')[1])} {gain(rivals[rival])}" for rival in rivals
        )
        yield f"Over the same model with other vectors, in CTR AUC: {listed}."


def _verdict(found: Json) -> tuple[str, str]:
    """The outcome of the main pair: up, down or unclear, and a sentence."""
    main = _main_pair(found)
    told = None if main is None else found["gains"][main][AUCS[0]]
    if told is None or told["low"] is None:
        return "unclear", "There are too few impressions for an interval."
    users = found["sizes"]["all"]["users"]
    if users < FEWEST_USERS:
        return "unclear", (
            f"The test days have {users:.0f} users: too few for an interval to be trusted."
        )
    if told["low"] > 0:
        return "up", "The interval of the CTR AUC is above zero."
    if told["high"] < 0:
        return "down", "The interval of the CTR AUC is below zero: it is worse."
    return "unclear", "The interval of the CTR AUC holds zero: no difference is shown."


def _main_pair(found: Json) -> str | None:
    """The first configured pair: the gains begin with those."""
    return next(iter(found["gains"]), None)


def _plots(found: Json) -> Json:
    main = _main_pair(found)
    return {
        "gains": [drawn for auc in AUCS if (drawn := _gains_plot(found, auc)) is not None],
        "slices": {
            column: _slices_plot(found, column, main)
            for column in found["slices"]
            if main is not None
        },
        "calibration": {task: _calibration_plot(found, task) for task in found["tasks"]},
        "learning": {
            title: plots.learning(title, curves)
            for title, curves in _curves(found["language_model"]).items()
        },
    }


def effects_of(label: str, told: Json | None) -> Iterator[plots.Effect]:
    if told is not None and None not in (told["percent"], told["low"]):
        yield plots.Effect(label, told["percent"], told["low"], told["high"])


def _gains_plot(found: Json, auc: str) -> str | None:
    effects = [
        effect
        for pair, gains in found["gains"].items()
        for effect in effects_of(pair_name(pair), gains[auc])
    ]
    return plots.forest(f"Gains in {TITLES[auc]}", effects) if effects else None


def _slices_plot(found: Json, column: str, main: str) -> str | None:
    sizes = found["sizes"]["slices"][column]
    largest = sorted(sizes, key=lambda value: -sizes[value]["impressions"])[:SHOWN_VALUES]
    effects = [
        effect
        for value in largest
        for effect in effects_of(value, found["slice_gains"][column][value][main][AUCS[0]])
    ]
    title = f"Gain in CTR AUC of {pair_name(main)} by {column}"
    return plots.forest(title, effects) if effects else None


def _calibration_plot(found: Json, task: str) -> str:
    shown = [model for model in (BASE, LARR, CEILING) if model in found["models"]]
    curves = {}
    for model in shown or list(found["models"])[:3]:
        bins = [row for row in found["calibration"][model][task]["bins"] if row is not None]
        curves[name(model)] = [(row["predicted"], row["observed"]) for row in bins]
    return plots.reliability(f"Calibration of {task.upper()}", curves)


def _learned(tree: Json) -> dict[str, list[Any]]:
    """A row for each figure taken of the language model: untuned, after stage 1, after stage 2."""
    rows: dict[str, list[Any]] = {}
    for path, value in _leaves(tree):
        words = " ".join(path).replace("_", " ")
        for moment, column in MOMENTS.items():
            if moment in words:
                row = " ".join(words.replace(moment, "").split())
                rows.setdefault(row, [None] * 3)[column] = value
    return rows


def _other_figures(tree: Json) -> list[str]:
    """What is said of the language model's training once."""
    said = []
    for path, value in _leaves(tree):
        words = " ".join(path).replace("_", " ")
        if not isinstance(value, list) and not any(moment in words for moment in MOMENTS):
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            said.append(f"{words} {value:,}" if is_number else f"{words}: {value}".lower())
    return said


def _curves(tree: Json) -> dict[str, dict[str, list[float]]]:
    """What was recorded along the way: lists of numbers, and lists of records of numbers."""
    curves = {}
    for path, value in _leaves(tree):
        if isinstance(value, list) and len(value) >= FEWEST_RECORDS:
            records = value if isinstance(value[0], dict) else [{path[-1]: one} for one in value]
            curves[" ".join(path).replace("_", " ")] = {
                name.replace("_", " "): [record[name] for record in records] for name in records[0]
            }
    return curves


def _leaves(tree: Json, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, (*path, key))
        else:
            yield (*path, key), value
