"""The verbs that the laboratory adds to the command line."""

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
    """The paper's tables and figures, and more -> experiments/: rankers side by side.

    The studies are declared in the configuration; see configs/experiments.toml. What one study has
    trained another one reads.
    """
    loaded = load_config(config, override)
    from larr_lab.studies import experiments as module  # noqa: PLC0415

    module.experiments(loaded, study, [loaded] if seeds is None else for_seeds(loaded, seeds))


def real(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Holds the files that you brought.")
    ],
    configs: Annotated[
        list[Path], typer.Argument(metavar="CONFIG...", help="Such as configs/canteen.toml.")
    ],
    override: Overrides = None,
    seeds: Annotated[
        str,
        typer.Option(
            metavar="101,102",
            help="The seeds that are run and pooled; the splits of SiTunes have 101 to 110.",
        ),
    ] = "101,102,103,104,105",
    output: Annotated[Path, typer.Option(help="The folder to write.")] = Path("runs/real"),
) -> None:
    """Data sets of real people side by side: those whose files are in FOLDER.

    `dataset.folder` of each configuration is a path in FOLDER; docs/experiments.md names where the
    files can be had.
    """
    loaded = {path.stem: load_config(path, override) for path in configs}
    from larr_lab.studies import real as module  # noqa: PLC0415

    module.real(loaded, folder, seeds, output)
