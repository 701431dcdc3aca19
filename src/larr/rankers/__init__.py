"""The ranking models that stage 3 trains, by name."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
import torch
from torch import Tensor

from larr import artifacts
from larr.config import Config
from larr.config.rankers import CONTROLS, AlignConfig
from larr.data.features import Features, read_features
from larr.errors import ConfigError
from larr.rankers.dcn import Dcn
from larr.rankers.deepfm import DeepFm
from larr.rankers.din import Din
from larr.rankers.larr import Larr
from larr.rankers.layers import Inputs, Network, Ranker
from larr.rankers.p5 import P5
from larr.rankers.ple import Ple
from larr.rankers.trees import Trees
from larr.rankers.wide_deep import WideDeep


@dataclass(frozen=True)
class Entry:
    """An architecture, and the folder under `embed/` of the text vectors that it reads."""

    architecture: type[Ranker]
    vectors: str | None = None


MODELS = {
    "wide_deep": Entry(WideDeep),
    "deepfm": Entry(DeepFm),
    "dcn": Entry(Dcn),
    "din": Entry(Din),
    "lightgbm": Entry(Trees),
    "p5": Entry(P5),
    "ple": Entry(Ple),
    "larr": Entry(Larr, "encoder"),
}
RESERVED = (*MODELS, *CONTROLS, "ceiling")
"""Names that no variant may have; the ceiling stands beside the models in every table."""


def build(config: Config, name: str) -> Ranker:
    """Builds an untrained model for the data of this run, as the seed starts it."""
    entry = find(config, name)
    features = read_features(artifacts.folder(config, "prepare"))
    if not features.categories:
        raise ConfigError("features.categories: the rankers need at least one, got none")
    settings = config.align.of(name)
    known = [category.name for category in features.categories]
    if unknown := set(settings.hidden).difference(known):
        raise ConfigError(
            f"{name}: hidden names {', '.join(sorted(unknown))}; the categories are "
            f"{', '.join(known)}"
        )
    inputs = _inputs(config, settings, features)
    if entry.vectors and not features.scene_keywords:
        raise ConfigError(
            f"align.models: {name} reads scene texts and the data have none; declare keywords with "
            "`scene = true`, or leave it out"
        )
    if entry.vectors:
        path = artifacts.folder(config, "embed") / entry.vectors / "vectors.npy"
        mapped = torch.from_numpy(np.load(path, mmap_mode="c"))  # private: the file stays as it is
        texts = pl.read_parquet(artifacts.folder(config, "prepare") / "texts.parquet")
        centres_RD, scales_R1 = centres(mapped, texts["keyword"], features.scene_keywords)
        inputs = replace(inputs, vectors=mapped, centres=centres_RD, scales=scales_R1)
    with warnings.catch_warnings():  # torch warns of layers without inputs: a log without numbers
        warnings.filterwarnings("ignore", "Initializing zero-element tensors")
        model = entry.architecture(inputs)
    if isinstance(model, Network):
        model.start(config.seed)
    return model


def centres(
    vectors_VD: Tensor, keyword_V: pl.Series, keywords: tuple[str, ...]
) -> tuple[Tensor, Tensor]:
    """`Inputs.centres` and `Inputs.scales` of the stored vectors of these scene keywords."""
    means, scales = [], []
    for keyword in keywords:
        rows = torch.from_numpy((keyword_V == keyword).arg_true().to_numpy().astype(np.int64))
        chosen = vectors_VD.index_select(0, rows).double()
        mean = chosen.mean(dim=0) if len(chosen) else vectors_VD.new_zeros(vectors_VD.shape[1])
        spread = (chosen - mean).square().sum(dim=1).mean() if len(chosen) else torch.zeros(())
        means.append(mean.float())
        scales.append(spread.clamp(min=1e-6).rsqrt().float()[None])
    return torch.stack(means), torch.stack(scales)


def find(config: Config, name: str) -> Entry:
    """The entry of a name that a configuration gives: of `MODELS`, of `CONTROLS` or a variant."""
    variant = config.align.variant(name)
    if name in config.align.variants and (name in RESERVED or "_over_" in name):
        raise ConfigError(
            f"align.variants: {name!r} is taken; a name may not be {', '.join(RESERVED)} or have "
            "`_over_` in it"
        )
    if variant.of not in MODELS:
        where, known = f"align.variants.{name}.of", [*MODELS]
        if variant.of == name:
            where, known = "align.models", [*MODELS, *CONTROLS, *config.align.variants]
        raise ConfigError(f"{where}: no model {variant.of!r}; the models are {', '.join(known)}")
    entry = MODELS[variant.of]
    return replace(entry, vectors=variant.vectors) if variant.vectors else entry


def vectors_read(config: Config) -> set[str]:
    """Returns the sources of text vectors that the rankers of `align.models` read."""
    entries = [find(config, name) for name in config.align.models]
    return {entry.vectors for entry in entries if entry.vectors}


def _inputs(config: Config, settings: AlignConfig, features: Features) -> Inputs:
    slots = _poi_slots(config, features)
    keyword = config.features.recent_keyword
    if not (keyword and features.recent):
        return Inputs(features, settings, poi_slots=slots)
    texts = np.load(artifacts.folder(config, "prepare") / "recent_texts.npy")
    return Inputs(
        features,
        settings,
        poi_slots=slots,
        recent_texts=torch.from_numpy(texts),
        recent_slot=features.scene_keywords.index(keyword),
    )


def _poi_slots(config: Config, features: Features) -> tuple[int, ...]:
    places = {keyword.name for keyword in config.keywords if keyword.owner == "poi"}
    return tuple(slot for slot, name in enumerate(features.scene_keywords) if name in places)
