"""How rankers do on the rows that `larr.data.holdout` holds back.

Shapes: N rows of a fold, J rows that judge, those of all folds one after the other, T tasks.
"""

from __future__ import annotations

import numpy as np

from larr import artifacts, metrics
from larr.config import Config
from larr.config.rankers import RankerConfig
from larr.data.features import read_features
from larr.data.holdout import Fold
from larr.metrics import TASKS, Array
from larr.rankers.align import train
from larr.rankers.predict import predict_log


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
