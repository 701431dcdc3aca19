"""Milliseconds to compare a request's candidates with a user's orders, by the number of orders.

    python benchmarks/long_histories.py

`situation` are the text figures with `features.situation`: four lists of 50 places, whatever the
number of orders. `all` compares each candidate with every order, and `search` keeps the 50 most
similar orders of each candidate (as MUSE does, arXiv 2512.07216). All read stored unit vectors.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from measure import milliseconds

from larr.data.histories import KINDS, LENGTH
from larr.text.figures import Layout, TextFigures, history_figures

PLACES, CANDIDATES, DIMENSION = 20_000, 300, 128
ORDERS = (100, 1_000, 10_000)
REPEATS = 200


def main() -> None:
    """Prints a table."""
    random = np.random.default_rng(0)
    vector_PD = random.normal(size=(PLACES, DIMENSION)).astype(np.float32)
    vector_PD /= np.linalg.norm(vector_PD, axis=1, keepdims=True)
    figures = TextFigures(vector_PD, vector_PD, vector_PD[:0], Layout([], [], [], [], [], [], []))
    candidate_KD = vector_PD[random.integers(PLACES, size=CANDIDATES)]
    one_user_K = np.zeros(CANDIDATES, np.int64)

    def situation(place_N: np.ndarray) -> object:
        stored_1KL = np.resize(place_N, (1, len(KINDS) + 1, LENGTH))
        return history_figures(figures.similarities(candidate_KD, one_user_K, stored_1KL))

    def compare_all(place_N: np.ndarray) -> object:
        similarity_KN = candidate_KD @ vector_PD[place_N].T
        return similarity_KN.max(axis=1), similarity_KN.mean(axis=1)

    def search(place_N: np.ndarray) -> object:
        similarity_KN = candidate_KD @ vector_PD[place_N].T
        found_KL = np.partition(similarity_KN, -LENGTH, axis=1)[:, -LENGTH:]
        return found_KL.max(axis=1), found_KL.mean(axis=1)

    print(f"{CANDIDATES} candidates; orders: situation, all, search (ms)")
    for orders in ORDERS:
        place_N = random.integers(PLACES, size=orders)
        calls = (partial(method, place_N) for method in (situation, compare_all, search))
        medians = (np.median(milliseconds(call, REPEATS)) for call in calls)
        print(f"{orders:6,}: " + ", ".join(f"{median:.2f}" for median in medians))


if __name__ == "__main__":
    main()
