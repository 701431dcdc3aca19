"""`larr experiments`: tables and figures of many rankers, from one run for each seed.

Each ranker is trained once, on the same data and vectors, even if several studies or an earlier
command need it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import repeat

import numpy as np

from larr import artifacts
from larr import run as runner
from larr.artifacts import Artifact
from larr.config import Config
from larr.errors import ConfigError
from larr.evaluation import evaluate, plots
from larr.evaluation.bootstrap import interval, pooled_draws
from larr.evaluation.findings import (
    BASE,
    CEILING,
    COUNT_LABELS,
    LARR,
    Json,
    mean_tree,
    slice_metrics,
)
from larr.evaluation.report import SHOWN_VALUES, render
from larr.evaluation.report import name as title_of
from larr.metrics import Metric, task_metrics
from larr.progress import console
from larr_lab.settings import StudyConfig, declared_studies
from larr_lab.studies.ab_test import ab_test
from larr_lab.studies.case_study import case_study, current_encoders
from larr_lab.studies.down_sampling import down_sampling

FOLDER, RESULTS, PAGE = "experiments", "experiments.json", "experiments.html"
LIFTS = {"ctr": "CTR", "orders": "orders", "gmv": "GMV"}


@dataclass(frozen=True)
class Analysis:
    """A built-in study that reads the finished stages of one seed."""

    analyse: Callable[[Config], Json]
    rankers: tuple[str, ...]
    """Rankers to train."""
    verbs: tuple[str, ...]
    """Stages on which the result depends."""
    needs_city: bool = True
    """Whether it needs the simulated country."""


ANALYSES = {
    "case-study": Analysis(case_study, (LARR,), ("prepare", "pretrain", "contrast")),
    "down-sampling": Analysis(
        down_sampling, (BASE, LARR), ("prepare", "embed", "align"), needs_city=False
    ),
    "ab-test": Analysis(ab_test, (BASE, LARR), ("prepare", "embed", "align")),
}


def experiments(config: Config, name: str, seeds: list[Config]) -> None:
    """Runs one study or `all`, and writes `output/experiments/`."""
    names, declared = chosen(config, name), declared_studies(config)
    studies = {name: declared[name] for name in names if name in declared}
    analyses = {name: ANALYSES[name] for name in names if name in ANALYSES}
    by_seed: dict[str, list[Json]] = {name: [] for name in analyses}
    runs = [for_studies(seed, studies, analyses) for seed in seeds]
    for run in runs:
        console.rule(f"seed {run.seed}")
        runner.run(run)
        for key, analysis in analyses.items():
            by_seed[key].append(_analysed(run, key, analysis))
    if runs[0].output == config.output:  # a single run already has its report there
        report = artifacts.read_json(artifacts.folder(runs[0], "evaluate") / evaluate.REPORT)
    else:
        report = evaluate.pool(runs, config.output)
    content = results(config, studies, report) | {
        name.replace("-", "_"): pooled(values) for name, values in by_seed.items()
    }
    target = config.output / FOLDER
    target.mkdir(parents=True, exist_ok=True)
    artifacts.write_json(target / RESULTS, content)
    artifacts.write_text(target / PAGE, experiments_page(content))
    console.print(f"Read {target / PAGE}")


def _analysed(config: Config, name: str, analysis: Analysis) -> Json:
    """Returns the result of an analysis for one seed, stored until its stages change."""
    folders = {verb: artifacts.folder(config, verb) for verb in analysis.verbs}
    if "contrast" in analysis.verbs:
        for encoder, settings in current_encoders(config).items():
            folders[encoder] = artifacts.folder(settings, "contrast")
    inputs: dict[str, str | None] = {key: artifacts.key(path) for key, path in folders.items()}
    artifact = Artifact(config.output / FOLDER / name, {}, inputs)
    if not artifact.is_current():
        artifact.start(resume=False)
        artifacts.write_json(artifact.folder / RESULTS, analysis.analyse(config))
        artifact.finish()
    result: Json = artifacts.read_json(artifact.folder / RESULTS)
    return result


def pooled(results: list[Json]) -> Json:
    """Returns means over seeds; for `truth`, which has draws, intervals over seeds and users."""
    without_draws = [
        {name: value for name, value in result.items() if name != "truth"} for result in results
    ]
    mean: Json = mean_tree(without_draws)
    if "truth" in results[0]:
        mean["truth"] = {}
        for metric in results[0]["truth"]:
            lifts = [result["truth"][metric] for result in results]
            draws_S1B = np.array([[lift["draws"]] for lift in lifts])
            low_1, high_1 = interval(pooled_draws(draws_S1B))
            by_seed = [lift["percent"] for lift in lifts]
            ends = {"low": float(low_1[0]), "high": float(high_1[0])}
            mean["truth"][metric] = {"percent": float(np.mean(by_seed)), **ends, "by_seed": by_seed}
    return mean | {"by_seed": without_draws}


def chosen(config: Config, name: str) -> list[str]:
    """Returns the studies selected by a name; `all` selects every study that suits the data set."""
    known = [*declared_studies(config), *ANALYSES]
    if name not in (*known, "all"):
        raise ConfigError(
            f"experiments {name}: unknown study; expected {', '.join(known)} or all; declare more "
            "as [studies.NAME] in the configuration, see configs/experiments.toml"
        )
    if name != "all":
        return [name]
    if config.dataset.kind == "city":
        return known
    return [study for study in known if study not in ANALYSES or not ANALYSES[study].needs_city]


def for_studies(
    config: Config, studies: dict[str, StudyConfig], analyses: dict[str, Analysis] | None = None
) -> Config:
    """Returns the configuration that trains and compares the rankers of the studies.

    If both are trained, LARR over its base comes first, because the printed finding is about the
    first pair.
    """
    pairs = [pair for study in studies.values() for pair in study.pairs]
    rankers = [name for pair in pairs for name in reversed(pair)]
    rankers += [name for analysis in (analyses or {}).values() for name in analysis.rankers]
    main = [(LARR, BASE)] if {LARR, BASE} <= {*rankers} else []
    gains = [pair for pair in dict.fromkeys(main + pairs) if pair[0] != pair[1]]
    models = list(dict.fromkeys(rankers))
    return config.with_settings({"align.models": models, "evaluate.gains": gains})


def results(config: Config, studies: dict[str, StudyConfig], report: Json) -> Json:
    """Returns the content of `experiments.json` without the analyses, from the pooled report."""
    where: Json = {}
    pair, metric = f"{LARR}_over_{BASE}", slice_metrics()[0]
    for column, sizes in report["sizes"]["slices"].items() if pair in report["gains"] else ():
        gains = report["slice_gains"][column]
        where[column] = [
            {"value": value, "impressions": size["impressions"], "gain": gains[value][pair][metric]}
            for value, size in sizes.items()
        ]
    return {
        "dataset": report["dataset"],
        "seeds": report["seeds"],
        "tasks": report["tasks"],
        "trials": config.tune.trials,
        "studies": {name: _study(config, study, report) for name, study in studies.items()},
        "where": where,
    }


def _study(config: Config, study: StudyConfig, report: Json) -> Json:
    """Returns the metrics of a study's rankers, and the gains overall and on cold places."""
    names = [name for pair in study.pairs for name in reversed(pair)]
    names += [name for name in report["models"] if name == CEILING]
    gains = []
    for (ranker, over), at in zip(study.pairs, study.at or repeat(None), strict=False):
        if ranker == over:
            continue
        pair = f"{ranker}_over_{over}"
        closed: Json = report["distance_closed"] if over == BASE else {}
        gains.append(
            {
                "model": ranker,
                "over": over,
                "all": report["gains"][pair],
                "cold_places": report["cold"]["places"]["gains"][pair],
                "distance_closed": closed.get("all", {}).get(ranker),
                "distance_closed_cold_places": closed.get("cold_places", {}).get(ranker),
                "at": at,
            }
        )
    models = {}
    for name in dict.fromkeys(names):
        # Settings specific to this ranker, tuned or from the study.
        tuned, variant = config.align.tuned, config.align.variant(name)
        settings: Json = tuned.get(variant.of, {}) | tuned.get(name, {}) | variant.settings
        if variant.vectors:
            settings |= {"vectors": variant.vectors} | config.encoders.get(variant.vectors, {})
        models[name] = {"metrics": report["models"][name], "settings": settings}
    return {"title": study.title, "axis": study.axis, "models": models, "gains": gains}


def experiments_page(content: Json) -> str:
    """Returns the HTML page of `experiments.json`."""
    metrics, main = task_metrics(content["tasks"]), slice_metrics()[0]
    studies = content["studies"].items()
    lifts = content["ab_test"]["truth"] if "ab_test" in content else {}
    labelled_lifts = ((LIFTS[key], lift) for key, lift in lifts.items())
    return render(
        "experiments.html.j2",
        "larr_lab.studies",
        results=content,
        metrics=metrics,
        main=main,
        study_plots={key: _study_plots(study, metrics) for key, study in studies},
        where=_where_plots(content["where"], metrics[main]),
        lifts=plots.forest("True lift of LARR over PLE", labelled_lifts),
    )


def _study_plots(study: Json, metrics: dict[str, Metric]) -> dict[str, str]:
    """Returns plots by caption, over the axis of the study if it has one."""
    drawn = {}
    for key, metric in metrics.items():
        if not metric.headline:
            continue
        gains = []
        for gain in study["gains"]:
            pair = f"{title_of(gain['model'])} over {title_of(gain['over'])}"
            gains.append((pair if gain["at"] is None else f"{gain['at']:,g}", gain["all"][key]))
        caption = f"relative gain in {metric.title}, in %"
        title = f"{study['title']}: {caption}"
        drawn[caption] = (
            plots.sweep(title, study["axis"], gains)
            if study["axis"]
            else plots.forest(title, gains, metric.higher_is_better)
        )
    return drawn


def _where_plots(where: Json, metric: Metric) -> dict[str, str]:
    """Returns plots by caption: LARR's gain by the values of each sliced column."""
    drawn = {}
    for column, parts in where.items():
        largest = sorted(parts, key=lambda part: -part["impressions"])[:SHOWN_VALUES]
        if {part["value"] for part in parts} <= set(COUNT_LABELS):
            largest.sort(key=lambda part: COUNT_LABELS.index(part["value"]))
        gains = ((part["value"], part["gain"]) for part in largest)
        caption = f"by {column.replace('_', ' ')}"
        title = f"Gain in {metric.title} of LARR over PLE {caption}"
        drawn[caption] = plots.forest(title, gains, metric.higher_is_better)
    return drawn
