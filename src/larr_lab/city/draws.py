"""Random draws that numpy does not provide."""

from __future__ import annotations

import numpy as np

from larr_lab.city.effects import Array


def hash_uniform(first: Array, second: Array | int, salt: int) -> Array:
    """Returns numbers in [0, 1) that depend only on the arguments (splitmix64).

    Draws properties of pairs, such as a user and a place: each request gets the same number without
    a stored table of all pairs. numpy's generators take one seed at a time; here millions of pairs
    are seeds.
    """
    with np.errstate(over="ignore"):
        z = np.asarray(first).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = z + np.asarray(second).astype(np.uint64) * np.uint64(0xD1B54A32D192ED03)
        z = z + np.uint64(salt % 2**63) * np.uint64(0x8CB92BA72F3D8DD7)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    return (z >> np.uint64(11)).astype(np.float64) * 2.0**-53


def weighted_index(cumulative_RC: Array, uniform_R: Array) -> Array:
    """Returns an index for each row, given its cumulative weights and a number in [0, 1)."""
    target_R1 = (uniform_R * cumulative_RC[:, -1])[:, None]
    return np.minimum((cumulative_RC <= target_R1).sum(axis=1), cumulative_RC.shape[1] - 1)
