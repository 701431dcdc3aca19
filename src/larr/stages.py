"""The stages from tables to a report, declared once: verb, folder and module have one name.

    prepare -> pretrain -> contrast -> embed -> choose -> align -> evaluate
                        -> distill ->        -> tune

`larr.cli` has a verb for each entry, `larr.artifacts` a folder, `larr.run` calls its function.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from larr.config import Config
from larr.config.rankers import BEST


@dataclass(frozen=True)
class Stage:
    """What a stage does, what it reads, what decides about its files."""

    help: str
    """What `larr VERB --help` shows."""
    function: str
    """`module:name` of its function of the configuration; imported when called."""
    inputs: tuple[str, ...]
    """The stages whose folders it reads."""
    settings: tuple[str, ...]
    """Dotted paths of the settings that its files depend on."""
    files: Callable[[Config], Sequence[Path | str | None]] = lambda _: ()
    """As in `larr.artifacts.Artifact`, and so is `in_parts`."""
    in_parts: bool = False
    is_needed: Callable[[Config], bool] = lambda _: True
    """Whether a run with this configuration has the stage."""


def _reads(config: Config, source: str) -> bool:
    """Whether a setting lets a ranker of this run read a source of text vectors."""
    names = {*config.align.models}
    if BEST in names:
        names.update(config.choose.kinds)
    read = {config.align.variant(name).vectors for name in names}
    read.update(figure for name in names for figure in config.align.of(name).figures)
    return source in read or (BEST in names and source in config.choose.sources)


STAGES = {
    "prepare": Stage(
        "Tables -> prepare/: checked, split by time, with statistics as of their time.",
        "larr.data.prepare:prepare",
        inputs=(),
        settings=("seed", "dataset", "keywords", "buckets", "profiles", "statistics", "features"),
        files=lambda config: config.sources,
    ),
    "pretrain": Stage(
        "Stage 1 -> pretrain/: continual pretraining of the LM on place descriptions (Eq. 1-7).",
        "larr.text.pretrain:pretrain",
        inputs=("prepare",),
        settings=("seed", "backbone", "pretrain"),
        files=lambda config: (config.backbone.model, config.pretrain.general_text),
    ),
    "contrast": Stage(
        "Stage 2 -> contrast/: the LM becomes a text embedding model (Eq. 8-21).",
        "larr.text.contrast:contrast",
        inputs=("prepare", "pretrain"),
        settings=("seed", "backbone", "contrast", "embed"),
    ),
    "distill": Stage(
        "-> distill/: a smaller text embedding model with nearly the vectors of stage 2's.",
        "larr.text.distill:distill",
        inputs=("prepare", "contrast"),
        settings=("seed", "distill"),
        is_needed=lambda config: _reads(config, "distilled"),
    ),
    "embed": Stage(
        "-> embed/: every distinct keyword text once (Eq. 22).",
        "larr.run:embed",
        inputs=("prepare", "contrast", "distill"),
        settings=(
            *("seed", "backbone", "embed", "encoders", "sentence_encoder"),
            *("align.models", "align.variants", "align.tuned", "align.figures"),
            *("choose.kinds", "choose.sources"),
        ),
        files=lambda config: (config.sentence_encoder,),
        in_parts=True,
    ),
    "tune": Stage(
        "-> tune/: a search for stage 3's settings, equally long for every ranker.\n\n"
        "Each trial is judged on training days that are held back. Put the "
        "`tuned.toml` that it writes into your configuration.",
        "larr.rankers.tune:tune",
        inputs=("prepare", "embed"),
        settings=("seed", "align", "tune"),
        in_parts=True,
    ),
    "choose": Stage(
        "-> choose/: the members of `best`, by training days that are held back.",
        "larr.rankers.choose:choose",
        inputs=("prepare", "embed"),
        settings=("seed", "align", "choose"),
        in_parts=True,
        is_needed=lambda config: BEST in config.align.models,
    ),
    "align": Stage(
        "Stage 3 -> align/: scene encoder and PLE, aligned; and the baselines (Eq. 23-26).",
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
    ),
}
RUN = tuple(verb for verb in STAGES if verb != "tune")
"""The verbs of `larr run`, in order; the user copies what `tune` found into the configuration."""
MODELS = {"encoder": "contrast", "distilled": "distill"}
"""Sources of text vectors that the model of a stage computes -> the stage."""
COST_ONLY = {"dataset": {"chunk_rows"}, "embed": {"batch_tokens"}}
"""Settings that change a stage's time and memory, but not its files."""


def inputs_of(config: Config, verb: str) -> list[str]:
    """Returns the stages whose folders a stage reads in a run with this configuration."""
    return [name for name in STAGES[verb].inputs if STAGES[name].is_needed(config)]
