"""The command line: a command for each stage, and `larr run` for all of them."""

from __future__ import annotations

import os
import sys
import tempfile
import traceback
import warnings
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
from larr.run import run, run_seeds, run_stage, vector_sources
from larr.settings import load_config, settings_below
from larr.stages import STAGES

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="""LARR: an LLM that understands the real-time scene, a ranker that never calls it.

    Each stage writes a folder with its name in `output`, which later stages read:

    prepare -> pretrain -> contrast -> embed -> align -> evaluate

    `larr run configs/city.toml` runs all stages that are not up to date.""",
)

ConfigPath = Annotated[
    Path, typer.Argument(metavar="CONFIG", help="A TOML configuration, such as configs/city.toml.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="A.B=VALUE", help="Overrides a setting; can be repeated."),
]
Force = Annotated[
    bool, typer.Option("--force", help="Runs the stage again even if it is up to date.")
]
Seeds = Annotated[
    str | None,
    typer.Option(
        metavar="1,2,3",
        help="Runs each seed (of world and models) in OUTPUT/seed-N, and pools the reports.",
    ),
]


def _add_stage(verb: str) -> None:
    """Adds the command of a stage; a function, so that each command has its own `verb`."""

    def command(config: ConfigPath, override: Overrides = None, force: Force = False) -> None:
        run_stage(load_config(config, override), verb, force=force)

    app.command(verb, help=STAGES[verb].help)(command)


for _verb in STAGES:
    _add_stage(_verb)


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="The folder of your tables.")],
    to: Annotated[Path, typer.Option(help="The configuration to write.")] = Path("mine.toml"),
    without: Annotated[str, typer.Option(help="Columns to ignore, with commas between.")] = "",
) -> None:
    """Writes a configuration for your tables, with comments on its guesses."""
    if to.exists():
        raise ConfigError(f"{to} exists; give another name with --to, or delete it")
    from larr.init.draft import init as write  # noqa: PLC0415

    write(folder, to, without=without)


@app.command()
def check(config: ConfigPath, override: Overrides = None) -> None:
    """Checks the tables as prepare does, and looks for leaks; exits with 2 on errors."""
    loaded = load_config(config, override)
    from larr.check import check as look  # noqa: PLC0415

    look(loaded)


@app.command()
def plan(
    config: ConfigPath,
    override: Overrides = None,
    card: Annotated[str, typer.Option(help="A kind of GPU, such as l40s or h100.")] = "a100-80",
) -> None:
    """What the stages will cost on this machine, and the language model on one and eight GPUs."""
    loaded = load_config(config, override)
    run_stage(loaded, "prepare")
    from larr.plan import plan as show  # noqa: PLC0415

    show(loaded, card, vector_sources(loaded))


@app.command("run")
def run_all(
    config: ConfigPath, override: Overrides = None, seeds: Seeds = None, force: Force = False
) -> None:
    """Runs all stages that are not up to date. Can be stopped and resumed."""
    loaded = load_config(config, override)
    if seeds is None:
        run(loaded, force=force)
    else:
        run_seeds(for_seeds(loaded, seeds), loaded.output, force=force)


@app.command()
def export(
    config: ConfigPath,
    to: Annotated[Path, typer.Option(help="The folder to write.")],
    override: Overrides = None,
    model: Annotated[str, typer.Option(help="A trained LARR.")] = "larr",
) -> None:
    """Writes the log with scene vectors as Parquet for other CTR libraries, the ranker as ONNX."""
    loaded = load_config(config, override)
    from larr.serve.export import export as write  # noqa: PLC0415

    write(loaded, model, to)


@app.command()
def settings(
    below: Annotated[
        str, typer.Argument(metavar="PATH", help="A setting or a section, such as align.scene.")
    ] = "",
) -> None:
    """Lists settings with defaults and descriptions."""
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
    typer.Option(help="Share of the users; below 1 the version becomes arm B of an A/B test."),
]


@app.command()
def publish(
    config: ConfigPath,
    override: Overrides = None,
    model: Annotated[
        str | None, typer.Option(help="One of `align.models`; by default best, or else larr.")
    ] = None,
    store: Annotated[
        Path | None, typer.Option(help="Folder of the versions; by default OUTPUT/store.")
    ] = None,
    share: Share = 1.0,
) -> None:
    """Writes a ranker as a version for serving, and activates it."""
    loaded = load_config(config, override)
    from larr.serve.publish import publish as write  # noqa: PLC0415
    from larr.serve.store import STORE, Store  # noqa: PLC0415

    model = model or (BEST if BEST in loaded.align.models else "larr")
    target = Store(store or loaded.output / STORE)
    version = write(target, loaded, model)
    served = target.activate(version, share)
    scene, candidate = served.accepted
    console.print(f"{target.folder}: {model} is version {version}; `larr serve {target.folder}`")
    console.print(f"  columns of a request's scene: {', '.join(scene) or 'none'}", soft_wrap=True)
    console.print(f"  columns of a candidate: {', '.join(candidate)}", soft_wrap=True)
    if served.needs_time:
        hint = "send the local `time` with each request, or set dataset.tables.time_zone"
        console.print(f"  the time zone of the tables is unknown: {hint}", soft_wrap=True)


@app.command()
def activate(
    store: StorePath,
    version: Annotated[str, typer.Argument(metavar="VERSION", help="As `larr versions` lists it.")],
    share: Share = 1.0,
) -> None:
    """Activates a version; running services switch to it."""
    from larr.serve.store import Store  # noqa: PLC0415

    Store(store).activate(version, share)


@app.command()
def rollback(store: StorePath) -> None:
    """Undoes the last activation; if repeated, the one before it."""
    from larr.serve.store import Store  # noqa: PLC0415

    arms = ", ".join(f"{arm.name}: {arm.version}" for arm in Store(store).roll_back())
    console.print(f"{store}: {arms}")


@app.command()
def versions(store: StorePath) -> None:
    """Lists the versions of a store; active ones have the letter of their arm."""
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
            envvar="LARR_TOKEN", help="Secret that requests to /v1 and the page must send."
        ),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes, each on one core.")] = 1,
) -> None:
    """Ranks candidates over HTTP (POST /v1/rank), without the language model."""
    if token == "":
        raise ConfigError("--token (or LARR_TOKEN) is empty; give a secret, or omit it")
    from larr.serve.app import serve as listen  # noqa: PLC0415
    from larr.serve.store import Store  # noqa: PLC0415

    listen(Store(store), (host, port), token, workers)


def for_seeds(config: Config, seeds: str) -> list[Config]:
    """Returns a configuration for each seed of `--seeds`, with its own output folder."""
    numbers = [int(part) if part.strip().isdecimal() else -1 for part in seeds.split(",")]
    if not all(0 <= number < 2**32 for number in numbers) or len(set(numbers)) < len(numbers):
        raise ConfigError(
            f"--seeds {seeds}: expected distinct integers from 0 to 2^32 - 1, separated by commas, "
            "for example 1,2,3"
        )
    return [
        config.model_copy(update={"seed": seed, "output": config.output / f"seed-{seed}"})
        for seed in numbers
    ]


def command_line() -> typer.Typer:
    """Returns the command line with the commands of other packages."""
    registered = {command.name for command in app.registered_commands}
    for name, point in plugins("commands").items():
        if name not in registered:
            app.command(name)(point.load())
    return app


def main() -> None:
    """Runs the command line; converts every error to a message and an exit status."""
    # Spinning threads make larr up to nine times slower on a shared or virtual machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    # peft calls this deprecated function of transformers
    warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
    try:
        command_line()()
    except LarrError as error:
        message, status = str(error), error.exit_status
    except OSError as error:
        subject = error.filename or "a file or a connection"
        message, status = f"{subject}: {error.strerror or error}", 1
    except ModuleNotFoundError as error:
        needs = "all commands but `larr serve` need the extra `train`"
        message = f"{error.name} is not installed: {needs}; run `pip install 'larr[train]'`"
        status = InputError.exit_status
    except Exception as error:
        # The traceback of an unexpected error goes to a file, for a bug report.
        log = Path(tempfile.mkstemp(".log", "larr-")[1])
        log.write_text("".join(traceback.format_exception(error)), encoding="utf-8")
        failure = f"{type(error).__name__}: {error}; please report it with {log}"
        message, status = f"internal error: {failure}", 1
    console.print(Text("larr:", style="bold red"), message, soft_wrap=True)
    sys.exit(status)


if __name__ == "__main__":
    main()
