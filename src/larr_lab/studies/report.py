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
    lifts = content["ab_test"]["truth"] if "ab_test" in content else {}
    labels = {"ctr": "CTR", "orders": "orders", "gmv": "GMV"}
    effects = effects_of((labels[key], lift) for key, lift in lifts.items())
    return rendered(
        "experiments.html.j2",
        "larr_lab.studies",
        results=content,
        metrics=metrics,
        main=slice_metrics()[0],
        study_plots={key: dict(_study_plots(study, metrics)) for key, study in studies},
        where=dict(_where_plots(content["where"], main)),
        lifts=plots.forest("True lift of LARR over PLE", effects) if effects else "",
    )


def _study_plots(study: Json, metrics: dict[str, Metric]) -> Iterator[tuple[str, str]]:
    """Yields captions and plots: over the axis of the study if it has one."""
    for key, metric in metrics.items():
        gains = []
        for gain in study["gains"] if metric.headline else ():
            pair = f"{name(gain['model'])} over {name(gain['over'])}"
            gains.append((pair if gain["at"] is None else f"{gain['at']:,g}", gain["all"][key]))
        effects = effects_of(gains)
        caption = f"{metric.title}: its ratio minus 1, in %"
        title = f"{study['title']}: {caption}"
        if effects and study["axis"]:
            yield caption, plots.sweep(title, study["axis"], effects)
        elif effects:
            yield caption, plots.forest(title, effects, metric.higher_is_better)


def _where_plots(where: Json, metric: Metric) -> Iterator[tuple[str, str]]:
    """Yields captions and plots of LARR's gain for the values of each sliced column."""
    for column, parts in where.items():
        largest = sorted(parts, key=lambda part: -part["impressions"])[:SHOWN_VALUES]
        if {part["value"] for part in parts} <= set(COUNT_LABELS):
            largest.sort(key=lambda part: COUNT_LABELS.index(part["value"]))
        if effects := effects_of((part["value"], part["gain"]) for part in largest):
            caption = f"by {column.replace('_', ' ')}"
            title = f"Gain in {metric.title} of LARR over PLE {caption}"
            yield caption, plots.forest(title, effects, metric.higher_is_better)
