"""The probabilities that rankers give to the rows of a log, and how they do on held-back rows.

Shapes: N rows of a log or a fold, B of a batch, J rows that judge, those of all folds one after
the other, T tasks.
"""

from __future__ import annotations

import numpy as np

from larr import artifacts, metrics, progress, rankers
from larr.config import Config
from larr.config.rankers import BEST, RankerConfig
from larr.data.batches import Batch, LogRows
from larr.data.features import read_features, undo_sampling
from larr.data.holdout import Fold
from larr.errors import StaleError
from larr.metrics import TASKS, Array
from larr.rankers import best
from larr.rankers.align import ranker_artifact, train
from larr.rankers.best import Blend, Scorer

ROWS = 4096  # scored at a time


def predict(config: Config, name: str) -> np.ndarray:
    """Returns the probabilities of the test days' rows in the order of the log, float32 [N, T].

    Column 0 is the probability of a click, column 1 that of a click and an order (CTCVR).
    """
    data = artifacts.folder(config, "prepare")
    ranker = load_ranker(config, name)
    rate, log = read_features(data).sampling_rate, LogRows(data / "test")
    with progress.track(f"scores of {name}", len(log), "samples") as advance:
        return undo_sampling(predict_log(ranker, log, advance), rate)


def load_ranker(config: Config, name: str) -> Scorer:
    """Returns a ranker that `larr align` has trained, or `best`, ready to score."""
    config = best.with_members(config)
    members = {}
    for member, weight in (best.weights(config) if name == BEST else {name: 1.0}).items():
        ranker = rankers.build(config, member)
        ranker.load(artifacts.folder(config, "align") / member / "model.safetensors")
        members[member] = ranker, weight
    return Blend(members) if name == BEST else ranker


def predict_log(
    ranker: Scorer, log: LogRows, advance: progress.Advance = lambda _: None
) -> np.ndarray:
    """Returns the probabilities of a log's rows in its order, float32 [N, T].

    They are those of the training log, before `undo_sampling`.
    """
    parts = []
    for batch in log.with_figures(ranker.figures).in_order(ROWS):
        parts.append(probabilities(ranker, batch))
        advance(batch.rows)
    return np.concatenate(parts)


def probabilities(ranker: Scorer, batch: Batch) -> np.ndarray:
    """Returns the probabilities of the rows, float32 [B, T], before `undo_sampling`."""
    probability_BT: np.ndarray = ranker.score(batch).sigmoid().numpy()
    return probability_BT


def held_back_probabilities(
    config: Config, name: str, settings: RankerConfig, folds: list[Fold]
) -> Array:
    """Trains a ranker for each fold; returns its probabilities of the rows that judge, [J, T].

    Raises DivergedError if the loss of a training grows without bound.
    """
    scores = []
    for fold in folds:
        ranker, _ = train(config, name, settings, fold.train)
        scores.append(predict_log(ranker, fold.judge))
    return np.concatenate(scores)


def loss_of(logit_JT: Array, folds: list[Fold]) -> float:
    """Returns the sum of the tasks' LogLoss of some logits on the rows that judge."""
    label_JT = np.concatenate([fold.judge.array("labels") for fold in folds])
    # the loss of a row is log(1 + exp(-z)) with its label, log(1 + exp(z)) without
    return float(np.logaddexp(0, np.where(label_JT > 0, -logit_JT, logit_JT)).mean(axis=0).sum())


def judged(config: Config, probability_JT: Array, folds: list[Fold]) -> dict[str, float]:
    """Returns the `loss` on the rows that judge, and by task the AUC and GAUC.

    The loss is the sum of the tasks' LogLoss. AUC and GAUC are means over the folds, since the
    scores of different trainings cannot be compared. One that no fold has, for lack of a class or
    of users with both, is left out.
    """
    label_JT = np.concatenate([fold.judge.array("labels") for fold in folds])
    ends = np.cumsum([len(fold.judge) for fold in folds])[:-1]
    users = [np.unique(fold.judge.array("keys")[:, 0], return_inverse=True)[1] for fold in folds]
    figures = {"loss": 0.0}
    tasks = read_features(artifacts.folder(config, "prepare")).tasks
    for task, label_J, score_J in zip(tasks, label_JT.T, probability_JT.T, strict=True):
        figures["loss"] += metrics.log_loss(label_J, score_J)
        aucs, gaucs = [], []
        by_fold = zip(np.split(label_J, ends), np.split(score_J, ends), users, strict=True)
        for label_N, score_N, user_N in by_fold:
            aucs.append(metrics.auc(label_N, score_N))
            gauc = metrics.gauc(label_N, score_N, user_N)
            gaucs.append(gauc.under(np.ones((len(gauc.numerator_U), 1)))[0])
        for name, values in (("auc", aucs), ("gauc", gaucs)):
            if np.isfinite(values).any():
                figures[f"{TASKS[task]}_{name}"] = float(np.nanmean(values))
    return figures


def require_ranker(config: Config, name: str) -> None:
    """Raises StaleError if this ranker is missing or out of date, whatever the others are.

    So it does if the configuration has another text side than that of the vectors it was trained
    with: texts of new places would get vectors of another kind.
    """
    from larr.text import embed  # noqa: PLC0415 - it loads transformers

    artifacts.require(config, "prepare", *(["choose"] if name == BEST else []))
    config = best.with_members(config)
    for member in best.weights(config) if name == BEST else [name]:
        sources = rankers.vector_sources(config, member)
        embed.require(config, sources, config.align.of(member).figures)
        artifact = ranker_artifact(config, member)
        if reason := artifact.why_stale():
            raise StaleError(
                f"{artifact.folder}: {reason}; put {member} into align.models and run `larr run` "
                "with the same configuration"
            )
