"""The exceptions of larr; each message states what was given, what was expected, and what to do."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class LarrError(Exception):
    """An error that the command line prints without a traceback; it exits with 1."""

    exit_status = 1


class InputError(LarrError):
    """Invalid input of the user; the command line exits with 2."""

    exit_status = 2


class ConfigError(InputError):
    """An invalid configuration file or option."""


class DataError(InputError):
    """A table that breaks the data contract of `larr.data.contract`."""


class StaleError(InputError):
    """A missing, unfinished or outdated artifact."""


class StoppedError(LarrError):
    """Ctrl-C; the command line exits with 130, as is usual for it."""

    exit_status = 130


class UnavailableError(LarrError):
    """A missing requirement of this machine, such as a package."""


def suggestion(name: str, known: Iterable[str]) -> str:
    """Returns "; did you mean X?" with the known name that is most similar, or an empty text."""
    near = get_close_matches(name, [*known], n=1)
    return f"; did you mean {near[0]}?" if near else ""
