"""The exceptions of larr; each message contains what was given, what was expected, what to do."""

from __future__ import annotations


class LarrError(Exception):
    """A failure inside larr; the command line prints it without a traceback and exits with 1."""

    exit_status = 1


class InputError(LarrError):
    """The user gave something wrong; the command line exits with 2."""

    exit_status = 2


class ConfigError(InputError):
    """A configuration file or a `--set` that `larr.config.Config` does not accept."""


class DataError(InputError):
    """A table that breaks the data contract of `larr.data.contract`."""


class StaleError(InputError):
    """An artifact is missing, unfinished, or older than what it was built from."""


class StoppedError(LarrError):
    """Ctrl-C; the command line exits with the shell's status for it, 130."""

    exit_status = 130


class UnavailableError(LarrError):
    """Something that this machine lacks, such as a package; another machine may have it."""
