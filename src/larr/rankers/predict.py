"""The probabilities that a trained ranker gives to the rows of a log.

Shapes: N rows of a log, B of a batch, T tasks.
"""

from __future__ import annotations

import numpy as np

from larr import artifacts, progress, rankers
from larr.config import Config
from larr.config.rankers import BEST
from larr.data.batches import Batch, LogRows
from larr.data.features import read_features, undo_sampling
from larr.errors import StaleError
from larr.rankers import best
from larr.rankers.align import ranker_artifact
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
