"""The commands `larr experiments` and `larr real`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from larr.cli import ConfigPath, Overrides, Seeds, for_seeds
from larr.settings import load_config


def experiments(
    study: Annotated[
        str, typer.Argument(metavar="STUDY", help="A study of the configuration, or `all`.")
    ],
    config: ConfigPath,
    override: Overrides = None,
    seeds: Seeds = None,
) -> None:
    """Compares rankers, as in the paper's tables and figures -> experiments/.

    The configuration declares the studies; see configs/experiments.toml. A ranker that several
    studies name is trained once.
    """
    loaded = load_config(config, override)
    from larr_lab.studies import experiments as module  # noqa: PLC0415

    module.experiments(loaded, study, [loaded] if seeds is None else for_seeds(loaded, seeds))


def real(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="The folder with the downloaded files.")
    ],
    configs: Annotated[
        list[Path], typer.Argument(metavar="CONFIG...", help="For example configs/canteen.toml.")
    ],
    override: Overrides = None,
    seeds: Annotated[
        str,
        typer.Option(
            metavar="101,102",
            help="The seeds to run and pool; SiTunes has splits for 101 to 110.",
        ),
    ] = "101,102,103,104,105",
    output: Annotated[Path, typer.Option(help="The folder to write.")] = Path("runs/real"),
) -> None:
    """Compares rankers on the public data sets whose files are in FOLDER.

    `dataset.folder` of each configuration is relative to FOLDER; docs/experiments.md links to the
    downloads.
    """
    loaded = {path.stem: load_config(path, override) for path in configs}
    from larr_lab.studies import real as module  # noqa: PLC0415

    module.real(loaded, folder, seeds, output)
