"""The stages by their verbs: one of them, or all that lead to a report."""

from __future__ import annotations

from collections.abc import Callable

from larr import artifacts
from larr.config import Config
from larr.errors import StoppedError
from larr.progress import console


def _prepare(config: Config) -> None:
    from larr.data.prepare import prepare  # noqa: PLC0415

    prepare(config)


def _pretrain(config: Config) -> None:
    from larr.text.pretrain import pretrain  # noqa: PLC0415

    pretrain(config)


def _contrast(config: Config) -> None:
    from larr.text.contrast import contrast  # noqa: PLC0415

    contrast(config)


def _embed(config: Config) -> None:
    from larr.text.embed import embed  # noqa: PLC0415

    embed(config, vector_sources(config))


def _tune(config: Config) -> None:
    from larr.rankers.tune import tune  # noqa: PLC0415

    tune(config)


def _align(config: Config) -> None:
    from larr.rankers.align import align  # noqa: PLC0415

    align(config)


def _evaluate(config: Config) -> None:
    from larr.evaluation.evaluate import evaluate  # noqa: PLC0415

    evaluate(config)


VERBS: dict[str, Callable[[Config], None]] = {
    "prepare": _prepare,
    "pretrain": _pretrain,
    "contrast": _contrast,
    "embed": _embed,
    "tune": _tune,
    "align": _align,
    "evaluate": _evaluate,
}
"""Stage by stage, in order; imported when called, so that `--help` and errors come at once."""


def vector_sources(config: Config) -> list[str]:
    """Returns the sources of text vectors that the rankers need, in the order of their making."""
    from larr.rankers import vectors_read  # noqa: PLC0415
    from larr.text.embed import sources  # noqa: PLC0415

    return sources(config, vectors_read(config))


def make(config: Config, verb: str, *, force: bool = False) -> None:
    """Makes a stage if it is not up to date, and says what it cost."""
    target = artifacts.folder(config, verb)
    if not force and artifacts.is_current(config, verb):
        console.print(f"[dim]{verb}: {target} is up to date[/dim]")
        return
    if force:
        artifacts.forget(config, verb)
    console.print(f"[bold]{verb}[/bold] -> {target}")
    try:
        VERBS[verb](config)
    except KeyboardInterrupt:  # typer would say nothing of it
        raise StoppedError("stopped; run the same command again to go on") from None
    measured = (artifacts.manifest(config, verb) or {}).get("measured", {})
    console.print(
        f"  {verb} took {measured['seconds']:.1f} s, {measured['rate']:,.0f} {measured['unit']}, "
        f"peak memory {measured['peak_memory_mb']:,.0f} MB"
    )


def run(config: Config, *, force: bool = False) -> None:
    """Makes every stage up to the report that is not up to date, the further encoders too."""
    from larr.evaluation.evaluate import check_slices  # noqa: PLC0415

    vector_sources(config)  # a wrong name is said before hours of work
    check_slices(config)
    for verb in artifacts.RUN:
        if verb == "embed":
            _make_encoders(config, force=force)
        make(config, verb, force=force)


def _make_encoders(config: Config, *, force: bool) -> None:
    """Makes those of `config.encoders` that a ranker reads, in `output/encoders/NAME`."""
    for name in vector_sources(config):
        if name in config.encoders:
            own = config.for_encoder(name)
            for verb in ("prepare", "pretrain", "contrast"):
                if not artifacts.share(config, own, verb):
                    make(own, verb, force=force)
