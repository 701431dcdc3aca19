"""`larr choose`: selects the rankers, texts and settings of `best` on held-back rows.

A candidate is a ranker of `choose.kinds` with or without texts. Each is trained without the rows
that `larr.data.holdout` holds back, and evaluated by its loss on them. The search then varies the
best candidates, one setting at a time, as long as the loss improves. `best` is the weighted mean of
the logits of a few candidates; if texts do not help, none of them reads texts.

Shapes: J validation rows, T tasks.
"""

from __future__ import annotations

import json
import time
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain, zip_longest
from operator import attrgetter, itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from larr import artifacts, rankers
from larr.config import Config
from larr.config.rankers import BEST, VariantConfig
from larr.data import holdout
from larr.data.features import read_features
from larr.data.holdout import Fold
from larr.metrics import Array
from larr.progress import console, plain_table
from larr.rankers.align import ranker_artifact, renew
from larr.rankers.best import CHOICE, with_variants
from larr.rankers.neural import DivergedError
from larr.rankers.predict import fold_metrics, held_back_probabilities, row_losses

TRIALS, PROBABILITIES, COST = "trials", "probabilities.npy", "cost.json"
LEADERS = 3
"""The number of candidates to vary, each the best of its kind with or without texts."""
MEMBERS = 3
"""The default of `choose.members`; `best` may have twice as many if few rows are held back."""
PICKS = 10
"""Steps of the weight search; weights are multiples of one step."""
FEW_ROWS = 25_000
"""Up to this number of validation rows, the selection is bagged."""
BAGS = 50
"""Bootstrap samples of the users of the validation rows."""
MIN_GAIN = 5e-4
"""The minimum relative improvement of the loss per step: a member costs time at every request."""
EPSILON = 1e-6
"""Probabilities are clipped to this distance from 0 and 1 before taking logits."""


@dataclass(frozen=True)
class Trial:
    """A candidate and its results on the held-back rows."""

    name: str
    variant: VariantConfig
    reads_texts: bool
    logit_JT: Array
    figures: dict[str, float]
    """The result of `larr.rankers.predict.fold_metrics`."""
    seconds: float
    """Training time."""
    diverged: bool
    """Whether a training diverged; all probabilities are then 0.5."""

    @property
    def loss(self) -> float:
        """The sum of the tasks' LogLoss."""
        return self.figures["loss"]


def choose(config: Config) -> None:
    """Writes `choose/choice.json`: the members of `best`, their weights, and all trials."""
    for kind in config.choose.kinds:
        rankers.find(config, kind)
    with artifacts.building(config, "choose") as work:
        folds = [fold.shortened(config.choose.rows) for fold in holdout.folds(config)]
        trials: list[Trial] = []
        untried = list(_starts(config))
        while untried:
            loss = min((trial.loss for trial in trials), default=np.inf)
            affordable = untried[: config.choose.trials - len(trials)]
            trials += _run_trials(config, affordable, folds, work.folder / TRIALS)
            improved = min(trial.loss for trial in trials) < loss
            untried = _variations(config, trials, len(folds[0].train)) if improved else []
        choice = _choice(config, trials, _blend(config, trials, folds), folds)
        artifacts.write_json(work.folder / CHOICE, choice)
        work.measured(len(trials) * sum(len(fold.train) for fold in folds), "samples")
        work.figures |= choice
    figures = list(choice["best"])
    table = plain_table("candidate", *figures, "weight")
    for trial in sorted(choice["trials"].values(), key=itemgetter("loss")):
        weight = f"{trial['weight']:.2f}" if trial["weight"] else ""
        table.add_row(trial["title"], *(f"{trial[name]:.4f}" for name in figures), weight)
    table.add_row("best", *(f"{choice['best'][name]:.4f}" for name in figures), "")
    console.print(table)
    console.print(f"  {choice['decision']}", soft_wrap=True)


def _starts(config: Config) -> Iterator[VariantConfig]:
    """Yields each kind's starts without texts and with the figures of all sources.

    A kind that reads text vectors starts with the vectors of each source, without figures, and also
    with figures if neither comes from the tuned encoder. The encoder has learned from the training
    rows, so a ranker would trust its vectors and figures too much.
    """
    sources = config.choose.sources
    for kind in config.choose.kinds:
        ranker = rankers.find(config, kind)
        inputs: list[tuple[str | None, list[str]]] = [(None, [])]
        if tuned := ranker.text_vectors:
            others = [source for source in sources if source != tuned]
            of_others = [(source, others) for source in others]
            inputs = [*((source, []) for source in sources), *of_others] or inputs
        elif sources:
            inputs += [(None, sources)]
        for start in ranker.starts:
            for vectors, figures in inputs:
                settings = {"figures": figures, **start}
                yield VariantConfig(of=kind, settings=settings, vectors=vectors)


def _run_trials(
    config: Config, candidates: list[VariantConfig], folds: list[Fold], folder: Path
) -> list[Trial]:
    """Trains and evaluates candidates; each is an artifact, so that a stopped search can resume."""
    variants = {_name(variant): variant for variant in candidates}
    config = with_variants(config, variants)
    trained = {}
    for name in variants:
        ranker = ranker_artifact(config, name)
        settings = ranker.settings | {"rows": config.choose.rows}
        trained[name] = replace(ranker, folder=folder / name, settings=settings)
    renew(config, trained, _train, folds)
    trials = []
    for name, variant in variants.items():
        probability_JT = np.load(folder / name / PROBABILITIES)
        figures = fold_metrics(config, probability_JT, folds)
        clipped_JT = np.clip(probability_JT.astype(np.float64), EPSILON, 1 - EPSILON)
        logit_JT = np.log(clipped_JT / (1 - clipped_JT))
        reads_texts = bool(rankers.vector_sources(config, name))
        cost = artifacts.read_json(folder / name / COST)
        trials.append(Trial(name, variant, reads_texts, logit_JT, figures, **cost))
        console.print(f"  {_title(variant)}: loss {figures['loss']:.4f}", soft_wrap=True)
    return trials


def _train(config: Config, name: str, folder: Path, folds: list[Fold]) -> None:
    """Writes a candidate's probabilities for the validation rows."""
    started, diverged = time.perf_counter(), False
    try:
        probability_JT = held_back_probabilities(config, name, config.align.of(name), folds)
    except DivergedError as error:
        console.print(f"  {error}")
        diverged = True
        tasks = len(read_features(artifacts.folder(config, "prepare")).tasks)
        probability_JT = np.full((sum(len(fold.validation) for fold in folds), tasks), 0.5)
    np.save(folder / PROBABILITIES, probability_JT)
    seconds = round(time.perf_counter() - started, 3)
    artifacts.write_json(folder / COST, {"seconds": seconds, "diverged": diverged})


def _variations(config: Config, trials: list[Trial], rows: int) -> list[VariantConfig]:
    """Returns the untried candidates that differ from a leader in one setting.

    The leaders take turns, so that a limited number of trials varies each of them.
    """
    leaders: dict[tuple[str, bool], VariantConfig] = {}
    for trial in sorted(trials, key=attrgetter("loss")):
        leaders.setdefault((trial.variant.of, trial.reads_texts), trial.variant)
    of_leaders = [_neighbours(config, leader, rows) for leader in list(leaders.values())[:LEADERS]]
    turns = chain.from_iterable(zip_longest(*of_leaders))
    untried = {_name(variant): variant for variant in turns if variant}
    tried = {trial.name for trial in trials}
    return [variant for name, variant in untried.items() if name not in tried]


def _neighbours(config: Config, variant: VariantConfig, rows: int) -> list[VariantConfig]:
    """Returns the candidates that differ from `variant` in one setting.

    Tries more epochs only if they read no more samples than `choose.rows`.
    """
    categories = read_features(artifacts.folder(config, "prepare")).categories
    names = {category.name for category in categories}
    kind, base = rankers.find(config, variant.of), config.align.of(variant.of)
    current = base.with_settings(variant.settings)
    changes: list[tuple[str, Any]] = []
    for path, values in kind.alternatives.items():
        now = attrgetter(path)(current)
        near = values
        if isinstance(now, int | float):  # one step: the next smaller and the next larger number
            near = [*[v for v in values if v < now][-1:], *[v for v in values if v > now][:1]]
        changes += [(path, v) for v in near if path != "hidden" or names.issuperset(v)]
    if current.figures or kind.text_vectors:
        single = [[source] for source in config.choose.sources]
        changes += [("figures", figures) for figures in (*single, config.choose.sources)]
    varied = []
    for path, value in changes:
        settings = variant.settings | {path: value}
        changed = base.with_settings(settings)
        is_long = path == "epochs" and changed.epochs * rows > config.choose.rows
        if changed != current and not is_long:
            varied.append(variant.model_copy(update={"settings": settings}))
    return varied


def most_members(config: Config, folds: list[Fold]) -> int:
    """Returns the maximum number of members of `best`."""
    return config.choose.members or MEMBERS * (2 if _are_few(folds) else 1)


def _are_few(folds: list[Fold]) -> bool:
    return sum(len(fold.validation) for fold in folds) <= FEW_ROWS


def _blend(config: Config, trials: list[Trial], folds: list[Fold]) -> dict[str, float]:
    """Returns the weights of the members of `best`, by the names of their trials.

    Among few rows, the candidate with the lowest loss is partly there by chance. The selection is
    then bagged (Caruana, Munson and Niculescu-Mizil, 2006): it is repeated on bootstrap samples of
    the users, the weights are averaged, and the members with the largest are kept.
    """
    members = config.choose.members or MEMBERS
    logit_of = {trial.name: trial.logit_JT for trial in trials if not trial.diverged}
    label_JT = np.concatenate([fold.validation.array("labels") for fold in folds])
    if not _are_few(folds):
        return _select(logit_of, label_JT, np.ones(len(label_JT)), members)
    users = np.concatenate([fold.validation.array("keys")[:, 0] for fold in folds])
    ids, user_J = np.unique(users, return_inverse=True)
    random, votes = np.random.default_rng(config.seed), Counter[str]()
    for _ in range(BAGS):
        times_U = np.bincount(random.integers(len(ids), size=len(ids)), minlength=len(ids))
        votes.update(_select(logit_of, label_JT, times_U[user_J], members))
    kept = votes.most_common(most_members(config, folds))
    return {name: vote / sum(vote for _, vote in kept) for name, vote in kept}


def _select(
    logit_of: Mapping[str, Array], label_JT: Array, weight_J: Array, members: int
) -> dict[str, float]:
    """Returns weights of at most `members` candidates with a low weighted loss of their mean.

    Greedy ensemble selection (Caruana et al., 2004): each step picks the candidate that gives the
    mean of all picks the lowest loss. A candidate may be picked again, which raises its weight.
    """
    picks, total_JT, loss = list[str](), np.zeros(label_JT.shape), np.inf
    while len(picks) < PICKS:
        is_full = len(set(picks)) == members
        losses = {}
        for name in dict.fromkeys(picks) if is_full else logit_of:
            mean_JT = (total_JT + logit_of[name]) / (len(picks) + 1)
            losses[name] = float(row_losses(mean_JT, label_JT) @ weight_J)
        best = min(losses, key=losses.__getitem__)
        if losses[best] > loss * (1 - MIN_GAIN):
            break
        picks.append(best)
        total_JT += logit_of[best]
        loss = losses[best]
    return {name: picks.count(name) / len(picks) for name in dict.fromkeys(picks)}


def _choice(
    config: Config, trials: list[Trial], weights: dict[str, float], folds: list[Fold]
) -> dict[str, Any]:
    """Returns the content of `choice.json`; the report shows its trials."""
    models = [(name, ranker_artifact(config, name)) for name in config.align.models if name != BEST]
    chosen = [trial for trial in trials if trial.name in weights]
    members = {}
    for number, trial in enumerate(chosen, 1):
        # a member that equals one of `align.models` takes its name, so that it is trained once
        candidate = with_variants(config, {"candidate": trial.variant})
        wanted = ranker_artifact(candidate, "candidate")
        equal = (n for n, m in models if (m.settings, m.inputs) == (wanted.settings, wanted.inputs))
        member = trial.variant.model_dump() | {"weight": weights[trial.name]}
        members[next(equal, f"{BEST}_{number}")] = member
    mean_JT = sum(weights[trial.name] * trial.logit_JT for trial in chosen)
    return {
        "members": members,
        "best": fold_metrics(config, 1 / (1 + np.exp(-mean_JT)), folds),
        "decision": _summary(trials, chosen),
        "held_back": {"rows": sum(len(fold.validation) for fold in folds), "folds": len(folds)},
        "trials": {
            trial.name: {
                **trial.variant.model_dump(),
                **trial.figures,
                "title": _title(trial.variant),
                "seconds": trial.seconds,
                "weight": weights.get(trial.name, 0.0),
            }
            for trial in trials
        },
    }


def _summary(trials: list[Trial], chosen: list[Trial]) -> str:
    """Returns a sentence on whether `best` reads texts, and on their effect."""
    title = "; ".join(_title(trial.variant) for trial in chosen)
    if len(chosen) > 1:
        title = f"a mean of: {title}"
    losses = [[t.loss for t in trials if t.reads_texts == reads] for reads in (True, False)]
    if not all(losses):
        return f"best is {title}."
    percent = 100 * (min(losses[0]) / min(losses[1]) - 1)
    reads = "texts are read" if any(trial.reads_texts for trial in chosen) else "no texts are read"
    side = "below" if percent < 0 else "above"
    return (
        f"best is {title}: {reads}. On the held-back rows, the loss of the best ranker with texts "
        f"is {abs(percent):.2f} % {side} that of the best one without."
    )


def _title(variant: VariantConfig) -> str:
    """Describes a candidate, for example `dcn, texts of letters, dropout 0.2`."""
    settings = dict(variant.settings)
    figures = settings.pop("figures", [])
    words = [variant.of]
    if variant.vectors:
        words.append(f"vectors of {variant.vectors}")
    if figures:
        words.append(f"texts of {' and '.join(figures)}")
    if hidden := settings.pop("hidden", []):
        words.append(f"without {' and '.join(hidden)}")
    words += [f"{path.rpartition('.')[2]} {value}" for path, value in settings.items()]
    return ", ".join(words)


def _name(variant: VariantConfig) -> str:
    """Returns a name derived from the candidate's content, so that a later run finds its folder."""
    content = json.dumps(variant.model_dump(), sort_keys=True)
    return f"{variant.of}_{zlib.crc32(content.encode()):08x}"
