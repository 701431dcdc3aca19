"""The command line: a verb for each stage, and `larr run` for all of them."""

from __future__ import annotations

import os
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Annotated

import typer
from pydantic_core import to_json
from rich.text import Text

from larr.config import Config
from larr.config.rankers import BEST
from larr.errors import ConfigError, InputError, LarrError
from larr.plugins import plugins
from larr.progress import console
from larr.run import run, run_stage, vector_sources
from larr.settings import load_config, settings_below
from larr.stages import STAGES

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="""LARR: an LLM that understands the real-time scene, a ranker that never calls it.

    Each stage writes the folder of its name under the configuration's `output`, for the next:

    prepare -> pretrain -> contrast -> embed -> align -> evaluate

    `larr run configs/city.toml` walks all of them and skips what is up to date.""",
)

ConfigPath = Annotated[
    Path, typer.Argument(metavar="CONFIG", help="A TOML configuration, such as configs/city.toml.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="A.B=VALUE", help="Replaces a setting; may be given many times."),
]
Force = Annotated[
    bool, typer.Option("--force", help="Runs the stage again even if it is up to date.")
]
Seeds = Annotated[
    str | None,
    typer.Option(
        metavar="1,2,3",
        help="Runs each seed (of world and models) in OUTPUT/seed-N, then pools their reports.",
    ),
]


def _add_stage(verb: str) -> None:
    """Adds the verb of a stage to the command line, as a command that keeps its own `verb`."""

    def command(config: ConfigPath, override: Overrides = None, force: Force = False) -> None:
        run_stage(load_config(config, override), verb, force=force)

    app.command(verb, help=STAGES[verb].help)(command)


for _verb in STAGES:
    _add_stage(_verb)


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where your tables are.")],
    to: Annotated[Path, typer.Option(help="The configuration to write.")] = Path("mine.toml"),
) -> None:
    """Looks at tables, and writes a configuration for them with comments on what it guessed."""
    if to.exists():
        raise ConfigError(f"{to} exists; give another name with --to, or delete it")
    from larr.data.draft import init as write  # noqa: PLC0415

    write(folder, to)


@app.command()
def check(config: ConfigPath, override: Overrides = None) -> None:
    """Reads the tables as prepare does, and looks for leaks; status 2 if something must change."""
    loaded = load_config(config, override)
    from larr.data.leaks import check as look  # noqa: PLC0415

    look(loaded)


@app.command()
def plan(
    config: ConfigPath,
    override: Overrides = None,
    card: Annotated[str, typer.Option(help="A kind of GPU, such as l40s or h100.")] = "a100-80",
) -> None:
    """What training and reading the language model will cost: here, and on one and eight GPUs."""
    loaded = load_config(config, override)
    run_stage(loaded, "prepare")
    from larr.plan import plan as show  # noqa: PLC0415

    show(loaded, card, vector_sources(loaded))


@app.command("run")
def run_all(
    config: ConfigPath, override: Overrides = None, seeds: Seeds = None, force: Force = False
) -> None:
    """All stages; what is up to date is skipped. Safe to stop and to run again."""
    loaded = load_config(config, override)
    if seeds is None:
        run(loaded, force=force)
        return
    configs = for_seeds(loaded, seeds)
    for of_seed in configs:
        console.rule(f"seed {of_seed.seed}")
        run(of_seed, force=force)
    from larr.evaluation.evaluate import pool  # noqa: PLC0415

    pool(configs, loaded.output)


@app.command()
def export(
    config: ConfigPath,
    to: Annotated[Path, typer.Option(help="The folder to write.")],
    override: Overrides = None,
    model: Annotated[str, typer.Option(help="A trained LARR.")] = "larr",
) -> None:
    """The log with its scene vectors as Parquet for other CTR libraries, the ranker as ONNX."""
    loaded = load_config(config, override)
    from larr.serve.export import export as write  # noqa: PLC0415

    write(loaded, model, to)


@app.command()
def settings(
    below: Annotated[
        str, typer.Argument(metavar="PATH", help="A setting or a section, such as align.scene.")
    ] = "",
) -> None:
    """Every setting of a configuration, with its default and what it means."""
    for path, field in settings_below(below).items():
        if field.is_required():
            typer.echo(path)
        else:
            default = to_json(field.get_default(call_default_factory=True)).decode()
            typer.echo(f"{path} = {default}")
        about = " ".join((field.description or "").split())
        typer.echo(f"    {about}\n" if about else "")


StorePath = Annotated[
    Path, typer.Argument(metavar="STORE", help="A folder that `larr publish` wrote.")
]
Share = Annotated[
    float,
    typer.Option(help="Of the users; below 1 the version becomes arm B beside the current one."),
]


@app.command()
def publish(
    config: ConfigPath,
    override: Overrides = None,
    model: Annotated[
        str | None,
        typer.Option(help="One of `align.models`; by default best, or else larr."),
    ] = None,
    store: Annotated[
        Path | None, typer.Option(help="Where the versions are kept; OUTPUT/store by default.")
    ] = None,
    share: Share = 1.0,
) -> None:
    """Writes a version that can be served from a run's ranker, and activates it."""
    loaded = load_config(config, override)
    from larr.serve.publish import publish as write  # noqa: PLC0415
    from larr.serve.store import STORE, Store  # noqa: PLC0415

    model = model or (BEST if BEST in loaded.align.models else "larr")
    target = Store(store or loaded.output / STORE)
    version = write(target, loaded, model)
    served = target.activate(version, share)
    scene, candidate = served.accepted
    console.print(f"{target.folder}: {model} is version {version}; `larr serve {target.folder}`")
    console.print(f"  columns of a request's scene: {', '.join(scene)}", soft_wrap=True)
    console.print(f"  columns of a candidate: {', '.join(candidate)}", soft_wrap=True)
    if served.needs_time:
        hint = "send the local `time` with each request, or set dataset.tables.time_zone"
        console.print(f"  the time zone of the tables is not known: {hint}", soft_wrap=True)


@app.command()
def activate(
    store: StorePath,
    version: Annotated[str, typer.Argument(metavar="VERSION", help="As `larr versions` lists it.")],
    share: Share = 1.0,
) -> None:
    """Serves a version; a running service changes to it by itself."""
    from larr.serve.store import Store  # noqa: PLC0415

    Store(store).activate(version, share)


@app.command()
def rollback(store: StorePath) -> None:
    """Undoes the last change of what is served; called again, the one before it."""
    from larr.serve.store import Store  # noqa: PLC0415

    arms = ", ".join(f"{arm.name}: {arm.version}" for arm in Store(store).roll_back())
    console.print(f"{store}: {arms}")


@app.command()
def versions(store: StorePath) -> None:
    """Lists the versions of a store; the arms that are served have a letter."""
    from larr.serve.store import Store  # noqa: PLC0415

    arms = {arm.version: arm for arm in Store(store).arms()}
    for version in Store(store).versions():
        arm = arms.get(version["version"])
        share = f"{arm.name} {arm.share:.0%}" if arm else ""
        line = f"{version['version']}  {version['made']}  {version['model']}  {share}"
        console.print(line.rstrip())


@app.command()
def serve(
    store: StorePath,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535)] = 8080,
    token: Annotated[
        str | None,
        typer.Option(
            envvar="LARR_TOKEN", help="Required of requests to /v1 and the page, if given."
        ),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes, each on one core.")] = 1,
) -> None:
    """Ranks candidates over HTTP (POST /v1/rank), without the language model."""
    if token == "":
        raise ConfigError("--token (or LARR_TOKEN) is empty; give a secret, or none at all")
    from larr.serve.app import serve as listen  # noqa: PLC0415
    from larr.serve.store import Store  # noqa: PLC0415

    listen(Store(store), (host, port), token, workers)


def for_seeds(config: Config, seeds: str) -> list[Config]:
    """Returns the configuration of each seed of `--seeds`, with its own output folder."""
    numbers = [int(part) if part.strip().isdecimal() else -1 for part in seeds.split(",")]
    if not all(0 <= number < 2**32 for number in numbers) or len(set(numbers)) < len(numbers):
        raise ConfigError(
            f"--seeds {seeds}: expected distinct whole numbers from 0 to 2^32 - 1 joined by "
            "commas, for example 1,2,3"
        )
    return [
        config.model_copy(update={"seed": seed, "output": config.output / f"seed-{seed}"})
        for seed in numbers
    ]


def command_line() -> typer.Typer:
    """Returns the command line with the verbs that other packages add."""
    registered = {command.name for command in app.registered_commands}
    for name, point in plugins("commands").items():
        if name not in registered:
            app.command(name)(point.load())
    return app


def main() -> None:
    """Runs the command line: every error becomes one message and an exit status."""
    # Threads that wait by spinning make a shared or virtual machine up to nine times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        command_line()()
    except LarrError as error:
        message, status = str(error), error.exit_status
    except OSError as error:
        subject = error.filename or "a file or a connection"
        message, status = f"{subject}: {error.strerror or error}", 1
    except ModuleNotFoundError as error:
        needs = "`larr serve` does not need it, other commands need the extra `train`"
        message = f"{error.name} is not installed: {needs}; run `pip install 'larr[train]'`"
        status = InputError.exit_status
    except Exception as error:
        # keeps the traceback of an unforeseen failure in a file, for a bug report
        log = Path(tempfile.mkstemp(".log", "larr-")[1])
        log.write_text("".join(traceback.format_exception(error)), encoding="utf-8")
        failure = f"{type(error).__name__}: {error}; please report it with {log}"
        message, status = f"a failure inside larr: {failure}", 1
    console.print(Text("larr:", style="bold red"), message, soft_wrap=True)
    sys.exit(status)


if __name__ == "__main__":
    main()
