"""The registry of rankers, and their construction for the data of a run."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from larr import artifacts
from larr.config import Config
from larr.config.rankers import BEST, CONTROLS, RankerConfig
from larr.data.features import read_features
from larr.errors import ConfigError
from larr.group import ALONE, Group
from larr.plugins import with_plugins
from larr.rankers.deep import Dcn, DeepFm, Din, WideDeep
from larr.rankers.larr import Larr
from larr.rankers.lightgbm import LightGbm
from larr.rankers.ple import Ple
from larr.rankers.ranker import Ranker, RankerInputs
from larr.text.figures import FIGURES, SETTINGS

RANKERS: dict[str, type[Ranker]] = {
    "wide_deep": WideDeep,
    "deepfm": DeepFm,
    "dcn": Dcn,
    "din": Din,
    "lightgbm": LightGbm,
    "ple": Ple,
    "larr": Larr,
}

VARIANCE_FLOOR = 1e-3
"""Share of the mean variance added in whitening, so that nearly empty directions stay small."""


def build(
    config: Config, name: str, settings: RankerConfig | None = None, group: Group = ALONE
) -> Ranker:
    """Returns an untrained ranker for the data of this run, initialised with its seed.

    `settings` defaults to the configuration's settings for this name; `group` are the processes
    that will train it together.
    """
    ranker_class, sources = find(config, name), text_vectors(config, name)
    settings = settings or config.align.of(name)
    data, embedded = (artifacts.folder(config, stage) for stage in ("prepare", "embed"))
    features = read_features(data)
    owners = {keyword.name: keyword.owner for keyword in config.keywords}
    slots = tuple(n for n, name in enumerate(features.scene_keywords) if owners[name] == "poi")
    folders = [embedded / source / FIGURES for source in settings.figures]
    figures = {path: len(artifacts.read_json(path / SETTINGS)["names"]) for path in folders}
    inputs: dict[str, Any] = {"poi_slots": slots, "figures": sum(figures.values()), "group": group}
    if (keyword := config.features.recent_keyword) and features.recent:
        inputs["recent_texts"] = torch.from_numpy(np.load(data / "recent_texts.npy"))
        inputs["recent_slot"] = features.scene_keywords.index(keyword)
    if sources:
        # copy-on-write mapping: unread rows cost no memory, and the file cannot change
        arrays = [np.load(embedded / each / "vectors.npy", mmap_mode="c") for each in sources]
        own_VD, *others = map(torch.from_numpy, arrays)
        inputs["vectors"] = torch.cat([own_VD, *others], dim=1) if others else own_VD
        inputs["sources"] = len(sources)
        keyword_V = pl.read_parquet(data / "texts.parquet")["keyword"]
        numbers = {name: slot for slot, name in enumerate(features.scene_keywords)}
        slot_V = keyword_V.replace_strict(numbers, default=-1, return_dtype=pl.Int64)
        inputs["slots"] = torch.from_numpy(slot_V.to_numpy(writable=True))
        if settings.scene.whitened:
            inputs["axes"] = whitening(own_VD, inputs["slots"], len(numbers))
            own_VD = own_VD @ inputs["axes"]
        each = [centres(read_VD, inputs["slots"], len(numbers)) for read_VD in (own_VD, *others)]
        centres_RD, scales_RD = (torch.cat(side, dim=1) for side in zip(*each, strict=True))
        inputs["centres"], inputs["scales"] = centres_RD, scales_RD / len(sources) ** 0.5
    with warnings.catch_warnings():  # a log without numbers gives layers without inputs
        warnings.filterwarnings("ignore", "Initializing zero-element tensors")
        ranker = ranker_class(RankerInputs(name, features, settings, **inputs))
    ranker.figures = figures
    ranker.initialise(config.seed)
    return ranker


def find(config: Config, name: str) -> type[Ranker]:
    """Returns the class of a ranker, control or variant; raises ConfigError for unknown names."""
    variant, classes = config.align.variant(name), with_plugins(RANKERS, "rankers")
    reserved = [*classes, *CONTROLS, "ceiling"]  # reports list the ceiling beside the rankers
    if name in config.align.variants and (name in reserved or "_over_" in name):
        raise ConfigError(
            f"align.variants: {name!r} is reserved; a name must not be {', '.join(reserved)} or "
            "contain `_over_`"
        )
    if variant.of not in classes:
        where, known = f"align.variants.{name}.of", [*classes]
        if variant.of == name:
            where, known = "align.models", [*classes, *CONTROLS, *config.align.variants, BEST]
        raise ConfigError(f"{where}: unknown model {variant.of!r}; expected {', '.join(known)}")
    ranker_class = classes[variant.of]
    if variant.vectors and not ranker_class.text_vectors:
        raise ConfigError(f"align.variants.{name}.vectors: {variant.of} reads no text vectors")
    return ranker_class


def text_vectors(config: Config, name: str) -> list[str]:
    """Returns the sources (folders under `embed/`) of a ranker's text vectors, its own first.

    Raises ConfigError if it needs vectors and there are no scene texts.
    """
    source = config.align.variant(name).vectors or find(config, name).text_vectors
    if source and not config.scene_keywords:
        raise ConfigError(
            f"align.models: {name} reads scene texts, but there are none; declare keywords with "
            "`scene = true`, or remove the model"
        )
    if not source:
        return []
    scene = config.align.of(name).scene
    return list(dict.fromkeys([source, *(scene.matching_sources if scene.matching else [])]))


def vector_sources(config: Config, name: str) -> list[str]:
    """Returns the sources of a ranker's text vectors and text figures."""
    return list(dict.fromkeys([*text_vectors(config, name), *config.align.of(name).figures]))


def centres(vectors_VD: Tensor, slot_V: Tensor, keywords: int) -> tuple[Tensor, Tensor]:
    """Returns `RankerInputs.centres` and `.scales` of one source, [R, D].

    `slot_V` is the scene keyword of each text.
    """
    means, scales = [], []
    for slot in range(keywords):
        chosen = vectors_VD[slot_V == slot].double()
        mean = chosen.mean(dim=0) if len(chosen) else vectors_VD.new_zeros(vectors_VD.shape[1])
        spread = (chosen - mean).square().sum(dim=1).mean() if len(chosen) else torch.zeros(())
        means.append(mean.float())
        scales.append(spread.clamp(min=1e-6).rsqrt().float().expand(len(mean)))
    return torch.stack(means), torch.stack(scales)


def whitening(vectors_VD: Tensor, slot_V: Tensor, keywords: int) -> Tensor:
    """Returns `RankerInputs.axes`, which equalise the variance in all directions (ZCA whitening).

    Averages the covariances of the keywords, each centred and scaled to length 1, so that a keyword
    with many texts does not dominate. All keywords share the axes, so that products of vectors of
    two keywords keep their meaning.
    """
    centres_RD, scales_RD = centres(vectors_VD, slot_V, keywords)
    covariance_DD = torch.zeros(2 * [vectors_VD.shape[1]], dtype=torch.float64)
    for slot, (centre_D, scale_D) in enumerate(zip(centres_RD, scales_RD, strict=True)):
        centred_ND = ((vectors_VD[slot_V == slot] - centre_D) * scale_D).double()
        covariance_DD += centred_ND.T @ centred_ND / max(len(centred_ND), 1)
    variance_D, axes_DD = torch.linalg.eigh(covariance_DD)
    variance_D = (variance_D + VARIANCE_FLOOR * variance_D.mean()).clamp(min=1e-9)
    whitening_DD: Tensor = axes_DD * variance_D.rsqrt() @ axes_DD.T
    return whitening_DD.float()
