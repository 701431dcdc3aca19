"""`larr experiments`: tables and figures of many rankers, out of one run for each seed.

Every ranker that a study names is trained once, on the same data and vectors, however many studies
name it; what an earlier study has trained is not trained again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import numpy as np

from larr import artifacts
from larr import run as runner
from larr.artifacts import Artifact
from larr.config import Config
from larr.errors import ConfigError
from larr.evaluation import evaluate
from larr.evaluation.bootstrap import interval, pooled_draws
from larr.evaluation.findings import BASE, CEILING, LARR, mean_tree, slice_metrics
from larr.progress import console
from larr_lab.settings import StudyConfig, studies_of
from larr_lab.studies.ab_test import ab_test
from larr_lab.studies.case_study import case_study, current_encoders
from larr_lab.studies.down_sampling import down_sampling
from larr_lab.studies.report import experiments_page

FOLDER, RESULTS, PAGE = "experiments", "experiments.json", "experiments.html"
Json = dict[str, Any]


@dataclass(frozen=True)
class Analysis:
    """A study with code of its own, which reads the finished stages of one seed."""

    analyse: Callable[[Config], Json]
    rankers: tuple[str, ...]
    """The rankers that it reads."""
    verbs: tuple[str, ...]
    """The stages that its result depends on."""
    needs_city: bool = True
    """Whether it reads what only the simulated country knows."""


ANALYSES = {
    "case-study": Analysis(case_study, (LARR,), ("prepare", "pretrain", "contrast")),
    "down-sampling": Analysis(
        down_sampling, (BASE, LARR), ("prepare", "embed", "align"), needs_city=False
    ),
    "ab-test": Analysis(ab_test, (BASE, LARR), ("prepare", "embed", "align")),
}


def experiments(config: Config, name: str, seeds: list[Config]) -> None:
    """Runs one study, or `all`, and writes `output/experiments/`."""
    names, declared = chosen(config, name), studies_of(config)
    studies = {name: declared[name] for name in names if name in declared}
    analyses = {name: ANALYSES[name] for name in names if name in ANALYSES}
    by_seed: dict[str, list[Json]] = {name: [] for name in analyses}
    runs = [for_studies(seed, studies, analyses) for seed in seeds]
    for run in runs:
        console.rule(f"seed {run.seed}")
        runner.run(run)
        for key, analysis in analyses.items():
            by_seed[key].append(_analysed(run, key, analysis))
    if runs[0].output == config.output:  # the only run; its report stays as it is
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
    """Returns the result of an analysis for one seed; kept until its stages change."""
    folders = {verb: artifacts.folder(config, verb) for verb in analysis.verbs}
    if "contrast" in analysis.verbs:
        for encoder, settings in current_encoders(config).items():
            folders[encoder] = artifacts.folder(settings, "contrast")
    inputs: dict[str, str | None] = {
        source: artifacts.key(folder) for source, folder in folders.items()
    }
    artifact = Artifact(config.output / FOLDER / name, {}, inputs)
    if not artifact.is_current():
        artifact.start(resume=False)
        artifacts.write_json(artifact.folder / RESULTS, analysis.analyse(config))
        artifact.finish()
    result: Json = artifacts.read_json(artifact.folder / RESULTS)
    return result


def pooled(results: list[Json]) -> Json:
    """Returns the mean over the seeds; of `truth`, with draws, an interval over seeds and users."""
    without_draws = [
        {name: value for name, value in result.items() if name != "truth"} for result in results
    ]
    mean: Json = mean_tree(without_draws)
    lifts = [result["truth"] for result in results if "truth" in result]
    if lifts:
        draws_SKB = np.array(
            [[lift["draws"] for lift in by_metric.values()] for by_metric in lifts]
        )
        low_K, high_K = interval(pooled_draws(draws_SKB))
        mean["truth"] = {}
        for metric, low, high in zip(lifts[0], low_K.tolist(), high_K.tolist(), strict=True):
            by_seed = [by_metric[metric]["percent"] for by_metric in lifts]
            lift = {"percent": float(np.mean(by_seed)), "low": low, "high": high}
            mean["truth"][metric] = lift | {"by_seed": by_seed}
    return mean | {"by_seed": without_draws}


def chosen(config: Config, name: str) -> list[str]:
    """Returns the studies that a name stands for; `all` are those that the data set allows."""
    known = [*studies_of(config), *ANALYSES]
    if name not in (*known, "all"):
        raise ConfigError(
            f"experiments {name}: no such study; there are {', '.join(known)} and all; the "
            "configuration can declare more ([studies.NAME], see configs/experiments.toml)"
        )
    if name != "all":
        return [name]
    is_city = config.dataset.kind == "city"
    return [
        study
        for study in known
        if is_city or study not in ANALYSES or not ANALYSES[study].needs_city
    ]


def for_studies(
    config: Config, studies: dict[str, StudyConfig], analyses: dict[str, Analysis] | None = None
) -> Config:
    """Returns the configuration that trains and compares what the studies name.

    LARR over its base comes first where both are trained: the printed finding is about that pair.
    """
    pairs = [pair for study in studies.values() for pair in study.pairs]
    rankers = [name for pair in pairs for name in reversed(pair)]
    rankers += [name for analysis in (analyses or {}).values() for name in analysis.rankers]
    main = [(LARR, BASE)] if {LARR, BASE} <= {*rankers} else []
    gains = [pair for pair in dict.fromkeys(main + pairs) if pair[0] != pair[1]]
    align = config.align.model_copy(update={"models": list(dict.fromkeys(rankers))})
    compared = config.evaluate.model_copy(update={"gains": gains})
    return config.model_copy(update={"align": align, "evaluate": compared})


def results(config: Config, studies: dict[str, StudyConfig], report: Json) -> Json:
    """Returns the content of `experiments.json` but for the analyses, from the pooled report."""
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
    """Returns the metrics of a study's rankers, and its gains: everywhere and on cold places."""
    names = [name for pair in study.pairs for name in reversed(pair)]
    names += [name for name in report["models"] if name == CEILING]
    gains, closed = [], report["distance_closed"]
    for (ranker, over), at in zip(study.pairs, study.at or repeat(None), strict=False):
        if ranker == over:
            continue
        pair, is_over_base = f"{ranker}_over_{over}", over == BASE
        gains.append(
            {
                "model": ranker,
                "over": over,
                "all": report["gains"][pair],
                "cold_places": report["cold"]["places"]["gains"][pair],
                "distance_closed": closed["all"].get(ranker) if is_over_base else None,
                "distance_closed_cold_places": (
                    closed["cold_places"].get(ranker) if is_over_base else None
                ),
                "at": at,
            }
        )
    models = {
        name: {"metrics": report["models"][name], "settings": _settings(config, name)}
        for name in dict.fromkeys(names)
    }
    return {"title": study.title, "axis": study.axis, "models": models, "gains": gains}


def _settings(config: Config, name: str) -> Json:
    """Returns what is set for this ranker alone, tuned or by the study."""
    tuned, variant = config.align.tuned, config.align.variant(name)
    settings: Json = tuned.get(variant.of, {}) | tuned.get(name, {}) | variant.settings
    if variant.vectors:
        settings |= {"vectors": variant.vectors} | config.encoders.get(variant.vectors, {})
    return settings
