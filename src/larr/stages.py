"""The stages from tables to a report; verb, folder and module have the same name.

    prepare -> pretrain -> contrast -> embed -> choose -> align -> evaluate
                        -> distill ->        -> tune
                        -> instruct ->

`larr.cli` adds a command for each entry, `larr.artifacts` a folder; `larr.run` calls its function.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from larr.config import Config
from larr.config.rankers import BEST


@dataclass(frozen=True)
class Stage:
    """The function of a stage and its inputs."""

    help: str
    """The text of `larr VERB --help`."""
    function: str
    """`module:name` of a function of the configuration, imported when it is called."""
    inputs: tuple[str, ...]
    """The stages whose folders it reads."""
    settings: tuple[str, ...]
    """Dotted paths of the settings that its files depend on."""
    files: Callable[[Config], Sequence[Path | str | None]] = lambda _: ()
    """`files` and `in_parts` are those of `larr.artifacts.Artifact`."""
    in_parts: bool = False
    may_change: tuple[str, ...] = ()
    """Inputs, such as `prepare/`, and settings whose changes `config.keep_trained` ignores."""
    is_needed: Callable[[Config], bool] = lambda _: True
    """Whether a run with this configuration includes the stage."""


def trained_rankers(config: Config) -> set[str]:
    """Returns the rankers that a run trains, and the kinds that `choose` tries."""
    names = {*config.align.models}
    return names - {BEST} | {*config.choose.kinds} if BEST in names else names


def figure_sources(config: Config) -> set[str]:
    """Returns the sources of text figures that these rankers read, or that `choose` tries."""
    names = trained_rankers(config)
    figures = {source for name in names for source in config.align.of(name).figures}
    return figures.union(config.choose.sources if BEST in config.align.models else ())


UNTRAINED = {
    *("wide_deep", "deepfm", "dcn", "din", "lightgbm", "ple"),
    *("untuned", "sentence_encoder", "tfidf", "letters", "random"),
}
"""Kinds of rankers that read no text vectors, and sources of vectors that read no trained model."""


def _text_sources(config: Config) -> set[str]:
    """Returns the sources of text vectors and figures that rankers read, or that `choose` tries.

    A ranker that names no source is represented by its kind.
    """
    sources = figure_sources(config)
    for name in trained_rankers(config):
        variant = config.align.variant(name)
        sources.add(variant.vectors or variant.of)
        sources.update(config.align.of(name).scene.matching_sources)
    return sources


def _trains_language_model(config: Config) -> bool:
    return not _text_sources(config) <= UNTRAINED


def _distils(config: Config) -> bool:
    return "distilled" in _text_sources(config)


def is_instructed(config: Config) -> bool:
    """Returns whether a ranker reads the vectors or predictions of the LM of `larr instruct`."""
    return not _text_sources(config).isdisjoint({"instructed", "predictions"})


STAGES = {
    "prepare": Stage(
        "-> prepare/: checks and splits the tables, and computes statistics and arrays.",
        "larr.data.prepare:prepare",
        inputs=(),
        settings=("seed", "dataset", "keywords", "buckets", "profiles", "statistics", "features"),
        files=lambda config: config.sources,
    ),
    "pretrain": Stage(
        "-> pretrain/: stage 1, continual pretraining of the LM on place descriptions (Eq. 1-7).",
        "larr.text.pretrain:pretrain",
        inputs=("prepare",),
        settings=("seed", "backbone", "keywords", "pretrain"),
        may_change=("prepare/",),
        files=lambda config: (config.backbone.model, config.pretrain.general_text),
        is_needed=_trains_language_model,
    ),
    "contrast": Stage(
        "-> contrast/: stage 2, contrastive tuning of the LM as a text embedding model (Eq. 8-21).",
        "larr.text.contrast:contrast",
        inputs=("prepare", "pretrain"),
        settings=("seed", "backbone", "keywords", "contrast", "embed"),
        may_change=("prepare/",),
        is_needed=_trains_language_model,
    ),
    "distill": Stage(
        "-> distill/: a smaller text embedding model that imitates the one of stage 2.",
        "larr.text.distill:distill",
        inputs=("prepare", "contrast"),
        settings=("seed", "distill"),
        may_change=("prepare/",),
        is_needed=_distils,
    ),
    "instruct": Stage(
        "-> instruct/: the LM learns to predict a user's next order from knowledge about the user.",
        "larr.text.instruct:instruct",
        inputs=("prepare", "pretrain"),
        settings=(
            *("seed", "backbone.lora_rank", "backbone.max_length", "keywords"),
            *("contrast.held_out", "embed.dimension", "instruct"),
        ),
        may_change=("prepare/",),
        files=lambda config: (config.instruct.summariser,),
        is_needed=is_instructed,
    ),
    "embed": Stage(
        "-> embed/: the vectors of all distinct keyword texts (Eq. 22).",
        "larr.run:embed",
        inputs=("prepare", "contrast", "distill", "instruct"),
        settings=(
            *("seed", "backbone", "embed", "encoders", "sentence_encoder"),
            *("align.models", "align.variants", "align.tuned", "align.figures"),
            *("choose.kinds", "choose.sources"),
        ),
        files=lambda config: (config.sentence_encoder,),
        in_parts=True,
    ),
    "tune": Stage(
        "-> tune/: hyperparameter search for stage 3, with as many trials for every ranker.\n\n"
        "Trials are compared on held-back training days. Copy the resulting `tuned.toml` into your "
        "configuration.",
        "larr.rankers.tune:tune",
        inputs=("prepare", "embed"),
        settings=("seed", "align", "tune"),
        in_parts=True,
    ),
    "choose": Stage(
        "-> choose/: selects the members of `best` on held-back training days.",
        "larr.rankers.choose:choose",
        inputs=("prepare", "contrast", "embed"),
        settings=(
            *("seed", "align", "choose"),
            *("keywords", "statistics", "features", "encoders", "sentence_encoder"),
        ),
        in_parts=True,
        may_change=("prepare/", "embed/", "align.models"),
        is_needed=lambda config: BEST in config.align.models,
    ),
    "align": Stage(
        "-> align/: stage 3, trains the scene encoder with PLE, and the baselines (Eq. 23-26).",
        "larr.rankers.align:align",
        inputs=("prepare", "embed", "choose"),
        settings=("seed", "align"),
        in_parts=True,
    ),
    "evaluate": Stage(
        "-> evaluate/: metrics with paired intervals, as report.html, report.json and tables.",
        "larr.evaluation.evaluate:evaluate",
        inputs=("prepare", "embed", "align"),
        settings=("seed", "evaluate"),
        is_needed=lambda config: config.dataset.test_days > 0,
    ),
}
RUN = tuple(verb for verb in STAGES if verb != "tune")
"""The stages of `larr run`, in order; the user copies the result of `tune` to the configuration."""
MODELS = {"encoder": "contrast", "distilled": "distill"}
"""Source of text vectors -> the stage that trains its model."""
COST_ONLY = {"dataset": {"chunk_rows"}, "embed": {"batch_tokens"}}
"""Settings that change a stage's time and memory, but not its files."""


def stage_inputs(config: Config, verb: str) -> list[str]:
    """Returns the stages that a stage reads in a run with this configuration."""
    return [name for name in STAGES[verb].inputs if STAGES[name].is_needed(config)]
