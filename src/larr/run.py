"""Runs one stage, or all stages up to the report."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from rich.text import Text

from larr import artifacts, machine
from larr.config import Config
from larr.errors import StoppedError
from larr.progress import console, rounded
from larr.stages import RUN, STAGES, figure_sources, stage_inputs, trained_rankers


def run_stage(config: Config, verb: str, *, force: bool = False) -> None:
    """Runs a stage if it is not up to date, and prints its time and memory."""
    target = artifacts.folder(config, verb)
    if not force and artifacts.stage(config, verb).is_current():
        kept = config.keep_trained and STAGES[verb].may_change
        state = "kept" if kept else "up to date"
        console.print(f"{verb}: {target} is {state}", style="dim")
        return
    if verb != "prepare" and artifacts.manifest(artifacts.folder(config, "prepare")):
        from larr.data.columns import check_later_stages  # noqa: PLC0415

        check_later_stages(config)
    artifacts.require(config, *stage_inputs(config, verb))
    if "backbone" in STAGES[verb].settings:
        _require_memory(config, verb)
    if force:
        artifacts.forget(config, verb)
    console.print(Text(verb, style="bold"), f"-> {target}")
    if verb != "prepare":  # whose few large arrays need the memory of earlier ones
        machine.keep_freed_memory()
    module, name = STAGES[verb].function.split(":")
    try:
        getattr(import_module(module), name)(config)
    except KeyboardInterrupt:  # typer would print nothing
        raise StoppedError("stopped; run the same command again to continue") from None
    cost = (artifacts.manifest(artifacts.folder(config, verb)) or {}).get("measured", {})
    console.print(
        f"  {verb} took {cost['seconds']:.1f} s, {rounded(cost['rate'], cost['unit'])}, "
        f"peak memory {cost['peak_memory_mb']:,.0f} MB"
    )


def run(config: Config, *, force: bool = False) -> None:
    """Runs all stages that are not up to date, up to the report, also for `config.encoders`."""
    wanted = vector_sources(config)  # raises for unknown names before the first stage
    for verb in (verb for verb in RUN if STAGES[verb].is_needed(config)):
        if verb == "pretrain" and not artifacts.stage(config, "contrast").is_current():
            _require_memory(config, "contrast")  # not only after stage 1
        if verb == "embed":
            train_encoders(config, wanted, force=force)
        run_stage(config, verb, force=force)


def run_seeds(configs: list[Config], output: Path, *, force: bool = False) -> dict[str, Any]:
    """Runs several seeds; returns the content of their pooled report, written to `output`."""
    from larr.evaluation.evaluate import pool  # noqa: PLC0415

    for config in configs:
        console.rule(f"seed {config.seed}")
        run(config, force=force)
    return pool(configs, output)


def _require_memory(config: Config, verb: str) -> None:
    """Raises UnavailableError if a stage that reads the language model cannot fit into memory."""
    from larr.text.memory import require  # noqa: PLC0415

    require(config, verb)


def vector_sources(config: Config) -> list[str]:
    """Returns the sources of text vectors that the rankers read, in order of computation."""
    from larr import rankers  # noqa: PLC0415
    from larr.text.embed import sources  # noqa: PLC0415

    read = [rankers.vector_sources(config, name) for name in trained_rankers(config)]
    return sources(config, figure_sources(config).union(*read))


def embed(config: Config) -> None:
    """Runs `larr.text.embed.embed` for the sources that the rankers read.

    It is in this module because `larr.text` must not import the rankers.
    """
    from larr.text import embed as stage  # noqa: PLC0415

    stage.embed(config, vector_sources(config), figure_sources(config))


def train_encoders(config: Config, wanted: list[str], *, force: bool = False) -> None:
    """Trains the encoders among `wanted` in `output/encoders/NAME`.

    Stages with the same settings as in the run itself are linked.
    """
    for name in wanted:
        if name in config.encoders:
            other = config.for_encoder(name)
            for verb in ("prepare", "pretrain", "contrast"):
                if not artifacts.share(config, other, verb):
                    run_stage(other, verb, force=force)
