"""The page of `larr experiments`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from larr.evaluation import plots
from larr.evaluation.findings import COUNT_LABELS, slice_metrics
from larr.evaluation.report import SHOWN_VALUES, effects_of, name, rendered
from larr.metrics import Metric, metrics_of

Json = dict[str, Any]


def experiments_page(content: Json) -> str:
    """Returns the HTML page of `experiments.json`."""
    metrics = metrics_of(content["tasks"])
    main = metrics[slice_metrics()[0]]
    studies = content["studies"].items()
    return rendered(
        "experiments.html.j2",
        "larr_lab.studies",
        results=content,
        metrics=metrics,
        main=slice_metrics()[0],
        study_plots={key: dict(_study_plots(study, metrics)) for key, study in studies},
        where=dict(_where_plots(content["where"], main)),
        lifts=_lifts_plot(content["ab_test"]["truth"]) if "ab_test" in content else "",
    )


def _study_plots(study: Json, metrics: dict[str, Metric]) -> Iterator[tuple[str, str]]:
    """Yields captions and plots: over the axis of the study if it has one."""
    for key, metric in metrics.items():
        if not metric.headline:
            continue
        effects: list[plots.Effect] = []
        for gain in study["gains"]:
            pair = f"{name(gain['model'])} over {name(gain['over'])}"
            label = pair if gain["at"] is None else f"{gain['at']:,g}"
            effects += effects_of(label, gain["all"][key])
        caption = f"{metric.title}: its ratio minus 1, in %"
        title = f"{study['title']}: {caption}"
        if effects and study["axis"]:
            yield caption, plots.sweep(title, study["axis"], effects)
        elif effects:
            yield caption, plots.forest(title, effects, metric.higher_is_better)


def _where_plots(where: Json, metric: Metric) -> Iterator[tuple[str, str]]:
    for column, parts in where.items():
        largest = sorted(parts, key=lambda part: -part["impressions"])[:SHOWN_VALUES]
        if {part["value"] for part in parts} <= set(COUNT_LABELS):
            largest.sort(key=lambda part: COUNT_LABELS.index(part["value"]))
        effects = [effect for part in largest for effect in effects_of(part["value"], part["gain"])]
        if effects:
            caption = f"by {column.replace('_', ' ')}"
            title = f"Gain in {metric.title} of LARR over PLE {caption}"
            yield caption, plots.forest(title, effects, metric.higher_is_better)


def _lifts_plot(lifts: Json) -> str:
    names = {"ctr": "CTR", "orders": "orders", "gmv": "GMV"}
    effects = [effect for key, label in names.items() for effect in effects_of(label, lifts[key])]
    return plots.forest("True lift of LARR over PLE", effects)
