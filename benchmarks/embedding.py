"""Texts per second of sentence encoders: larr compared with sentence-transformers, in one run.

    .venv/bin/python benchmarks/embedding.py RUN minilm smollm2 [--texts 500]

Embeds random texts of `RUN/prepare/texts.parquet`. The two methods alternate, so that noise of the
machine affects both. Times are CPU seconds on one core.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import torch
from measure import cpu_seconds

from larr.text.encoder import compute_plain, load_sentence_encoder

ROUNDS = 3


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
        methods = {
            "sentence-transformers": partial(model.encode, texts),
            "larr": partial(compute_plain, model, texts),
        }
        first_NH, second_NH = (call() for call in methods.values())
        runs = [{key: cpu_seconds(call) for key, call in methods.items()} for _ in range(ROUNDS)]
        best = {key: min(run[key] for run in runs) for key in methods}
        lengths_N = np.linalg.norm(first_NH, axis=1) * np.linalg.norm(second_NH, axis=1)
        cosine_N = (first_NH * second_NH).sum(axis=1) / lengths_N
        rates = ", ".join(f"{key} {len(texts) / seconds:.0f}" for key, seconds in best.items())
        print(
            f"{name}: texts/s {rates} ({best['sentence-transformers'] / best['larr']:.2f} times); "
            f"cosine: mean {cosine_N.mean():.5f}, minimum {cosine_N.min():.5f}"
        )


if __name__ == "__main__":
    main()
