"""Predicted probabilities for the rows of a log, and metrics on held-back rows.

Shapes: N rows of a log or a fold, B of a batch, J validation rows of all folds in their order, T
tasks.
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
from larr.rankers.best import Blend
from larr.rankers.ranker import Ranker

ROWS = 4096  # per scoring batch


def predict(config: Config, name: str) -> np.ndarray:
    """Returns the probabilities of the test rows in the order of the log, float32 [N, T].

    Column 0 is the probability of a click, column 1 that of a click and an order (CTCVR).
    """
    data = artifacts.folder(config, "prepare")
    ranker = load_ranker(config, name)
    rate, log = read_features(data).sampling_rate, LogRows(data / "test")
    with progress.track(f"scores of {name}", len(log), "samples") as advance:
        return undo_sampling(predict_log(ranker, log, advance), rate)


def load_ranker(config: Config, name: str) -> Blend:
    """Loads a ranker that `larr align` has trained, as its own only member, or `best`."""
    config = best.with_members(config)
    members = {}
    for member, weight in best.weights(config, name).items():
        ranker = rankers.build(config, member)
        ranker.load(artifacts.folder(config, "align") / member / "model.safetensors")
        members[member] = ranker, weight
    return Blend(members)


def predict_log(
    ranker: Ranker | Blend, log: LogRows, advance: progress.Advance = lambda _: None
) -> np.ndarray:
    """Returns the probabilities of a log's rows in its order, float32 [N, T].

    They are not yet corrected by `undo_sampling`.
    """
    parts = []
    for batch in log.with_figures(ranker.figures).in_order(ROWS):
        parts.append(probabilities(ranker, batch))
        advance(batch.rows)
    return np.concatenate(parts)


def probabilities(ranker: Ranker | Blend, batch: Batch) -> np.ndarray:
    """Returns the probabilities of the rows, float32 [B, T], before `undo_sampling`."""
    probability_BT: np.ndarray = ranker.score(batch).sigmoid().numpy()
    return probability_BT


def held_back_probabilities(
    config: Config, name: str, settings: RankerConfig, folds: list[Fold]
) -> Array:
    """Trains a ranker on each fold; returns the probabilities of the validation rows, [J, T].

    Raises DivergedError if a training diverges.
    """
    scores = []
    for fold in folds:
        ranker, _ = train(config, name, settings, fold.train)
        scores.append(predict_log(ranker, fold.validation))
    return np.concatenate(scores)


def row_losses(logit_JT: Array, label_JT: Array) -> Array:
    """Returns the LogLoss of each row's logits, summed over the tasks, [J]."""
    # the loss of a logit z is log(1 + exp(-z)) for a positive row, log(1 + exp(z)) for a negative
    loss_J: Array = np.logaddexp(0, np.where(label_JT > 0, -logit_JT, logit_JT)).sum(axis=1)
    return loss_J


def fold_metrics(config: Config, probability_JT: Array, folds: list[Fold]) -> dict[str, float]:
    """Returns the `loss` on the validation rows, and the AUC and GAUC of each task.

    The loss is the sum of the tasks' LogLoss. AUC and GAUC are means over the folds, since scores
    of different trainings are not comparable. A metric that is undefined in every fold, for lack of
    a class or of users with both, is left out.
    """
    label_JT = np.concatenate([fold.validation.array("labels") for fold in folds])
    ends = np.cumsum([len(fold.validation) for fold in folds])[:-1]
    users = [
        np.unique(fold.validation.array("keys")[:, 0], return_inverse=True)[1] for fold in folds
    ]
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
    """Raises StaleError if this ranker is missing or out of date, whatever the state of others.

    Also raises it if the text vectors of the training do not match the configuration, because the
    texts of new places would then get incompatible vectors.
    """
    from larr.text import embed  # noqa: PLC0415 - imports transformers

    artifacts.require(config, "prepare", *(["choose"] if name == BEST else []))
    config = best.with_members(config)
    for member in best.weights(config, name):
        sources = rankers.vector_sources(config, member)
        embed.require(config, sources, config.align.of(member).figures)
        artifact = ranker_artifact(config, member)
        if reason := artifact.why_stale():
            raise StaleError(
                f"{artifact.folder}: {reason}; add {member} to align.models and run `larr run` "
                "with the same configuration"
            )
