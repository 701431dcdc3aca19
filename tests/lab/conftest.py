"""The fixtures of a published run."""

from tests.serving import *  # noqa: F403
