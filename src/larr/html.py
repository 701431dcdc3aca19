"""The Jinja environment of HTML pages."""

from __future__ import annotations

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined


def environment(*packages: str) -> Environment:
    """Returns an environment with the templates of these packages and of larr."""
    return Environment(
        loader=ChoiceLoader([PackageLoader(package) for package in (*packages, "larr")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
