"""`larr tune`: settings of stage 3 for each ranker, from a search of the same length for all.

The last training day is set aside; each ranker is trained on the days before it, once for each
trial, and judged by its loss on that day. The test days are not read. What is found is written as
TOML for `[align.tuned]`.

Shapes: N rows, T tasks.
"""

from __future__ import annotations

import time
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from rich import box
from rich.table import Table

from larr import artifacts, metrics, rankers
from larr.artifacts import Artifact
from larr.config import Config
from larr.config.rankers import Range
from larr.data import batches
from larr.data.features import read_features
from larr.errors import DataError, LarrError
from larr.metrics import TASKS
from larr.progress import console
from larr.rankers.p5 import P5
from larr.rankers.predict import predict_log
from larr.rankers.training import DivergedError, built_from, fit
from larr.rankers.trees import Trees
from larr.workers import side_by_side

SPLIT, TRAIN, VALIDATION = "split", "train", "validation"
JOURNAL = "trials.journal"
FOUND, TUNED = "found.json", "tuned.toml"
HELD_OUT_USERS = 5
"""Without several days to train on, each fifth user is set aside instead of the last day."""
FINISHED = (TrialState.COMPLETE, TrialState.FAIL)


def tune(config: Config) -> None:
    """Searches for each of `config.align.models`; trials that are done are not made again."""
    names = config.align.models
    for name in names:
        rankers.find(config, name)
    with artifacts.making(config, "tune") as work:
        trained = _split(config, work.folder / SPLIT)
        jobs, parts = {}, {name: _artifact(config, name) for name in names}
        for name in names:
            if not parts[name].is_current():
                parts[name].start(resume=True)
                jobs[name] = (config, name, work.folder)
        side_by_side(search, jobs, config.align.workers, lambda name: parts[name].finish())
        found = {name: artifacts.read_json(work.folder / name / FOUND) for name in names}
        artifacts.write_json(work.folder / FOUND, found)
        (work.folder / TUNED).write_text(as_toml(found), encoding="utf-8")
        work.measured(config.tune.trials * len(names) * trained * config.align.epochs, "samples")
    _print(found)
    console.print(f"  for your configuration: {work.folder / TUNED}")


def _artifact(config: Config, name: str) -> Artifact:
    """The search for one ranker; it does not depend on the values that it looks for."""
    lowest = {path: one.low for path, one in _space(config, name).items()}
    settings, inputs = built_from(config, name, config.align.of(name).with_settings(lowest))
    settings |= {"tune": config.tune.model_dump(mode="json")}
    return Artifact(artifacts.folder(config, "tune") / name, settings, inputs)


def search(config: Config, name: str, folder: Path) -> None:
    """Makes the trials of one ranker that are not made yet; the first has the settings as given."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = _study(config, name, folder)
    if not _finished(study):
        study.enqueue_trial(_given(config, name))
    while _finished(study) < config.tune.trials:
        trial = study.ask()
        tried = {
            path: _suggest(trial, path, around) for path, around in _space(config, name).items()
        }
        started = time.perf_counter()
        try:
            told = judge(_with(config, name, tried), name, folder)
        except DivergedError as error:
            console.print(f"  {error}")
            study.tell(trial, state=TrialState.FAIL)
            continue
        for key, value in (told | {"seconds": time.perf_counter() - started}).items():
            trial.set_user_attr(key, value)
        study.tell(trial, told["loss"])
        console.print(
            f"  {name}, trial {trial.number + 1}: "
            + ", ".join(f"{key} {value:.4f}" for key, value in told.items())
        )
    artifacts.write_json(folder / name / FOUND, _found(study, name))


def judge(config: Config, name: str, folder: Path) -> dict[str, float]:
    """Trains a ranker on the earlier days; its loss (L_ctr) and AUCs on the last one."""
    split = folder / SPLIT
    model, _ = fit(config, name, split / TRAIN)
    probability_NT = predict_log(model, split / VALIDATION)
    label_NT = np.load(split / VALIDATION / "labels.npy")
    told = {"loss": 0.0}
    tasks = read_features(artifacts.folder(config, "prepare")).tasks
    for task, label_N, score_N in zip(tasks, label_NT.T, probability_NT.T, strict=True):
        told["loss"] += float(metrics.log_losses(label_N, score_N).mean())
        told[f"{TASKS[task]}_auc"] = metrics.auc(label_N, score_N)
    return told


def as_toml(found: dict[str, dict[str, Any]]) -> str:
    """The best settings of each ranker as a piece of a configuration."""
    return "\n".join(
        f"[align.tuned.{name}]\n"
        + "".join(f'"{path}" = {_short(value)}\n' for path, value in one["best"].items())
        for name, one in found.items()
    )


def _short(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.4g}"


def _split(config: Config, folder: Path) -> int:
    """Writes `train/` and `validation/` from the training log; returns the rows of the former."""
    log = artifacts.folder(config, "prepare") / "train"
    split = Artifact(folder, {}, {"prepare/": artifacts.key(artifacts.folder(config, "prepare"))})
    if split.is_current():
        return batches.count_rows(folder / TRAIN)
    day_N = np.load(log / "days.npy")[:, 0]
    held_N = day_N == day_N.max()
    if held_N.all():
        held_N = np.load(log / "keys.npy")[:, 0] % HELD_OUT_USERS == 0
    if not held_N.any() or held_N.all():
        raise DataError(
            f"{log}: tuning needs at least two training days, or {HELD_OUT_USERS} users on a day; "
            "give a longer log"
        )
    split.start(resume=False)
    batches.write_part(log, np.flatnonzero(~held_N), folder / TRAIN)
    batches.write_part(log, np.flatnonzero(held_N), folder / VALIDATION)
    split.finish()
    return int((~held_N).sum())


def _study(config: Config, name: str, folder: Path) -> optuna.Study:
    study = optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(folder / name / JOURNAL))),
        study_name=name,
        direction="minimize",
        load_if_exists=True,
    )
    seed = config.seed + len(study.trials)  # else a search that goes on would draw the same again
    study.sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=config.tune.random)
    return study


def _finished(study: optuna.Study) -> int:
    """Trials that came to an end; one that was killed is made again."""
    return len(study.get_trials(deepcopy=False, states=FINISHED))


def _space(config: Config, name: str) -> dict[str, Range]:
    """The settings that are searched for a ranker: not those that make a variant what it is."""
    entry = rankers.find(config, name)
    if entry.architecture is Trees:
        space = config.tune.trees
    else:
        space = config.tune.networks | (config.tune.texts if entry.vectors else {})
    fixed = {*config.align.variant(name).settings}
    if entry.architecture is P5:
        fixed.add("embedding_l2")  # it has no table of rows
    return {path: around for path, around in space.items() if path not in fixed}


def _suggest(trial: optuna.Trial, path: str, around: Range) -> float:
    if around.whole:
        return trial.suggest_int(path, round(around.low), round(around.high), log=around.log)
    return trial.suggest_float(path, around.low, around.high, log=around.log)


def _given(config: Config, name: str) -> dict[str, float]:
    """The settings of the configuration, brought into the ranges of the search."""
    settings, given = config.align.of(name), {}
    for path, around in _space(config, name).items():
        given[path] = min(max(attrgetter(path)(settings), around.low), around.high)
    return given


def _with(config: Config, name: str, tried: dict[str, float]) -> Config:
    return config.model_copy(update={"align": config.align.of(name).with_settings(tried)})


def _found(study: optuna.Study, name: str) -> dict[str, Any]:
    trials = [
        {"settings": trial.params} | trial.user_attrs
        for trial in study.get_trials(states=[TrialState.COMPLETE])
    ]
    if not trials:
        raise LarrError(
            f"{name}: the loss grew without bound in every trial; lower the ranges of [tune]"
        )
    return {"best": study.best_params, "trials": trials}


def _print(found: dict[str, dict[str, Any]]) -> None:
    table = Table(title="validation", box=box.SIMPLE, padding=(0, 1, 0, 0))
    for column in ("model", "trials", "loss as given", "best loss", "best settings"):
        table.add_column(column)
    for name, one in found.items():
        losses = [trial["loss"] for trial in one["trials"]]
        best = ", ".join(f"{path} {value:.2g}" for path, value in one["best"].items())
        table.add_row(name, str(len(losses)), f"{losses[0]:.4f}", f"{min(losses):.4f}", best)
    console.print(table)
