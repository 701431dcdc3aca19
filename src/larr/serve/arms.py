"""Which arm of a test a user is in: always the same one, and unrelated between tests."""

from __future__ import annotations

import hashlib


def position(user_id: str, salt: str) -> float:
    """A number from 0 to below 1, spread evenly over users; `salt` names the test."""
    digest = hashlib.sha256(f"{salt} {user_id}".encode()).digest()
    return int.from_bytes(digest[:6]) / 2**48
