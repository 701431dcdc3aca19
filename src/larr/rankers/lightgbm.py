"""LightGBM (Ke et al., 2017): gradient-boosted trees on the same columns as the networks.

Shapes: B rows of a batch, N rows of a log, C columns (categories, numbers, text figures), T tasks.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from larr import progress
from larr.data.batches import Batch, LogRows
from larr.errors import LarrError
from larr.rankers.graph import FLOATS, graph_inputs
from larr.rankers.ranker import IDS, LossCurve, Range, Ranker, RankerInputs

POINTS = 50  # of the loss curve


class LightGbm(Ranker):
    """A forest for each task over categories, numbers and text figures, without recent places.

    Leaves out the categories in `align.hidden`: with IDs of many values, trees memorise who
    clicked.
    """

    search_space: ClassVar = {
        "trees.learning_rate": Range(0.02, 0.2),
        "trees.leaves": Range(8, 128, integer=True),
        "trees.leaf_rows": Range(20, 1000, integer=True),
        "trees.l2": Range(0.1, 100.0),
        "trees.category_l2": Range(1.0, 1000.0),
    }
    # The second suits short logs: on canteen purchases it lowers the LogLoss from .501 to .493.
    starts: ClassVar = ({}, {"trees.leaves": 8, "trees.leaf_rows": 500, "trees.rounds": 100})
    alternatives: ClassVar = {
        "trees.rounds": (100, 1000),
        "trees.leaves": (8,),
        "trees.leaf_rows": (20, 100, 500),
        "hidden": (IDS,),
    }

    def __init__(self, inputs: RankerInputs) -> None:
        self.name, self.settings = inputs.name, inputs.settings.trees
        self.tasks, hidden = inputs.features.tasks, inputs.settings.hidden
        categories = enumerate(inputs.features.categories)
        self.columns = [column for column, category in categories if category.name not in hidden]
        self.forests: list[Any] = []

    def fit(self, log: LogRows, seed: int) -> LossCurve:
        """Trains a forest for each task."""
        lightgbm, label_NT, losses_TK = _lightgbm(), log.array("labels"), []
        rounds, self.forests = self.settings.rounds, []
        points_K = np.unique(np.linspace(1, rounds, min(POINTS, rounds), dtype=int)) - 1
        options = {
            "objective": "binary",
            "learning_rate": self.settings.learning_rate,
            "num_leaves": self.settings.leaves,
            "min_data_in_leaf": self.settings.leaf_rows,
            "lambda_l2": self.settings.l2,
            "cat_l2": self.settings.category_l2,
            "seed": seed,
            "deterministic": True,  # together with the next: the same bytes for the same seed
            "force_row_wise": True,
            "num_threads": torch.get_num_threads(),
            "verbosity": -1,
        }
        with progress.track(self.name, rounds * len(self.tasks), "trees") as advance:
            for label_N in label_NT.T:
                rows = lightgbm.Dataset(
                    _rows(log, self.columns),
                    label_N,
                    weight=log.weights(),
                    categorical_feature=list(range(len(self.columns))),
                    params={"verbosity": -1},
                )
                curve: dict[str, Any] = {}
                callbacks = [lightgbm.record_evaluation(curve), lambda _: advance(1)]
                forest = lightgbm.train(
                    options, rows, rounds, valid_sets=[rows], callbacks=callbacks
                )
                self.forests.append(forest)
                losses_TK.append(np.array(curve["training"]["binary_logloss"])[points_K])
        losses = np.sum(losses_TK, axis=0).tolist()
        return [
            {"samples": len(log) * n // len(losses), "loss": loss, "click": loss, "alignment": 0.0}
            for n, loss in enumerate(losses, 1)
        ]

    def score(self, batch: Batch) -> Tensor:
        """Returns the logits, float32 [B, T]."""
        parts = (batch.categories[:, self.columns], batch.numbers, batch.figures)
        row_BC = np.concatenate(parts, axis=-1, dtype=np.float64)
        logits = [forest.predict(row_BC, raw_score=True) for forest in self.forests]
        return torch.from_numpy(np.stack(logits, axis=1)).float()

    def save(self, path: Path) -> None:
        """Writes each forest in LightGBM's text format, as a byte tensor named after its task."""
        texts = [forest.model_to_string().encode() for forest in self.forests]
        tensors = [torch.from_numpy(np.frombuffer(text, np.uint8).copy()) for text in texts]
        save_file(dict(zip(self.tasks, tensors, strict=True)), path)

    def load(self, path: Path) -> None:
        """Reads the forests."""
        tensors = load_file(path)
        texts = [tensors[task].numpy().tobytes().decode() for task in self.tasks]
        self.forests = [_lightgbm().Booster(model_str=text) for text in texts]

    def write_graph(self, path: Path, example: Batch) -> None:
        """Writes the forests as an ONNX `TreeEnsemble`, so that serving needs no LightGBM."""
        from larr.rankers.forest import write_forests  # noqa: PLC0415 - only publishing needs it

        forests = [forest.dump_model() for forest in self.forests]
        widths = {name: array.shape[1] for name, array in graph_inputs(example).items()}
        numbers = {name: width for name, width in widths.items() if name in FLOATS}
        write_forests(forests, self.columns, numbers, path)


def _lightgbm() -> Any:
    """Returns the library; imported lazily, because it needs the system's OpenMP."""
    try:
        import lightgbm  # noqa: PLC0415
    except OSError as error:
        raise LarrError(
            f"LightGBM cannot be loaded: {error}; install libgomp1 (Debian, Ubuntu) or libomp "
            "(macOS), or remove lightgbm from align.models"
        ) from error
    return lightgbm


def _rows(log: LogRows, columns: list[int]) -> Any:
    """Returns the rows of a log as LightGBM's `Sequence`, read from the mapped arrays as needed."""

    class Rows(_lightgbm().Sequence):  # type: ignore[misc]
        batch_size = 65_536
        categories, *numbers = (log.array(name) for name in ("categories", "numbers"))
        numbers += log.figure_arrays()

        def __len__(self) -> int:
            return len(self.categories)

        def __getitem__(self, index: int | slice | list[int]) -> np.ndarray:
            parts = [self.categories[index][..., columns]]
            parts += [array[index] for array in self.numbers]
            return np.concatenate(parts, axis=-1, dtype=np.float64)

    return Rows()
