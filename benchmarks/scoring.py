"""Scoring 300 candidates on one core: folded against the whole model, in one run, as ratios.

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

from larr import artifacts
from larr.config import Config
from larr.data import batches
from larr.data.batches import Batch
from larr.rankers.predict import load_ranker
from larr.serve import graph
from larr.serve.features import Reader
from larr.serve.fold import Finish, Partial, merged, partial
from larr.serve.scorer import GRAPH, Scorer
from larr.serve.scoring import PlaceRows
from larr.settings import load_config
from larr.text.encoder import load_encoder
from larr.text.vectors import compute

CANDIDATES, ROUNDS, RUNS, SLOW_RUNS = 300, 30, 12, 2
SENT = ("poi_id", "position", "distance_km", "delivery_minutes", "delivery_fee_yuan")


class Whole(torch.nn.Module):
    """The unfolded model behind plain tensors, for export."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, *arrays: torch.Tensor) -> torch.Tensor:
        wide = [one.long() if one.dtype == torch.int32 else one for one in arrays]
        return self.model(Batch(*wide)).logits.sigmoid()


class Encoder(torch.nn.Module):
    """The whole scene encoder."""

    def __init__(self, scene: Any) -> None:
        super().__init__()
        self.scene = scene

    def forward(self, *given: torch.Tensor) -> torch.Tensor:
        return self.scene(*given)


def with_every_token(model: Any) -> Any:
    """The model with its scene encoder as it is written in the paper, which computes every token.

    larr's own computes `<agg>` alone, also while it trains.
    """
    made = copy.deepcopy(model)

    def pool(tokens_BRD: torch.Tensor) -> torch.Tensor:
        agg_B1D = made.scene.agg.expand(tokens_BRD.shape[0], 1, -1)
        return made.scene.first(torch.cat([agg_B1D, tokens_BRD], dim=1))[:, 0]

    made.scene.pool = pool
    return made


class Folded(torch.nn.Module):
    """The scene encoder with its softmax over the request's and the place's texts merged."""

    def __init__(self, finish: Finish) -> None:
        super().__init__()
        self.finish = finish

    def forward(self, *parts: torch.Tensor) -> torch.Tensor:
        return self.finish(merged(Partial(*parts[:3]), Partial(*parts[3:])))


def session(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> Callable[[], Any]:
    """The module in ONNX Runtime on one core, fed with these inputs, whose rows are fixed."""
    given = {f"input_{number}": one for number, one in enumerate(inputs)}
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "graph"
        graph.write(module, given, [], "output", path)
        made = graph.Graph(path)
    return lambda: made(given)


def in_the_loop(config: Config, scorer: Scorer, batch: Batch) -> Callable[[], Any]:
    """The text embedding model reading each distinct text of the request and its candidates."""
    encoder = load_encoder(artifacts.folder(config, "contrast"))
    keywords, found = scorer.reader.features.scene_keywords, set()
    for slot, keyword in enumerate(keywords):
        numbers = batch.texts[:, slot].unique().tolist()
        found |= {(keyword, scorer.reader.text(number)) for number in numbers if number >= 0}
    texts = [[one] for one in found]
    return lambda: compute(encoder, texts, config.embed.batch_tokens)


def main() -> None:
    """Prints the percentiles of each way, and their ratios."""
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", type=Path)
    parser.add_argument("--model", default="larr")
    parser.add_argument("--set", action="append", dest="overrides", default=[])
    given = parser.parse_args()
    config = load_config(given.config, given.overrides)
    data = artifacts.folder(config, "prepare")
    scorer = Scorer.load(config, given.model, Reader(config, data))
    model = load_ranker(config, given.model)
    scratch = tempfile.TemporaryDirectory()
    scorer.save(Path(scratch.name) / "folded")
    scorer.ranker.use(Path(scratch.name) / "folded" / GRAPH)
    log = pl.read_parquet(sorted((data / "raw" / "impressions").glob("*.parquet"))[-1])
    rows = log.head(CANDIDATES)
    scene = rows.drop(*SENT, "request_id", "click", "order").row(0, named=True)
    candidates = rows.select(SENT).to_dict(as_series=False)
    batch = next(batches.in_order(data / "test", CANDIDATES))
    vectors = torch.randn(CANDIDATES, batch.texts.shape[1], model.vectors.shape[1])

    request = scorer.reader.request(scene)
    told = scorer.reader.candidates(scene["user_id"], candidates)
    inputs = [torch.from_numpy(one) for one in request[:4]]
    asked = scorer.ranker.request(*inputs)
    places = PlaceRows(*scorer.places.take(torch.from_numpy(told.places)))
    chosen = [torch.from_numpy(told.categories), torch.from_numpy(told.numbers)]
    known = merged(scorer.ranker.scoring.agg, partial(asked.logits[None], asked.values[None]))
    parts = (*known, places.largest, places.weight, places.value)

    def scoring() -> None:
        one = scorer.ranker.request(*inputs)
        rows = PlaceRows(*scorer.places.take(torch.from_numpy(told.places)))
        scorer.ranker.score(one, rows, *chosen)

    every, missing = with_every_token(model), batch.texts < 0
    ways = {
        "encoder, whole, ONNX Runtime": session(Encoder(every.scene), (vectors, missing)),
        "encoder, <agg> alone, ONNX Runtime": session(Encoder(model.scene), (vectors, missing)),
        "encoder, folded": session(Folded(scorer.ranker.scoring.finish), parts),
        "scoring, whole, ONNX Runtime": session(Whole(every), tuple(batch)),
        "scoring, <agg> alone, ONNX Runtime": session(Whole(model), tuple(batch)),
        "scoring, folded": scoring,
        "reading the request": lambda: scorer.reader.request(scene),
        "reading the candidates": lambda: scorer.reader.candidates(scene["user_id"], candidates),
        "all: columns in, probabilities out": lambda: scorer.score(scene, candidates),
    }
    slow = {"the LM reads the texts at request time": in_the_loop(config, scorer, batch)}
    taken: dict[str, list[float]] = {name: [] for name in [*ways, *slow]}
    ways |= slow
    for _ in range(ROUNDS):
        for name, run in ways.items():
            run()
            for _ in range(SLOW_RUNS if name in slow else RUNS):
                started = time.perf_counter()
                run()
                taken[name].append(1000 * (time.perf_counter() - started))
    kept = {name: times[len(times) // 10 :] for name, times in taken.items()}
    middle = {name: float(np.median(times)) for name, times in kept.items()}
    for name, times in kept.items():
        print(f"{name:40} p50 {middle[name]:7.3f} ms, p99 {np.quantile(times, 0.99):7.3f} ms")
    for kind, way in product(("encoder", "scoring"), ("whole", "<agg> alone")):
        ratio = middle[f"{kind}, {way}, ONNX Runtime"] / middle[f"{kind}, folded"]
        print(f"{kind}: folded is {ratio:.1f} times faster than {way}")
    ratio = middle[next(iter(slow))] / middle["all: columns in, probabilities out"]
    print(f"all: {ratio:.0f} times faster than with the LM in the loop")


if __name__ == "__main__":
    main()
