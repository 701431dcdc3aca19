"""Texts a second of a sentence encoder: larr against sentence-transformers as it ships, in one run.

    .venv/bin/python benchmarks/embedding.py RUN minilm smollm2 [--texts 500]

reads texts at random from `RUN/prepare/texts.parquet`. The two ways take turns, so that noise of
the machine meets both; seconds are those of the processor, on one core.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import torch

from larr.text.encoder import compute_bare, load_sentence_encoder

ROUNDS = 3


def cpu_seconds(way: Callable[[], np.ndarray]) -> tuple[float, np.ndarray]:
    """Returns the seconds of the processor for one call, and what it returned."""
    started = time.process_time()
    vectors_NH = way()
    return time.process_time() - started, vectors_NH


def main() -> None:
    """Prints a line for each model."""
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--texts", type=int, default=500)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    table = pl.read_parquet(arguments.run / "prepare" / "texts.parquet")
    texts = table["text"].sample(min(arguments.texts, len(table)), seed=1).to_list()
    for name in arguments.models:
        model = load_sentence_encoder(name)
        ways = {
            "sentence-transformers": lambda model=model: model.encode(texts),
            "larr": lambda model=model: compute_bare(model, texts),
        }
        runs = [{way: cpu_seconds(call) for way, call in ways.items()} for _ in range(ROUNDS)]
        best = {way: min(run[way][0] for run in runs) for way in ways}
        first, second = (runs[0][way][1] for way in ways)
        lengths_N = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
        cosine_N = (first * second).sum(axis=1) / lengths_N
        rates = ", ".join(f"{way} {len(texts) / seconds:.0f}" for way, seconds in best.items())
        print(
            f"{name}: texts/s {rates} ({best['sentence-transformers'] / best['larr']:.2f} times); "
            f"cosine {cosine_N.mean():.5f}, least {cosine_N.min():.5f}"
        )


if __name__ == "__main__":
    main()
