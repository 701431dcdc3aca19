"""The evaluation."""

from __future__ import annotations

from larr.sections import Positive, Section


class EvaluateConfig(Section):
    """Metrics on the test days, and their intervals."""

    bootstrap: Positive = 500
    """Resamples of the users for the paired intervals."""
    slices: list[str] = []
    """Columns; the CTR AUC is also reported among the impressions with each of their values."""
    gains: list[tuple[str, str]] = [("larr", "ple")]
    """Pairs of models compared: the first over the second."""
