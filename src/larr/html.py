"""HTML pages from templates that packages contain."""

from __future__ import annotations

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined


def environment(*packages: str) -> Environment:
    """Returns the templates of these packages, and those of larr that they include."""
    return Environment(
        loader=ChoiceLoader([PackageLoader(package) for package in (*packages, "larr")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
