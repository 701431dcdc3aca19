"""The verbs that the laboratory adds to the command line."""

from __future__ import annotations

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
