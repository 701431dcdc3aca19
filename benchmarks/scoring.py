"""Scoring 300 candidates on one core: the folded compared with the complete model, as ratios.

    .venv/bin/python benchmarks/scoring.py configs/city.toml [--model larr] [--set ...]

Requires a finished `larr run configs/city.toml`. Each method runs several times in a row, the first
not measured; the methods alternate, so that noise of the machine affects all of them.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import config_parser, logged_request, milliseconds
from torch import Tensor, nn

from larr import artifacts
from larr.config import Config
from larr.data.batches import Batch, LogRows
from larr.rankers.graph import write_graph
from larr.rankers.predict import load_ranker
from larr.serve.features import Reader
from larr.serve.fold import Partial, agg_partial, encoded, merged, partial
from larr.serve.forms import Graph
from larr.serve.publish import write_ranker
from larr.serve.ranker import ServedRanker
from larr.settings import load_config
from larr.text.encoder import compute, load_encoder

CANDIDATES, ROUNDS, RUNS, SLOW_RUNS = 300, 30, 12, 2
Inputs = dict[str, Tensor]
Method = Callable[[], Any]


class Computation(nn.Module):
    """A module whose graph computes a function of a module and named tensors."""

    def __init__(self, module: nn.Module, function: Callable[[Any, Inputs], Tensor]) -> None:
        super().__init__()
        self.module, self.function = module, function

    def forward(self, inputs: Inputs) -> Inputs:
        return {"output": self.function(self.module, inputs)}


def in_onnx(module: nn.Module, function: Callable[[Any, Inputs], Tensor], inputs: Inputs) -> Method:
    """Returns a call of the function in ONNX Runtime on one core, with these inputs."""
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "graph"
        arrays = {name: tensor.numpy() for name, tensor in inputs.items()}
        write_graph(Computation(module, function), arrays, path, of_request=list(inputs))
        graph = Graph(path)
    return lambda: graph(arrays)


def with_every_token(model: Any) -> Any:
    """Returns the model with a scene encoder that computes every token, as in the paper.

    larr's scene encoder computes only `<agg>`, also during training.
    """
    changed = copy.deepcopy(model)
    changed.scene.reads_agg_alone = False
    return changed


def probabilities(model: Any, inputs: Inputs) -> Tensor:
    """Returns the probabilities of the complete model."""
    tensors = [each.long() if each.dtype == torch.int32 else each for each in inputs.values()]
    return model(Batch(*tensors)).sigmoid()


def folded_encoder(scene: Any, inputs: Inputs) -> Tensor:
    """Returns the scene encoding merged from the softmaxes over texts of request and places."""
    tensors = list(inputs.values())
    return encoded(scene, merged(Partial(*tensors[:3]), Partial(*tensors[3:])))


def in_the_loop(config: Config, reader: Reader, batch: Batch) -> Method:
    """Returns a call that embeds each distinct text of the request and its candidates."""
    encoder, texts = load_encoder(artifacts.folder(config, "contrast")), set()
    for slot, keyword in enumerate(reader.features.scene_keywords):
        numbers = batch.texts[:, slot].unique().tolist()
        texts |= {(keyword, reader.texts.text(number)) for number in numbers if number >= 0}
    return lambda: compute(encoder, [[text] for text in texts], config.embed.batch_tokens)


def measured(methods: dict[str, Method], slow: dict[str, Method]) -> dict[str, list[float]]:
    """Returns the ms of each method's runs, without the first tenth."""
    times: dict[str, list[float]] = {name: [] for name in [*methods, *slow]}
    for _ in range(ROUNDS):
        for name, run in {**methods, **slow}.items():
            times[name] += milliseconds(run, SLOW_RUNS if name in slow else RUNS)
    return {name: runs[len(runs) // 10 :] for name, runs in times.items()}


def main() -> None:
    """Prints the latency percentiles of each method, and ratios."""
    torch.set_num_threads(1)
    parser = config_parser(__doc__)
    parser.add_argument("--model", default="larr")
    options = parser.parse_args()
    config = load_config(options.config, options.overrides)
    data = artifacts.folder(config, "prepare")
    members = load_ranker(config, options.model).members
    model: Any = members[options.model][0]
    reader = Reader(config, data)
    scratch = tempfile.TemporaryDirectory()
    batch = next(LogRows(data / "test").in_order(CANDIDATES))
    folder = Path(scratch.name) / "ranker"
    write_ranker(members, reader, batch.select(torch.arange(2)), folder)
    ranker = ServedRanker(folder, reader)
    folded: Any = ranker.members[0].served
    scene, columns = logged_request(data, CANDIDATES)
    request = reader.request(scene)
    candidates = reader.candidates(request, columns)
    figures = np.zeros((CANDIDATES, sum(model.figures.values())), np.float32)
    rows = folded.request_inputs(request) | folded.place_table.take(candidates.places)
    texts = [torch.from_numpy(rows[f"request_{name}"])[None] for name in ("logits", "values")]
    known = merged(agg_partial(model.scene), partial(*texts))
    parts = {f"known_{name}": tensor.detach() for name, tensor in known._asdict().items()}
    parts |= {name: torch.from_numpy(rows[f"place_{name}"]) for name in Partial._fields}
    vectors = torch.randn(CANDIDATES, *model.scene.slots.shape)
    of_texts, every = {"vectors": vectors, "missing": batch.texts < 0}, with_every_token(model)

    def scene_encoder(module: Any, inputs: Inputs) -> Tensor:
        return module(inputs["vectors"], inputs["missing"])

    methods = {
        "encoder, complete": in_onnx(every.scene, scene_encoder, of_texts),
        "encoder, <agg> alone": in_onnx(model.scene, scene_encoder, of_texts),
        "encoder, folded": in_onnx(model.scene, folded_encoder, parts),
        "scoring, complete": in_onnx(every, probabilities, batch._asdict()),
        "scoring, <agg> alone": in_onnx(model, probabilities, batch._asdict()),
        "scoring, folded": lambda: folded.logits(request, candidates, figures),
        "reading the request": lambda: reader.request(scene),
        "reading the candidates": lambda: reader.candidates(request, columns),
        "all: columns to probabilities": lambda: ranker.score(scene, columns),
    }
    slow = {"embedding the texts at request time": in_the_loop(config, reader, batch)}
    times = measured(methods, slow)
    median = {name: float(np.median(runs)) for name, runs in times.items()}
    for name, runs in times.items():
        print(f"{name:40} p50 {median[name]:7.3f} ms, p99 {np.quantile(runs, 0.99):7.3f} ms")
    for kind, method in product(("encoder", "scoring"), ("complete", "<agg> alone")):
        ratio = median[f"{kind}, {method}"] / median[f"{kind}, folded"]
        print(f"{kind}: folded is {ratio:.1f} times as fast as {method}")
    ratio = median[next(iter(slow))] / median["all: columns to probabilities"]
    print(f"all: {ratio:.0f} times as fast as with the LM at request time")


if __name__ == "__main__":
    main()
