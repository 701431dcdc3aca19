"""`larr tune`: settings of stage 3 for each ranker, from a search of the same length for all.

The last training day is set aside; each ranker is trained on the days before it, once for each
trial, and judged by its loss on that day. The test days are not read. The best settings are written
as TOML for `[align.tuned]`.

Shapes: N rows, T tasks.
"""

from __future__ import annotations

import time
from dataclasses import replace
from operator import attrgetter
from pathlib import Path

import numpy as np
import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from rich import box
from rich.table import Table

from larr import artifacts, metrics, rankers
from larr.config import Config
from larr.config.rankers import RankerConfig
from larr.data.batches import LogRows
from larr.data.features import read_features
from larr.errors import DataError, LarrError
from larr.metrics import TASKS
from larr.progress import console
from larr.rankers.align import ranker_artifact, train
from larr.rankers.neural import DivergedError
from larr.rankers.predict import predict_log
from larr.rankers.ranker import Range
from larr.workers import side_by_side

JOURNAL = "trials.journal"
FOUND, TUNED = "found.json", "tuned.toml"
HELD_OUT_USERS = 5
"""With a single training day, each fifth user is set aside instead of the last day."""


def tune(config: Config) -> None:
    """Searches for each of `config.align.models`; finished trials of an earlier run are kept."""
    spaces = {name: search_space(config, name) for name in config.align.models}
    with artifacts.making(config, "tune") as work:
        train_log, _ = split_log(config)
        parts, jobs = {}, {}
        for name, space in spaces.items():
            # it does not depend on the configured values of what is searched: all at their lowest
            lowest = {path: values.low for path, values in space.items()}
            ranker = ranker_artifact(config, name, config.align.of(name).with_settings(lowest))
            searched = {"tune": config.tune.model_dump(mode="json"), "space": space}
            settings = ranker.settings | searched
            parts[name] = replace(ranker, folder=work.folder / name, settings=settings)
            if not parts[name].is_current():
                parts[name].start(resume=True)
                jobs[name] = (config, name, parts[name].folder)
        side_by_side(search, jobs, config.align.workers, lambda name: parts[name].finish())
        results = {name: artifacts.read_json(work.folder / name / FOUND) for name in spaces}
        artifacts.write_json(work.folder / FOUND, results)
        headers = ("model", "trials", "loss as configured", "best loss", "best settings")
        table = Table(*headers, title="validation", box=box.SIMPLE, padding=(0, 1, 0, 0))
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
        work.measured(trials * len(train_log) * config.align.epochs, "samples")
    console.print(table)
    console.print(f"  for your configuration: {work.folder / TUNED}")


def search(config: Config, name: str, folder: Path) -> None:
    """Runs the missing trials of one ranker; the first one has the settings as configured."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study, logs = open_study(config, name, folder), split_log(config)
    settings, space = config.align.of(name), search_space(config, name)
    # a trial that was stopped is FAIL or, after a kill, RUNNING: it runs again
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
            scores = judge(config, name, settings.with_settings(changes), logs)
        except DivergedError as error:
            console.print(f"  {error}")
            raise optuna.TrialPruned from error
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
            f"{name}: the loss grew without bound in every trial; the learning rates of its "
            "search_space are too high for this log"
        )
    artifacts.write_json(folder / FOUND, {"best": study.best_params, "trials": trials})


def judge(
    config: Config, name: str, settings: RankerConfig, logs: tuple[LogRows, LogRows]
) -> dict[str, float]:
    """Trains a ranker on the first of two logs; returns its loss (L_ctr) and AUCs on the second."""
    train_log, validation_log = logs
    ranker, _ = train(config, name, settings, train_log)
    probability_NT = predict_log(ranker, validation_log)
    label_NT = validation_log.array("labels")
    scores = {"loss": 0.0}
    tasks = read_features(artifacts.folder(config, "prepare")).tasks
    for task, label_N, score_N in zip(tasks, label_NT.T, probability_NT.T, strict=True):
        scores["loss"] += float(metrics.log_losses(label_N, score_N).mean())
        scores[f"{TASKS[task]}_auc"] = metrics.auc(label_N, score_N)
    return scores


def search_space(config: Config, name: str) -> dict[str, Range]:
    """Returns the ranges searched for a ranker, without the settings that define a variant."""
    fixed = config.align.variant(name).settings
    space = rankers.find(config, name).search_space
    return {path: values for path, values in space.items() if path not in fixed}


def open_study(config: Config, name: str, folder: Path) -> optuna.Study:
    """Returns the search for a ranker with its earlier trials, of this or of a stopped run."""
    study = optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(folder / JOURNAL))),
        study_name=name,
        direction="minimize",
        load_if_exists=True,
    )
    seed = config.seed + len(study.trials)  # else a resumed search would draw the same again
    study.sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=config.tune.random)
    return study


def split_log(config: Config) -> tuple[LogRows, LogRows]:
    """Returns the rows to train on and those of the last training day, which judge the trials."""
    log = LogRows(artifacts.folder(config, "prepare") / "train")
    day_N = log.array("days")[:, 0]
    held_N = day_N == day_N.max()
    if held_N.all():
        held_N = log.array("keys")[:, 0] % HELD_OUT_USERS == 0
    if not held_N.any() or held_N.all():
        raise DataError(
            f"{log.folder}: tuning needs at least two training days, or {HELD_OUT_USERS} users on "
            "a day; give a longer log"
        )
    return log.select(np.flatnonzero(~held_N)), log.select(np.flatnonzero(held_N))
