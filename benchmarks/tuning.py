"""Stages 1 and 2 beside the trainers of TRL and sentence-transformers as shipped: speed and result.

    pip install trl
    python benchmarks/tuning.py CONFIG [--steps 60] [--set ...]

All train the same model on the same rows with equal steps, batches, learning rates and threads, in
turn. TRL gets the token ids and which of them to predict. sentence-transformers gets the three
pairs of texts of each example as three data sets, each with MultipleNegativesRankingLoss, so it
takes three steps for one of larr; both have in-batch negatives only. Needs `larr prepare`.
"""

from __future__ import annotations

import time
from tempfile import TemporaryDirectory
from typing import Any

from datasets import Dataset
from measure import config_parser
from rich import box
from rich.table import Table
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from transformers import PrinterCallback, TrainerCallback
from trl import SFTConfig, SFTTrainer

from larr import artifacts
from larr.config import Config
from larr.progress import console
from larr.settings import load_config
from larr.text import contrast, pretrain, training
from larr.text.backbone import load_base
from larr.text.encoder import from_input
from larr.text.pairs import EMPTY, VIEWS, examples, held_out
from larr.text.ranking_evaluator import RankingEvaluator

PAIRS = {"user_user": VIEWS[:2], "place_place": VIEWS[2:4], "user_place": VIEWS[4:]}


def shipped(config: Config, stage: Any, folder: str, steps: int) -> dict[str, Any]:
    """Returns the settings of a rival's trainer: larr's, but no accumulation of its own options."""
    changes = {"output_dir": folder, "per_device_train_batch_size": stage.batch_size}
    return training.arguments(config, stage, steps) | changes | {"max_steps": steps}


def stage_1(config: Config, steps: int, table: Table) -> None:
    """Adds rows for larr and TRL: tokens per second and the perplexity of held-out places."""
    rows, measured, _ = pretrain.gather(config, load_base(config).tokens)
    length = sum(len(row["input_ids"]) for row in rows) / len(rows)
    tokens = steps * config.pretrain.batch_size * length
    lm = load_base(config)
    _, _, seconds = pretrain.train_model(config, lm, rows, steps)
    add(table, "stage 1, larr", tokens / seconds, "tokens", pretrain.perplexity(lm, measured["y"]))
    lm = load_base(config)
    labelled = [
        {
            "input_ids": row["input_ids"],
            "completion_mask": [int(label != pretrain.IGNORED) for label in row["labels"]],
        }
        for row in rows
    ]
    with TemporaryDirectory() as folder:
        options = shipped(config, config.pretrain, folder, steps)
        trainer = SFTTrainer(
            model=lm.model,
            args=SFTConfig(**options, activation_checkpointing=False, warmup_steps=0.05),
            train_dataset=Dataset.from_list(labelled),
            processing_class=lm.tokens.tokenizer,
        )
        seconds = seconds_of(trainer)
    add(table, "TRL", tokens / seconds, "tokens", pretrain.perplexity(lm, measured["y"]))


def stage_2(config: Config, steps: int, table: Table) -> None:
    """Adds rows for larr and sentence-transformers: triples per second and the held-out AUC."""
    config = config.with_settings({"contrast.triples": steps * config.contrast.batch_size})
    config = config.with_settings({"contrast.shown": 0, "contrast.correct_popularity": False})
    holdout = held_out(config)
    evaluator, rows = RankingEvaluator.of(config, holdout), examples(config, holdout)
    texts = [from_input(text) for view in VIEWS for text in rows[view][:400] if text != EMPTY]

    def result(encoder: SentenceTransformer) -> float | None:
        return evaluator.auc(encoder, config.embed.batch_tokens) if evaluator else None

    encoder = contrast.starting_model(config, load_base(config), texts)
    _, seconds, _ = contrast.train_model(config, encoder, rows, TrainerCallback())
    triples = config.contrast.triples
    add(table, "stage 2, larr", triples / seconds, "triples", result(encoder))
    encoder = contrast.starting_model(config, load_base(config), texts)
    data = {name: Dataset.from_dict({v: rows[v] for v in views}) for name, views in PAIRS.items()}
    data = {name: part.filter(lambda row: EMPTY not in row.values()) for name, part in data.items()}
    loss = MultipleNegativesRankingLoss(encoder, scale=1 / config.contrast.temperature)
    with TemporaryDirectory() as folder:
        options = shipped(config, config.contrast, folder, 3 * steps)
        trainer = SentenceTransformerTrainer(
            model=encoder,
            args=SentenceTransformerTrainingArguments(**options, warmup_steps=0.1),
            train_dataset=data,
            loss=loss,
        )
        seconds = seconds_of(trainer)
    add(table, "sentence-transformers", triples / seconds, "triples", result(encoder))


def seconds_of(trainer: Any) -> float:
    """Trains and returns the seconds."""
    trainer.remove_callback(PrinterCallback)
    started = time.perf_counter()
    trainer.train()
    return time.perf_counter() - started


def add(table: Table, name: str, speed: float, unit: str, result: float | None) -> None:
    """Adds a row."""
    table.add_row(name, f"{speed:,.1f} {unit}/s", "" if result is None else f"{result:.4f}")


def main() -> None:
    """Prints a table."""
    parser = config_parser(__doc__)
    parser.add_argument("--steps", type=int, default=60)
    options = parser.parse_args()
    config = load_config(options.config, options.overrides)
    artifacts.require(config, "prepare")
    table = Table("", "speed", "perplexity of y, held-out AUC", box=box.SIMPLE)
    stage_1(config, options.steps, table)
    stage_2(config, options.steps, table)
    console.print(table)


if __name__ == "__main__":
    main()
