"""LightGBM (Ke et al., 2017): what boosted trees make of the same columns.

Shapes: B rows of a batch, N rows of a log, C columns (categories, then numbers), T tasks.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from larr.data.batches import Batch
from larr.errors import LarrError
from larr.progress import Advance
from larr.rankers.layers import Inputs, Ranker, Scores

POINTS = 50  # of the loss curve


class Trees(Ranker):
    """A forest for each task, of categories and numbers; recent places and texts are not read.

    Categories in `align.hidden` are left out: of IDs with many values trees learn by heart.

    A task's forest is kept as LightGBM's own text, in a buffer of bytes that has the task's name.
    """

    def __init__(self, inputs: Inputs) -> None:
        super().__init__()
        self.settings, self.tasks = inputs.settings.trees, inputs.features.tasks
        names, hidden = inputs.features.categories, inputs.settings.hidden
        self.kept = [n for n, category in enumerate(names) if category.name not in hidden]
        self.forests: list[Any] = []
        for task in self.tasks:
            self.register_buffer(task, torch.empty(0, dtype=torch.uint8))

    def grow(self, log: Path, seed: int, advance: Advance) -> list[float]:
        """Trains on a log; returns the loss (L_ctr) along the way. `advance` is told of rounds."""
        library, label_NT, losses_TK = _lightgbm(), np.load(log / "labels.npy"), []
        for task, label_N in zip(self.tasks, label_NT.T, strict=True):
            rows = library.Dataset(
                _rows(log, self.kept),
                label_N,
                categorical_feature=list(range(len(self.kept))),
                params={"verbosity": -1},
            )
            forest = library.Booster(self._options(seed), rows)
            losses_TK.append(self._boost(forest, advance))
            written = np.frombuffer(forest.model_to_string().encode(), np.uint8)
            setattr(self, task, torch.from_numpy(written.copy()))
        self._read()
        return [float(sum(losses_T)) for losses_T in zip(*losses_TK, strict=True)]

    def forward(self, batch: Batch) -> Scores:
        """Scores each row by itself."""
        row_BC = _joined(batch.categories.numpy()[:, self.kept], batch.numbers.numpy())
        logits = [forest.predict(row_BC, raw_score=True) for forest in self.forests]
        return Scores(torch.from_numpy(np.stack(logits, axis=1)).float())

    def load_state_dict(self, state_dict: Mapping[str, Any], *_: Any, **__: Any) -> Any:
        """Takes the forests over; their texts are of any length."""
        for task in self.tasks:
            setattr(self, task, state_dict[task])
        self._read()

    def _read(self) -> None:
        texts: list[Tensor] = [getattr(self, task) for task in self.tasks]
        strings = [text.numpy().tobytes().decode() for text in texts]
        self.forests = [_lightgbm().Booster(model_str=string) for string in strings]

    def _options(self, seed: int) -> dict[str, Any]:
        return {
            "objective": "binary",
            "learning_rate": self.settings.learning_rate,
            "num_leaves": self.settings.leaves,
            "min_data_in_leaf": self.settings.leaf_rows,
            "lambda_l2": self.settings.l2,
            "cat_l2": self.settings.category_l2,
            "seed": seed,
            "deterministic": True,
            "force_row_wise": True,
            "num_threads": torch.get_num_threads(),
            "verbosity": -1,
        }

    def _boost(self, forest: Any, advance: Advance) -> list[float]:
        rounds, losses = self.settings.rounds, []
        told = set(np.linspace(1, rounds, min(POINTS, rounds), dtype=int).tolist())
        for number in range(1, rounds + 1):
            forest.update()
            advance(1)
            if number in told:
                losses.append(forest.eval_train()[0][2])
        return losses


def _lightgbm() -> Any:
    """The library, loaded when a forest is wanted: it needs OpenMP of the system."""
    try:
        import lightgbm  # noqa: PLC0415
    except OSError as error:
        raise LarrError(
            f"LightGBM cannot be loaded: {error}; install libgomp1 (Debian, Ubuntu) or libomp "
            "(macOS), or take lightgbm out of align.models"
        ) from error
    return lightgbm


def _rows(log: Path, kept: list[int]) -> Any:
    """The rows of a log as LightGBM's `Sequence`, read from the mapped arrays as needed."""

    class Rows(_lightgbm().Sequence):  # type: ignore[misc]
        batch_size = 65_536
        categories = np.load(log / "categories.npy", mmap_mode="r")
        numbers = np.load(log / "numbers.npy", mmap_mode="r")

        def __len__(self) -> int:
            return len(self.categories)

        def __getitem__(self, index: int | slice | list[int]) -> np.ndarray:
            return _joined(self.categories[index][..., kept], self.numbers[index])

    return Rows()


def _joined(categories: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    joined: np.ndarray = np.concatenate([categories, numbers], axis=-1, dtype=np.float64)
    return joined
