"""`larr tune`: searches the settings of stage 3, with the same number of trials for each ranker.

Each trial trains a ranker without the held-back rows (see `larr.data.holdout`) and evaluates its
loss on them. The best settings are written as TOML for `[align.tuned]`.

Shapes: J validation rows, T tasks.
"""

from __future__ import annotations

import time
from dataclasses import replace
from operator import attrgetter
from pathlib import Path

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from larr import artifacts, rankers
from larr.config import Config
from larr.data.holdout import folds
from larr.errors import LarrError
from larr.progress import console, plain_table
from larr.rankers.align import ranker_artifact, renew
from larr.rankers.neural import DivergedError
from larr.rankers.predict import fold_metrics, held_back_probabilities
from larr.rankers.ranker import Range

JOURNAL = "trials.journal"
FOUND, TUNED = "found.json", "tuned.toml"


def tune(config: Config) -> None:
    """Searches for each of `config.align.models`; keeps the finished trials of an earlier run."""
    spaces = {name: search_space(config, name) for name in config.align.models}
    with artifacts.building(config, "tune") as work:
        trained = sum(len(fold.train) for fold in folds(config))
        parts = {}
        for name, space in spaces.items():
            # the artifact ignores the configured values of searched settings: set them to their low
            lowest = {path: values.low for path, values in space.items()}
            ranker = ranker_artifact(config, name, config.align.of(name).with_settings(lowest))
            searched = {"tune": config.tune.model_dump(mode="json"), "space": space}
            settings = ranker.settings | searched
            parts[name] = replace(ranker, folder=work.folder / name, settings=settings)
        renew(config, parts, search, resume=True)
        results = {name: artifacts.read_json(work.folder / name / FOUND) for name in spaces}
        artifacts.write_json(work.folder / FOUND, results)
        headers = ("model", "trials", "initial loss", "best loss", "best settings")
        table = plain_table(*headers, title="validation")
        lines = []
        for name, result in results.items():
            losses, best = [trial["loss"] for trial in result["trials"]], result["best"]
            shown = ", ".join(f"{path} {value:.2g}" for path, value in best.items())
            table.add_row(name, str(len(losses)), f"{losses[0]:.4f}", f"{min(losses):.4f}", shown)
            lines.append(f"[align.tuned.{name}]")
            for path, value in best.items():
                number = value if isinstance(value, int) else format(value, ".4g")
                lines.append(f'"{path}" = {number}')
            lines.append("")
        (work.folder / TUNED).write_text("\n".join(lines), encoding="utf-8")
        trials = config.tune.trials * len(spaces)
        work.measured(trials * trained * config.align.epochs, "samples")
    console.print(table)
    console.print(f"  for your configuration: {work.folder / TUNED}")


def search(config: Config, name: str, folder: Path) -> None:
    """Runs the missing trials of one ranker; the first uses the configured settings."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study, held_back = open_study(config, name, folder), folds(config)
    settings, space = config.align.of(name), search_space(config, name)
    # interrupted trials have the state FAIL or, after a kill, RUNNING, and run again
    states = (TrialState.COMPLETE, TrialState.PRUNED)
    finished = len(study.get_trials(deepcopy=False, states=states))
    if not finished:
        study.enqueue_trial(
            {
                path: min(max(attrgetter(path)(settings), values.low), values.high)
                for path, values in space.items()
            }
        )

    def loss(trial: optuna.Trial) -> float:
        started, changes = time.perf_counter(), dict[str, float]()
        for path, (low, high, log, integer) in space.items():
            if integer:
                changes[path] = trial.suggest_int(path, round(low), round(high), log=log)
            else:
                changes[path] = trial.suggest_float(path, low, high, log=log)
        try:
            changed = settings.with_settings(changes)
            probability_JT = held_back_probabilities(config, name, changed, held_back)
        except DivergedError as error:
            console.print(f"  {error}")
            raise optuna.TrialPruned from error
        scores = fold_metrics(config, probability_JT, held_back)
        for key, value in (scores | {"seconds": time.perf_counter() - started}).items():
            trial.set_user_attr(key, value)
        shown = ", ".join(f"{key} {value:.4f}" for key, value in scores.items())
        console.print(f"  {name}, trial {trial.number + 1}: {shown}")
        return scores["loss"]

    study.optimize(loss, config.tune.trials - finished)
    completed = study.get_trials(states=[TrialState.COMPLETE])
    trials = [{"settings": trial.params} | trial.user_attrs for trial in completed]
    if not trials:
        raise LarrError(
            f"{name}: the loss diverged in every trial; the learning rates of its search_space are "
            "too high for this log"
        )
    artifacts.write_json(folder / FOUND, {"best": study.best_params, "trials": trials})


def search_space(config: Config, name: str) -> dict[str, Range]:
    """Returns the search space of a ranker, without the settings that define a variant."""
    fixed = config.align.variant(name).settings
    space = rankers.find(config, name).search_space
    return {path: values for path, values in space.items() if path not in fixed}


def open_study(config: Config, name: str, folder: Path) -> optuna.Study:
    """Opens the study of a ranker, with the trials of an earlier run."""
    study = optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(folder / JOURNAL))),
        study_name=name,
        direction="minimize",
        load_if_exists=True,
    )
    seed = config.seed + len(study.trials)  # a resumed search must not repeat the same draws
    study.sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=config.tune.random)
    return study
