"""Scoring 300 candidates on one core: folded against the complete model, in one run, as ratios.

    .venv/bin/python benchmarks/scoring.py configs/city.toml [--model larr] [--set ...]

needs a finished `larr run configs/city.toml`. Each way runs some times in a row, the first not
counted, and the ways take turns, so that noise of the machine meets all of them.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor, nn

from larr import artifacts
from larr.config import Config
from larr.data.batches import Batch, LogRows
from larr.rankers.graph import write_graph
from larr.rankers.predict import load_ranker
from larr.serve.features import Reader
from larr.serve.fold import Partial, agg_partial, encoded, merged, partial
from larr.serve.publish import write_ranker
from larr.serve.ranker import ServedRanker
from larr.serve.served import Graph
from larr.settings import load_config
from larr.text.encoder import compute, load_encoder

CANDIDATES, ROUNDS, RUNS, SLOW_RUNS = 300, 30, 12, 2
SENT = ("poi_id", "position", "distance_km", "delivery_minutes", "delivery_fee_yuan")
Inputs = dict[str, Tensor]
Way = Callable[[], Any]


class Computation(nn.Module):
    """A function of a module and named tensors, to be written as a graph."""

    def __init__(self, module: nn.Module, function: Callable[[Any, Inputs], Tensor]) -> None:
        super().__init__()
        self.module, self.function = module, function

    def forward(self, inputs: Inputs) -> Inputs:
        return {"output": self.function(self.module, inputs)}


def in_onnx(module: nn.Module, function: Callable[[Any, Inputs], Tensor], inputs: Inputs) -> Way:
    """The function in ONNX Runtime on one core, fed with these inputs, whose shapes are fixed."""
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "graph"
        arrays = {name: tensor.numpy() for name, tensor in inputs.items()}
        write_graph(Computation(module, function), arrays, path, of_request=list(inputs))
        graph = Graph(path)
    return lambda: graph(arrays)


def with_every_token(model: Any) -> Any:
    """The model with its scene encoder as the paper writes it, which computes every token.

    larr's own computes `<agg>` alone, also while it trains.
    """
    changed = copy.deepcopy(model)
    # a pooling that it does not know keeps it from the short way
    changed.scene.scene = changed.scene.scene.model_copy(update={"pooling": "every"})
    return changed


def probabilities(model: Any, inputs: Inputs) -> Tensor:
    """The complete model."""
    whole = [one.long() if one.dtype == torch.int32 else one for one in inputs.values()]
    return model(Batch(*whole)).sigmoid()


def folded_encoder(scene: Any, inputs: Inputs) -> Tensor:
    """The scene encoder from the softmaxes over the request's and over the places' texts."""
    tensors = list(inputs.values())
    return encoded(scene, merged(Partial(*tensors[:3]), Partial(*tensors[3:])))


def in_the_loop(config: Config, reader: Reader, batch: Batch) -> Way:
    """The text embedding model reading each distinct text of the request and its candidates."""
    encoder, texts = load_encoder(artifacts.folder(config, "contrast")), set()
    for slot, keyword in enumerate(reader.features.scene_keywords):
        numbers = batch.texts[:, slot].unique().tolist()
        texts |= {(keyword, reader.texts.text(number)) for number in numbers if number >= 0}
    return lambda: compute(encoder, [[text] for text in texts], config.embed.batch_tokens)


def measured(ways: dict[str, Way], slow: dict[str, Way]) -> dict[str, list[float]]:
    """The ms of each way's runs, without the first tenth."""
    times: dict[str, list[float]] = {name: [] for name in [*ways, *slow]}
    for _ in range(ROUNDS):
        for name, run in {**ways, **slow}.items():
            run()
            for _ in range(SLOW_RUNS if name in slow else RUNS):
                started = time.perf_counter()
                run()
                times[name].append(1000 * (time.perf_counter() - started))
    return {name: runs[len(runs) // 10 :] for name, runs in times.items()}


def main() -> None:
    """Prints the percentiles of each way, and their ratios."""
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", type=Path)
    parser.add_argument("--model", default="larr")
    parser.add_argument("--set", action="append", dest="overrides", default=[])
    options = parser.parse_args()
    config = load_config(options.config, options.overrides)
    data = artifacts.folder(config, "prepare")
    model: Any = load_ranker(config, options.model)
    reader = Reader(config, data)
    scratch = tempfile.TemporaryDirectory()
    batch = next(LogRows(data / "test").in_order(CANDIDATES))
    members, folder = {options.model: (model, 1.0)}, Path(scratch.name) / "ranker"
    write_ranker(members, reader, batch.select(torch.arange(2)), folder)
    ranker = ServedRanker(folder, reader)
    folded: Any = ranker.members[0].served
    log = pl.read_parquet(sorted((data / "raw" / "impressions").glob("*.parquet"))[-1])
    scene = log.drop(*SENT, "request_id", "click", "order").row(0, named=True)
    columns = log.head(CANDIDATES).select(SENT).to_dict(as_series=False)

    request = reader.request(scene)
    candidates = reader.candidates(request, columns)
    figures = np.zeros((CANDIDATES, sum(model.figures.values())), np.float32)
    rows = folded.look_up(request) | folded.place_table.take(candidates.places)
    texts = [torch.from_numpy(rows[f"request_{name}"])[None] for name in ("logits", "values")]
    known = merged(agg_partial(model.scene), partial(*texts))
    parts = {f"known_{name}": tensor.detach() for name, tensor in known._asdict().items()}
    parts |= {name: torch.from_numpy(rows[f"place_{name}"]) for name in Partial._fields}
    vectors = torch.randn(CANDIDATES, batch.texts.shape[1], model.vectors.shape[1])
    of_texts, every = {"vectors": vectors, "missing": batch.texts < 0}, with_every_token(model)

    def scene_encoder(module: Any, inputs: Inputs) -> Tensor:
        return module(inputs["vectors"], inputs["missing"])

    ways = {
        "encoder, complete": in_onnx(every.scene, scene_encoder, of_texts),
        "encoder, <agg> alone": in_onnx(model.scene, scene_encoder, of_texts),
        "encoder, folded": in_onnx(model.scene, folded_encoder, parts),
        "scoring, complete": in_onnx(every, probabilities, batch._asdict()),
        "scoring, <agg> alone": in_onnx(model, probabilities, batch._asdict()),
        "scoring, folded": lambda: folded.logits(request, candidates, figures),
        "reading the request": lambda: reader.request(scene),
        "reading the candidates": lambda: reader.candidates(request, columns),
        "all: columns in, probabilities out": lambda: ranker.score(scene, columns),
    }
    slow = {"the LM reads the texts at request time": in_the_loop(config, reader, batch)}
    times = measured(ways, slow)
    middle = {name: float(np.median(runs)) for name, runs in times.items()}
    for name, runs in times.items():
        print(f"{name:40} p50 {middle[name]:7.3f} ms, p99 {np.quantile(runs, 0.99):7.3f} ms")
    for kind, way in product(("encoder", "scoring"), ("complete", "<agg> alone")):
        ratio = middle[f"{kind}, {way}"] / middle[f"{kind}, folded"]
        print(f"{kind}: folded is {ratio:.1f} times faster than {way}")
    ratio = middle[next(iter(slow))] / middle["all: columns in, probabilities out"]
    print(f"all: {ratio:.0f} times faster than with the LM in the loop")


if __name__ == "__main__":
    main()
