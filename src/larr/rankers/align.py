"""Stage 3: trains the rankers, LARR with the alignment of scene and collaborative vectors."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from larr import artifacts, rankers
from larr.config import Config
from larr.data.features import read_features
from larr.rankers.layers import Ranker
from larr.rankers.training import fit, ranker_artifact
from larr.workers import side_by_side


def align(config: Config) -> None:
    """Trains each of `config.align.models` into `align/NAME`, those already trained excepted.

    Paper: section 3.3, Eq. (22)-(26).
    """
    for name in (*config.align.models, *config.align.tuned):
        rankers.find(config, name)
    with artifacts.making(config, "align") as work:
        jobs, parts = {}, {name: ranker_artifact(config, name) for name in _longest_first(config)}
        for name, part in parts.items():
            if not part.is_current():
                part.start(resume=False)
                jobs[name] = (config, name, part.folder)
        side_by_side(_make, jobs, config.align.workers, lambda name: parts[name].finish())
        for name in config.align.models:
            trained = artifacts.read_json(work.folder / name / "train.json")
            if name in jobs:
                work.measured(trained["samples"], "samples")
            work.figures[name] = {key: trained[key] for key in ("seconds", "samples_per_second")}


def _longest_first(config: Config) -> list[str]:
    """The models with those first that read texts, so that no worker waits long for the last."""
    return sorted(config.align.models, key=lambda name: rankers.find(config, name).vectors is None)


def _make(config: Config, name: str, target: Path) -> None:
    """Trains one model and writes its folder."""
    config = config.model_copy(update={"align": config.align.of(name)})
    started = time.perf_counter()
    model, curve = fit(config, name, artifacts.folder(config, "prepare") / "train")
    seconds = time.perf_counter() - started
    weights = {key: tensor.contiguous().cpu() for key, tensor in model.state_dict().items()}
    save_file(weights, target / "model.safetensors")
    artifacts.write_json(target / "model.json", _description(config, name, model))
    samples = curve[-1]["samples"]
    figures = {
        "samples": samples,
        "seconds": round(seconds, 3),
        "samples_per_second": round(samples / seconds, 1),
        "curve": curve,
    }
    artifacts.write_json(target / "train.json", figures)


def _description(config: Config, name: str, model: Ranker) -> dict[str, Any]:
    features = read_features(artifacts.folder(config, "prepare"))
    return {
        "name": name,
        "architecture": type(model).__name__,
        "vectors": rankers.find(config, name).vectors,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "features": features.model_dump(mode="json"),
        "settings": config.align.model_dump(mode="json"),
    }
