"""The held-back part of the training days, and the evaluation on it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from larr.config import Config
from larr.data import folds, holdout
from larr.data.batches import LogRows
from larr.errors import DataError
from larr.metrics import auc, log_loss
from larr.rankers.predict import fold_metrics
from tests.ranking_log import Sizes, log_of, write_log

SIZES = Sizes(rows=400, test_rows=40)


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return write_log(tmp_path, SIZES)


def rows_of_parts(config: Config) -> list[tuple[LogRows, LogRows]]:
    """Returns the training rows and the validation rows of each part."""
    log = log_of(config)
    return [
        (log.select(np.flatnonzero(split == "train")), log.select(np.flatnonzero(split == "test")))
        for split in folds.splits(log.folder.parent)
    ]


def test_the_last_training_days_are_held_back(config: Config) -> None:
    log = log_of(config)
    days = np.random.default_rng(1).permutation(log.array("days"))
    np.save(log.folder / "days.npy", days)
    first, second = holdout.folds(config)  # the third would train on less than half of the log
    for last, fold in ((3, first), (2, second)):
        np.testing.assert_array_equal(fold.train.numbers_N, np.flatnonzero(days[:, 0] < last))
        np.testing.assert_array_equal(fold.validation.numbers_N, np.flatnonzero(days[:, 0] == last))
        np.testing.assert_array_equal(fold.left_out_N, np.flatnonzero(days[:, 0] >= last))
        latest = fold.shortened(50).train.numbers_N
        np.testing.assert_array_equal(
            latest, np.sort(np.argsort(np.where(days < last, days, -1)[:, 0], kind="stable")[-50:])
        )


def test_a_day_with_enough_rows_is_held_back_alone(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holdout, "ENOUGH_ROWS", 100)
    assert len(holdout.folds(config)) == 1


def test_days_with_few_rows_are_held_back_together(config: Config) -> None:
    log = log_of(config)
    days = np.repeat(np.arange(40, dtype=np.int32), SIZES.rows // 40)[:, None] - 100
    np.save(log.folder / "days.npy", days)
    folds = holdout.folds(config)
    assert len(folds) == 5  # each has a tenth of the rows; half of the rows are always for training
    for number, part in enumerate(folds, 1):
        first = 40 - 4 * number - 100
        np.testing.assert_array_equal(
            np.unique(part.validation.array("days")), np.arange(first, first + 4)
        )
        assert part.train.array("days").max() == first - 1


@pytest.mark.parametrize(("new", "column"), [("users", 0), ("places", 1)])
def test_new_users_or_places_are_held_back_if_the_test_has_new_ones(
    config: Config, new: str, column: int
) -> None:
    test = log_of(config, "test").folder / "keys.npy"
    keys = np.load(test)
    keys[:, column] += 1_000
    np.save(test, keys)
    found = rows_of_parts(config)
    assert len(found) == folds.FOLDS
    validated = np.concatenate([validation.numbers_N for _, validation in found])
    np.testing.assert_array_equal(np.sort(validated), np.arange(SIZES.rows))
    for part in found:
        trained, validated_in = (set(log.array("keys")[:, column]) for log in part)
        assert not validated_in & trained


def test_texts_are_held_back_if_the_test_has_new_ones(config: Config) -> None:
    test = log_of(config, "test").folder / "texts.npy"
    texts = np.load(test)
    texts[:, 2] += 1_000
    np.save(test, texts)
    for part in rows_of_parts(config):
        trained, validated_in = (set(log.array("texts")[:, 2]) for log in part)
        assert not validated_in & trained


def test_requests_are_held_back_if_the_test_has_nothing_new(config: Config) -> None:
    for train, validation in rows_of_parts(config):
        trained, validated_in = (set(log.array("requests")[:, 0]) for log in (train, validation))
        assert not validated_in & trained
        assert set(validation.array("keys")[:, 0]) & set(train.array("keys")[:, 0])


def test_as_many_places_are_excluded_as_are_new_in_the_test(config: Config) -> None:
    test = log_of(config, "test").folder / "keys.npy"
    keys = np.load(test)
    keys[: SIZES.test_rows // 4, 1] += 1_000
    np.save(test, keys)
    for train, validation in rows_of_parts(config):
        trained, validated_in = (set(log.array("keys")[:, 1]) for log in (train, validation))
        new = validated_in - trained
        share = np.isin(validation.array("keys")[:, 1], list(new)).mean()
        assert 0.1 < share < 0.4
        log = log_of(config)
        taken = np.isin(log.array("keys")[:, 1], list(new)) & (log.array("labels")[:, 0] > 0)
        requests = log.array("requests")[taken, 0]
        assert not set(requests) & set(train.array("requests")[:, 0])
        assert set(validation.array("keys")[:, 0]) & set(train.array("keys")[:, 0])


def test_nothing_is_excluded_if_enough_held_back_places_are_new(config: Config) -> None:
    for split, every, first in (("train", 3, 1_000), ("test", 6, 2_000)):
        path = log_of(config, split).folder / "keys.npy"
        keys = np.zeros_like(np.load(path))
        keys[::every, 1] = first + np.arange(len(keys[::every]))  # places of a single row
        np.save(path, keys)
    assert not any((split == "").any() for split in folds.splits(log_of(config).folder.parent))


def test_a_log_of_one_user_is_refused(config: Config) -> None:
    for split, rows, user in (("train", SIZES.rows, 1), ("test", SIZES.test_rows, 2)):
        np.save(log_of(config, split).folder / "days.npy", np.zeros((rows, 1), np.int32))
        np.save(log_of(config, split).folder / "keys.npy", np.full((rows, 2), user, np.int32))
    assert not folds.splits(log_of(config).folder.parent)
    with pytest.raises(DataError, match="too few users"):
        holdout.folds(config)


def test_losses_are_over_all_rows_and_aucs_are_means_of_the_folds(config: Config) -> None:
    folds = holdout.folds(config)
    labels = np.concatenate([fold.validation.array("labels") for fold in folds])
    scores = np.random.default_rng(1).random(labels.shape)
    figures = fold_metrics(config, scores, folds)
    losses = [log_loss(label, score) for label, score in zip(labels.T, scores.T, strict=True)]
    assert figures["loss"] == pytest.approx(sum(losses))
    end = len(folds[0].validation)
    aucs = [auc(labels[rows, 0], scores[rows, 0]) for rows in (slice(end), slice(end, None))]
    assert figures["ctr_auc"] == pytest.approx(np.mean(aucs))
    assert 0 < figures["ctcvr_gauc"] < 1


def test_an_undefined_metric_is_omitted(config: Config) -> None:
    path = log_of(config).folder / "keys.npy"
    keys = np.load(path)
    keys[:, 0] = np.arange(len(keys))  # no user has a row of each class
    np.save(path, keys)
    folds = holdout.folds(config)
    scores = np.full((sum(len(fold.validation) for fold in folds), 2), 0.5)
    assert set(fold_metrics(config, scores, folds)) == {"loss", "ctr_auc", "ctcvr_auc"}
