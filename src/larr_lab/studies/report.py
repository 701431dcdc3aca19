"""The page of `larr experiments`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from larr.evaluation import plots
from larr.evaluation.findings import AUCS, COUNT_LABELS
from larr.evaluation.report import (
    SHOWN_VALUES,
    TITLES,
    effects_of,
    name,
    rendered,
    told_metrics,
)

Json = dict[str, Any]


def experiments_page(told: Json) -> str:
    """The HTML page of `larr_lab.studies.experiments`."""
    studies = told["studies"]
    return rendered(
        "experiments.html.j2",
        "larr_lab.studies",
        told=told,
        metrics=told_metrics(told),
        plots={key: list(_study_plots(study)) for key, study in studies.items()}
        | {"ab_test": _lifts_plot(told) if "ab_test" in told else ""},
        where=list(_where_plots(told["where"])),
    )


def _study_plots(study: Json) -> Iterator[tuple[str, str]]:
    for auc in AUCS:
        effects: list[plots.Effect] = []
        for gain in study["gains"]:
            pair = f"{name(gain['model'])} over {name(gain['over'])}"
            label = pair if gain["at"] is None else f"{gain['at']:,g}"
            effects += effects_of(label, gain["all"][auc])
        caption = f"{TITLES[auc]}: ratio of the AUCs minus 1, in %"
        title = f"{study['title']}: {caption}"
        if effects and study["axis"]:
            yield caption, plots.sweep(title, study["axis"], effects)
        elif effects:
            yield caption, plots.forest(title, effects)


def _where_plots(where: Json) -> Iterator[tuple[str, str]]:
    for column, parts in where.items():
        largest = sorted(parts, key=lambda part: -part["impressions"])[:SHOWN_VALUES]
        if {part["value"] for part in parts} <= set(COUNT_LABELS):
            largest.sort(key=lambda part: COUNT_LABELS.index(part["value"]))
        effects = [effect for part in largest for effect in effects_of(part["value"], part["gain"])]
        if effects:
            caption = f"by {column.replace('_', ' ')}"
            yield caption, plots.forest(f"Gain in CTR AUC of LARR over PLE {caption}", effects)


def _lifts_plot(told: Json) -> str:
    names = {"ctr": "CTR", "orders": "orders", "gmv": "GMV"}
    lifts = told["ab_test"]["truth"]
    effects = [effect for key, label in names.items() for effect in effects_of(label, lifts[key])]
    return plots.forest("True lift of LARR over PLE", effects)
