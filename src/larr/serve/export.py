"""`larr export`: writes the log with scene vectors for other CTR libraries, and the ranker as ONNX.

Shapes: B rows, A dimension of e_s.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from larr import artifacts, progress
from larr.config import Config
from larr.data.batches import LogRows
from larr.data.features import Features, read_features, undo_sampling
from larr.data.log import SPLITS
from larr.errors import ConfigError
from larr.rankers.graph import Logits, graph_inputs, write_graph
from larr.rankers.larr import Larr
from larr.rankers.predict import ROWS, load_ranker, require_ranker

VECTOR, RECENT = "scene_vector", "recent"
FEATURE_MAP, ONNX = "feature_map.json", "ranker.onnx"
Json = dict[str, Any]


def export(config: Config, model: str, target: Path) -> None:
    """Writes `train.parquet`, `test.parquet`, `feature_map.json` and `ranker.onnx` into a folder.

    The Parquet files contain the labels, the indices of categories and recent places, the
    standardised numbers and e_s of Eq. (23), a list of floats. Raises ConfigError for a ranker
    other than LARR.
    """
    require_ranker(config, model)
    # `best` has no member of its own name
    ranker, _ = load_ranker(config, model).members.get(model, (None, 0))
    if not isinstance(ranker, Larr):
        raise ConfigError(f"--model {model}: it has no scene vectors; choose a LARR")
    data = artifacts.folder(config, "prepare")
    features = read_features(data)
    target.mkdir(parents=True, exist_ok=True)
    for split in SPLITS:
        log = LogRows(data / split).with_figures(ranker.figures)
        _write_rows(ranker, features, log, target / f"{split}.parquet")
    artifacts.write_json(target / FEATURE_MAP, feature_map(features, ranker))
    graph = _Probabilities(ranker, features.sampling_rate)
    write_graph(graph, graph_inputs(next(log.in_order(2))), target / ONNX)


def feature_map(features: Features, ranker: Larr) -> Json:
    """Returns the content of FuxiCTR's `feature_map.json`."""
    sizes = {category.name: category.size for category in features.categories}
    columns: dict[str, Json] = {
        name: {"type": "categorical", "vocab_size": size, "padding_idx": 0}
        for name, size in sizes.items()
    }
    columns |= {name: {"type": "numeric"} for name in features.numbers}
    if features.recent:
        columns[RECENT] = {
            "type": "sequence",
            "vocab_size": sizes["poi_id"],
            "padding_idx": 0,
            "max_len": features.recent,
            "share_embedding": "poi_id",
            "feature_encoder": "layers.MaskedAveragePooling()",
        }
    width = ranker.alignment.out_features
    columns[VECTOR] = {"type": "embedding", "pretrain_dim": width}
    return {
        "dataset_id": features.dataset,
        "num_fields": len(columns),
        "total_features": sum(sizes.values()),
        "input_length": len(columns) - 1 + width + max(features.recent - 1, 0),
        "labels": list(features.tasks),
        "features": [{name: {"source": "", **column}} for name, column in columns.items()],
    }


class _Probabilities(Logits):
    """Maps a ranker's inputs, as named tensors, to `probabilities`, [B, T], for any B.

    They equal those of `larr evaluate`, corrected for `dataset.sampling_rate`.
    """

    def __init__(self, ranker: Larr, sampling_rate: float) -> None:
        super().__init__(ranker)
        self.sampling_rate = sampling_rate

    def forward(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        undo: Any = undo_sampling  # pure arithmetic, which also accepts tensors
        return {
            "probabilities": undo(super().forward(inputs)["logits"].sigmoid(), self.sampling_rate)
        }


def _write_rows(ranker: Larr, features: Features, log: LogRows, path: Path) -> None:
    categories = [category.name for category in features.categories]
    bar = progress.track(f"exporting {path.name}", len(log), "rows")
    with artifacts.atomic(path) as partial, ExitStack() as opened, bar as advance:
        writer = None
        for batch in log.in_order(ROWS):
            with torch.inference_mode():
                _, e_s, _ = ranker.outputs(batch)
            columns: dict[str, Any] = dict(zip(categories, batch.categories.numpy().T, strict=True))
            columns |= zip(features.numbers, batch.numbers.numpy().T, strict=True)
            lists = {RECENT: batch.recent} if features.recent else {}
            for name, rows_BX in (lists | {VECTOR: e_s.float()}).items():
                values = pa.array(rows_BX.numpy().ravel())
                columns[name] = pa.FixedSizeListArray.from_arrays(values, rows_BX.shape[1])
            columns |= zip(features.tasks, batch.labels.numpy().T.astype(np.float32), strict=True)
            table = pa.table(columns)
            writer = writer or opened.enter_context(pq.ParquetWriter(partial, table.schema))
            writer.write_table(table)
            advance(batch.rows)
