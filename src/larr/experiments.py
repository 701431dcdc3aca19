"""`larr experiments`: tables and figures of many rankers, out of one run for each seed.

Every ranker that a study names is trained once, on the same data and vectors, however many studies
name it; what an earlier study has trained is not trained again.
"""

from __future__ import annotations

from typing import Any

from larr import artifacts, evaluate, report, stages
from larr.config import Config, StudyConfig
from larr.errors import ConfigError
from larr.findings import BASE, CEILING
from larr.progress import console

FOLDER, RESULTS, PAGE = "experiments", "experiments.json", "experiments.html"
Json = dict[str, Any]


def experiments(config: Config, name: str, seeds: list[Config]) -> None:
    """Makes one study of the configuration, or `all`, and writes `output/experiments/`."""
    names = chosen(config, name)
    studies = {name: config.studies[name] for name in names}
    for one in seeds:
        console.rule(f"seed {one.seed}")
        stages.run(for_studies(one, studies))
    found = evaluate.pool([for_studies(one, studies) for one in seeds], config.output)
    target = config.output / FOLDER
    target.mkdir(parents=True, exist_ok=True)
    told = results(config, studies, found)
    artifacts.write_json(target / RESULTS, told)
    artifacts.write_text(target / PAGE, report.experiments_page(told))
    console.print(f"Read {target / PAGE}")


def chosen(config: Config, name: str) -> list[str]:
    """The studies that a name stands for."""
    if name == "all" and config.studies:
        return list(config.studies)
    if name not in config.studies:
        known = ", ".join([*config.studies, "all"]) if config.studies else "none"
        raise ConfigError(
            f"experiments {name}: no such study; the configuration declares {known} "
            "([studies.NAME], see configs/experiments.toml)"
        )
    return [name]


def for_studies(config: Config, studies: dict[str, StudyConfig]) -> Config:
    """The configuration that trains and compares what the studies name."""
    pairs = [pair for study in studies.values() for pair in study.pairs]
    models = list(dict.fromkeys(name for pair in pairs for name in reversed(pair)))
    gains = [pair for pair in dict.fromkeys(pairs) if pair[0] != pair[1]]
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
        "gains": [_gain(found, model, over) for model, over in study.pairs if model != over],
        "at": study.at,
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
    align, variant = config.align, config.align.variants.get(name)
    own: Json = dict(align.tuned.get(variant.of if variant else name, {}))
    if variant:
        own |= align.tuned.get(name, {}) | variant.settings
        own |= {"vectors": variant.vectors} if variant.vectors else {}
        if variant.vectors in config.encoders:
            own |= config.encoders[variant.vectors]
    return own
