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

from larr import artifacts, run
from larr.artifacts import Artifact
from larr.config import Config
from larr.errors import ConfigError
from larr.evaluation import evaluate
from larr.evaluation.bootstrap import Estimates, Key, interval, pool
from larr.evaluation.findings import AUCS, BASE, CEILING, LARR, mean_tree
from larr.progress import console
from larr_lab.settings import StudyConfig, studies_of
from larr_lab.studies.ab_test import ab_test
from larr_lab.studies.case_study import case_study, made_encoders
from larr_lab.studies.down_sampling import down_sampling
from larr_lab.studies.report import experiments_page

FOLDER, RESULTS, PAGE = "experiments", "experiments.json", "experiments.html"
Json = dict[str, Any]


@dataclass(frozen=True)
class Own:
    """A study of larr's own, made of one seed's finished stages."""

    make: Callable[[Config], Json]
    models: tuple[str, ...]
    """The rankers that it reads."""
    verbs: tuple[str, ...]
    """The stages that it depends on."""
    city_alone: bool = True
    """Whether it needs what only the city's log tells."""


OWN = {
    "case-study": Own(case_study, (LARR,), ("prepare", "pretrain", "contrast")),
    "down-sampling": Own(
        down_sampling, (BASE, LARR), ("prepare", "embed", "align"), city_alone=False
    ),
    "ab-test": Own(ab_test, (BASE, LARR), ("prepare", "embed", "align")),
}


def experiments(config: Config, name: str, seeds: list[Config]) -> None:
    """Makes one study, or `all`, and writes `output/experiments/`."""
    names = chosen(config, name)
    declared = studies_of(config)
    studies = {name: declared[name] for name in names if name in declared}
    own = {name: OWN[name] for name in names if name in OWN}
    told: dict[str, list[Json]] = {name: [] for name in own}
    runs = [for_studies(one, studies, own) for one in seeds]
    for one in runs:
        console.rule(f"seed {one.seed}")
        run.run(one)
        for key, study in own.items():
            told[key].append(_made(one, key, study))
    found = _pooled_report(config, runs)
    target = config.output / FOLDER
    target.mkdir(parents=True, exist_ok=True)
    content = results(config, studies, found) | {
        name.replace("-", "_"): pooled(one) for name, one in told.items()
    }
    artifacts.write_json(target / RESULTS, content)
    artifacts.write_text(target / PAGE, experiments_page(content))
    console.print(f"Read {target / PAGE}")


def _pooled_report(config: Config, runs: list[Config]) -> Json:
    """The report of the only run, which stays as it is, or that of several seeds."""
    if runs[0].output != config.output:
        return evaluate.pool(runs, config.output)
    found: Json = artifacts.read_json(artifacts.folder(runs[0], "evaluate") / evaluate.REPORT)
    return found


def _made(config: Config, name: str, study: Own) -> Json:
    """The result of a study of larr's own for one seed; kept until its stages are made anew."""
    inputs: dict[str, str | None] = {
        verb: artifacts.key(artifacts.folder(config, verb)) for verb in study.verbs
    }
    if "contrast" in study.verbs:
        for encoder, own in made_encoders(config).items():
            inputs[encoder] = artifacts.key(artifacts.folder(own, "contrast"))
    artifact = Artifact(config.output / FOLDER / name, {}, inputs)
    if not artifact.is_current():
        artifact.start(resume=False)
        artifacts.write_json(artifact.folder / RESULTS, study.make(config))
        artifact.finish()
    result: Json = artifacts.read_json(artifact.folder / RESULTS)
    return result


def pooled(seeds: list[Json]) -> Json:
    """The mean over the seeds; where there are draws, an interval over seeds and users."""
    lifts: Json = {}
    for metric in seeds[0].get("truth", {}):
        key = Key("all", "", "", "lift", metric)
        found = pool(
            [
                Estimates(
                    {key: one["truth"][metric]["percent"]},
                    {key: np.array(one["truth"][metric]["draws"])},
                    {key: [one["truth"][metric]["percent"]]},
                )
                for one in seeds
            ]
        )
        low, high = interval(found.draws[key])
        lifts[metric] = {"percent": found.value[key], "low": low, "high": high}
        lifts[metric]["by_seed"] = found.by_seed[key]
    rest = [{name: told for name, told in one.items() if name != "truth"} for one in seeds]
    mean: Json = mean_tree(rest)
    return mean | {"by_seed": rest} | ({"truth": lifts} if lifts else {})


def chosen(config: Config, name: str) -> list[str]:
    """The studies that a name stands for; `all` are those that the data set allows."""
    known = [*studies_of(config), *OWN]
    if name not in (*known, "all"):
        raise ConfigError(
            f"experiments {name}: no such study; there are {', '.join(known)} and all; the "
            "configuration can declare more ([studies.NAME], see configs/experiments.toml)"
        )
    if name != "all":
        return [name]
    city = config.dataset.kind == "city"
    return [one for one in known if one not in OWN or city or not OWN[one].city_alone]


def for_studies(
    config: Config, studies: dict[str, StudyConfig], own: dict[str, Own] | None = None
) -> Config:
    """The configuration that trains and compares what the studies name.

    LARR over its base comes first where both are trained: the printed finding tells of that.
    """
    pairs = [pair for study in studies.values() for pair in study.pairs]
    named = [name for pair in pairs for name in reversed(pair)]
    named += [name for study in (own or {}).values() for name in study.models]
    models = list(dict.fromkeys(named))
    main = [(LARR, BASE)] if {LARR, BASE} <= {*models} else []
    gains = [pair for pair in dict.fromkeys(main + pairs) if pair[0] != pair[1]]
    return config.model_copy(
        update={
            "align": config.align.model_copy(update={"models": models}),
            "evaluate": config.evaluate.model_copy(update={"gains": gains}),
        }
    )


def results(config: Config, studies: dict[str, StudyConfig], found: Json) -> Json:
    """What `experiments.json` holds: each study's rows, from the pooled report."""
    return {
        "dataset": found["dataset"],
        "seeds": found["seeds"],
        "tasks": found["tasks"],
        "trials": config.tune.trials,
        "studies": {name: _told(config, study, found) for name, study in studies.items()},
        "where": _where(found),
    }


def _where(found: Json) -> Json:
    """LARR over its base in CTR AUC, for each value of each column that is sliced by."""
    pair = f"{LARR}_over_{BASE}"
    if pair not in found["gains"]:
        return {}
    sizes = found["sizes"]["slices"]
    return {
        column: [
            {"value": value, "impressions": size["impressions"]}
            | {"gain": found["slice_gains"][column][value][pair][AUCS[0]]}
            for value, size in sizes[column].items()
        ]
        for column in found["slices"]
    }


def _told(config: Config, study: StudyConfig, found: Json) -> Json:
    names = dict.fromkeys(name for pair in study.pairs for name in reversed(pair))
    return {
        "title": study.title,
        "axis": study.axis,
        "models": {
            name: {"metrics": found["models"][name], "settings": _settings(config, name)}
            for name in [*names, *({CEILING} & set(found["models"]))]
        },
        "gains": [
            _gain(found, model, over) | {"at": at}
            for (model, over), at in zip(study.pairs, study.at or repeat(None), strict=False)
            if model != over
        ],
    }


def _gain(found: Json, model: str, over: str) -> Json:
    """The first over the second: everywhere, on cold places and of the distance to the ceiling."""
    pair = f"{model}_over_{over}"
    return {
        "model": model,
        "over": over,
        "all": found["gains"][pair],
        "cold_places": found["cold"]["places"]["gains"][pair],
        "distance_closed": found["distance_closed"]["all"].get(model) if over == BASE else None,
        "distance_closed_cold_places": found["distance_closed"]["cold_places"].get(model)
        if over == BASE
        else None,
    }


def _settings(config: Config, name: str) -> Json:
    """What is set for this ranker alone, tuned or by the study."""
    tuned, variant = config.align.tuned, config.align.variant(name)
    own: Json = tuned.get(variant.of, {}) | tuned.get(name, {}) | variant.settings
    if variant.vectors:
        own |= {"vectors": variant.vectors} | config.encoders.get(variant.vectors, {})
    return own
