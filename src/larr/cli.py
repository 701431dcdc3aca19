"""The command line: a verb for each stage, and `larr run` for all of them."""

from __future__ import annotations

import os
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from larr import artifacts
from larr.config import Config, load_config
from larr.errors import ConfigError, LarrError, StoppedError
from larr.progress import console

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="""LARR: an LLM that understands the real-time scene, a ranker that never calls it.

    The stages hand over folders under the configuration's `output`:

    prepare -> data/, pretrain -> lm/, contrast -> encoder/, embed -> vectors/,
    align -> ranker/, evaluate -> report/

    `larr run configs/city.toml` walks all of them and skips what is up to date.""",
)

ConfigPath = Annotated[
    Path, typer.Argument(metavar="CONFIG", help="A TOML configuration, such as configs/city.toml.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="A.B=VALUE",
        help="Replaces a setting, for example `--set seed=2 --set align.batch_size=512`. "
        "May be given many times.",
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Makes the stage again even if up to date.")]
Seeds = Annotated[
    str | None,
    typer.Option(
        metavar="1,2,3",
        help="Runs every seed (of the world and of the models) in OUTPUT/seed-N, then pools their "
        "reports in OUTPUT/report.",
    ),
]


def _prepare(config: Config) -> None:
    from larr.prepare import prepare  # noqa: PLC0415

    prepare(config)


def _pretrain(config: Config) -> None:
    from larr.pretrain import pretrain  # noqa: PLC0415

    pretrain(config)


def _contrast(config: Config) -> None:
    from larr.contrast import contrast  # noqa: PLC0415

    contrast(config)


def _embed(config: Config) -> None:
    from larr.embed import embed  # noqa: PLC0415

    embed(config)


def _tune(config: Config) -> None:
    from larr.tune import tune  # noqa: PLC0415

    tune(config)


def _align(config: Config) -> None:
    from larr.align import align  # noqa: PLC0415

    align(config)


def _evaluate(config: Config) -> None:
    from larr.evaluate import evaluate  # noqa: PLC0415

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


def _stage(config: Config, verb: str, *, force: bool) -> None:
    target = artifacts.folder(config, verb)
    if not force and artifacts.is_current(config, verb):
        console.print(f"[dim]{verb}: {target} is up to date[/dim]")
        return
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


@app.command()
def prepare(config: ConfigPath, override: Overrides = None, force: Force = False) -> None:
    """Tables -> data/: checked against the contract, split by time, statistics as of their time."""
    _stage(load_config(config, override), "prepare", force=force)


@app.command()
def pretrain(config: ConfigPath, override: Overrides = None, force: Force = False) -> None:
    """Stage 1 -> lm/: continual pretraining of the LM on place descriptions (Eq. 1-7)."""
    _stage(load_config(config, override), "pretrain", force=force)


@app.command()
def contrast(config: ConfigPath, override: Overrides = None, force: Force = False) -> None:
    """Stage 2 -> encoder/: the LM becomes a text embedding model (Eq. 8-21)."""
    _stage(load_config(config, override), "contrast", force=force)


@app.command()
def embed(config: ConfigPath, override: Overrides = None, force: Force = False) -> None:
    """-> vectors/: every distinct keyword text once (Eq. 22)."""
    _stage(load_config(config, override), "embed", force=force)


@app.command()
def tune(config: ConfigPath, override: Overrides = None, force: Force = False) -> None:
    """-> tuning/: a search for stage 3's settings, equally long for every ranker.

    Each trial trains on all training days but the last and is judged on that one. Put the
    `tuned.toml` that it writes into your configuration.
    """
    _stage(load_config(config, override), "tune", force=force)


@app.command()
def align(config: ConfigPath, override: Overrides = None, force: Force = False) -> None:
    """Stage 3 -> ranker/: scene encoder and PLE, aligned; and the baselines (Eq. 23-26)."""
    _stage(load_config(config, override), "align", force=force)


@app.command()
def evaluate(config: ConfigPath, override: Overrides = None, force: Force = False) -> None:
    """-> report/: metrics on the test day with paired intervals, report.json and report.html."""
    _stage(load_config(config, override), "evaluate", force=force)


@app.command()
def run(
    config: ConfigPath, override: Overrides = None, seeds: Seeds = None, force: Force = False
) -> None:
    """All stages; what is up to date is skipped. Safe to stop and to run again."""
    loaded = load_config(config, override)
    configs = [loaded] if seeds is None else _for_seeds(loaded, seeds)
    for one in configs:
        if seeds is not None:
            console.rule(f"seed {one.seed}")
        for verb in artifacts.RUN:
            _stage(one, verb, force=force)
    if seeds is not None:
        from larr.evaluate import pool  # noqa: PLC0415

        pool(configs, loaded.output)


def _for_seeds(config: Config, seeds: str) -> list[Config]:
    try:
        numbers = [int(part) for part in seeds.split(",")]
    except ValueError:
        raise ConfigError(
            f"--seeds {seeds}: expected whole numbers joined by commas, for example 1,2,3"
        ) from None
    if min(numbers) < 0 or len(set(numbers)) < len(numbers):
        raise ConfigError(f"--seeds {seeds}: expected distinct numbers that are not negative")
    return [
        config.model_copy(update={"seed": seed, "output": config.output / f"seed-{seed}"})
        for seed in numbers
    ]


def _report_failure(error: Exception) -> None:
    """Keeps the traceback of a failure that no one foresaw in a file, for a bug report."""
    with tempfile.NamedTemporaryFile(
        "w", prefix="larr-", suffix=".log", delete=False, encoding="utf-8"
    ) as log:
        log.writelines(traceback.format_exception(error))
    console.print(
        f"[bold red]larr:[/bold red] a failure inside larr: "
        f"{escape(f'{type(error).__name__}: {error}')}; please report it with {log.name}",
        soft_wrap=True,
    )


def main() -> None:
    """The entry point: every error becomes one message and an exit status, never a traceback."""
    # Threads that wait by spinning make a shared or virtual machine up to nine times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        app()
    except LarrError as error:
        console.print(f"[bold red]larr:[/bold red] {escape(str(error))}", soft_wrap=True)
        sys.exit(error.exit_status)
    except Exception as error:
        _report_failure(error)
        sys.exit(1)


if __name__ == "__main__":
    main()
