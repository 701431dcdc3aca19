"""Stage 3: trains the rankers; LARR also aligns scene and collaborative vectors."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from larr import artifacts, machine, rankers
from larr.artifacts import Artifact
from larr.config import ClusterConfig, Config
from larr.config.rankers import BEST, RankerConfig
from larr.data.batches import LogRows
from larr.data.features import read_features
from larr.group import Group, process_group
from larr.rankers import best
from larr.rankers.neural import NeuralRanker
from larr.rankers.ranker import LossCurve, Ranker
from larr.text.figures import FIGURES
from larr.workers import run_parallel

MIN_SAMPLES = 500_000
"""Fewer samples are trained by one process, as another takes some seconds to start."""


def align(config: Config) -> None:
    """Trains each of `config.align.models` that is not up to date, and writes it to `align/NAME`.

    Paper: section 3.3, Eq. (22)-(26).
    """
    for name in (*config.align.models, *config.align.tuned):
        if name != BEST:  # report an unknown name before the first training
            rankers.find(config, name)
    with artifacts.building(config, "align") as work:
        models, config = best.names_to_train(config), best.with_members(config)
        # models that read texts train longest: starting them first balances the workers
        names = sorted(models, key=lambda name: not rankers.vector_sources(config, name))
        renewed = renew(config, {name: ranker_artifact(config, name) for name in names}, _train)
        for name in models:
            trained = artifacts.read_json(work.folder / name / "train.json")
            if name in renewed:
                work.measured(trained["samples"], "samples")
            work.figures[name] = {key: trained[key] for key in ("seconds", "samples_per_second")}


def ranker_artifact(config: Config, name: str, settings: RankerConfig | None = None) -> Artifact:
    """Returns the artifact of a ranker; `settings` defaults to the configured ones."""
    folder = artifacts.folder(config, "align") / name
    inputs: dict[str, str | None] = {"prepare/": artifacts.key(artifacts.folder(config, "prepare"))}
    settings = settings or config.align.of(name)
    read = [f"{source}/{FIGURES}" for source in settings.figures]
    read += rankers.text_vectors(config, name)
    for part in read:
        inputs[f"embed/{part}/"] = artifacts.key(artifacts.folder(config, "embed") / part)
    identity = {
        "seed": config.seed,
        "architecture": rankers.find(config, name).__name__,
        "align": settings.model_dump(mode="json"),
    }
    return Artifact(folder, identity, inputs)


def renew(
    config: Config,
    parts: Mapping[str, Artifact],
    work: Callable[..., None],
    *arguments: Any,
    resume: bool = False,
) -> list[str]:
    """Builds the artifacts that are not up to date, several at a time, and returns their names.

    Calls `work(config, name, folder, *arguments)` for each of them.
    """
    stale = [name for name, part in parts.items() if not part.is_current()]
    for name in stale:
        parts[name].start(resume=resume)
    jobs = {name: (config, name, parts[name].folder, *arguments) for name in stale}
    cluster = ClusterConfig() if config.cluster.divide_rankers else config.cluster
    run_parallel(work, jobs, cluster, lambda name: parts[name].finish())
    return stale


def train(
    config: Config, name: str, settings: RankerConfig, log: LogRows
) -> tuple[Ranker, LossCurve]:
    """Returns a ranker trained on a log with these settings, and its losses."""
    size = _processes(config, name, settings, len(log))
    with process_group(size, _fit_in_worker, config, name, settings, log) as group:
        return _fit(config, name, settings, log, group)


def _processes(config: Config, name: str, settings: RankerConfig, rows: int) -> int:
    """Returns the number of processes that train a ranker together; on a GPU there is one."""
    samples = min(rows, settings.rows or rows) * settings.epochs
    divisible = issubclass(rankers.find(config, name), NeuralRanker) and samples >= MIN_SAMPLES
    divides = config.cluster.divide_rankers and machine.device() != "cuda"
    return config.cluster.workers if divides and divisible else 1


def _fit_in_worker(*arguments: Any) -> None:
    """Trains a ranker in another process of the group."""
    _fit(*arguments)


def _fit(
    config: Config, name: str, settings: RankerConfig, log: LogRows, group: Group
) -> tuple[Ranker, LossCurve]:
    """Trains a ranker in one process of a group."""
    torch.manual_seed(config.seed)  # for dropout and for draws in constructors
    ranker = rankers.build(config, name, settings, group)
    if group.rank:  # each process drops other units
        torch.manual_seed(config.seed + group.rank)
    log = log.with_figures(ranker.figures)
    rows = log.latest(settings.rows) if settings.rows else log
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")  # PLE: 44,400 instead of 27,200 samples/s per core
    try:
        return ranker, ranker.fit(rows, config.seed)
    finally:  # scores must not depend on whether a training preceded them in the same process
        torch.set_float32_matmul_precision(precision)


def _train(config: Config, name: str, folder: Path) -> None:
    """Trains one ranker and writes its folder."""
    settings, started = config.align.of(name), time.perf_counter()
    data = artifacts.folder(config, "prepare")
    ranker, curve = train(config, name, settings, LogRows(data / "train"))
    seconds = time.perf_counter() - started
    ranker.save(folder / "model.safetensors")
    parameters = ranker.parameters() if isinstance(ranker, nn.Module) else ()
    description = {
        "name": name,
        "architecture": type(ranker).__name__,
        "vectors": rankers.text_vectors(config, name),
        "parameters": sum(parameter.numel() for parameter in parameters),
        "features": read_features(data).model_dump(mode="json"),
        "settings": settings.model_dump(mode="json"),
    }
    artifacts.write_json(folder / "model.json", description)
    samples, rate = curve[-1]["samples"], round(curve[-1]["samples"] / seconds, 1)
    figures = {"samples": samples, "seconds": round(seconds, 3), "samples_per_second": rate}
    artifacts.write_json(folder / "train.json", figures | {"curve": curve})
