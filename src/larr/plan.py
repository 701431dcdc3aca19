"""`larr plan`: estimates the cost of the stages on this machine, and of the LM on a named GPU.

A few steps of each stage measure the time per token or sample on this machine. The time on a GPU is
computed from the operations and the GPU's data sheet, and memory with `larr.text.memory`.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import polars as pl
from rich.table import Table
from transformers import TrainerCallback, TrainerControl

from larr import artifacts, rankers
from larr.config import Config
from larr.config.rankers import BEST, VariantConfig
from larr.config.text import BUILTIN_MODEL
from larr.data import holdout
from larr.data.batches import LogRows
from larr.errors import ConfigError, UnavailableError
from larr.machine import device
from larr.progress import console, plain_table
from larr.rankers import choose
from larr.rankers.best import with_variants
from larr.rankers.neural import step_rows
from larr.stages import RUN
from larr.text import contrast, memory, pretrain
from larr.text.backbone import KeywordTokenizer, Parts, load_base
from larr.text.checkpoint import BUILTIN
from larr.text.embed import VECTORS
from larr.text.encoder import (
    as_encoder,
    compute,
    from_input,
    load_sentence_encoder,
)
from larr.text.memory import Step, gigabytes, sample_step
from larr.text.pairs import EMPTY, VIEWS, examples, held_out
from larr.text.ranking_evaluator import CHECKS, RankingEvaluator
from larr.text.retrieval import tasks


@dataclass(frozen=True)
class Card:
    """A GPU model, with the figures of its data sheet."""

    flops: float
    """Operations per second in dense bfloat16 products."""
    bytes: float


CARDS = {
    "a10": Card(125e12, 24e9),
    "a100-40": Card(312e12, 40e9),
    "a100-80": Card(312e12, 80e9),
    "h100": Card(989e12, 80e9),
    "h200": Card(989e12, 141e9),
    "l4": Card(121e12, 24e9),
    "l40s": Card(362e12, 48e9),
}
UTILISATION = 0.4
"""Share of a card's peak that models of more than a billion parameters reach."""
PARALLEL_EFFICIENCY, PARALLEL_CARDS = 0.8, 8
"""Speed of parallel cards relative to the sum of their single speeds, and their number."""
WARM_UP_SECONDS, MAX_STEPS = 5.0, 20
WARM_UP_FLOPS = 5e11
"""Operations of a warm-up step on a CPU, which take it one to five seconds."""
SAMPLE = 2_000
"""Texts for counting tokens and for the warm-up of embedding."""
LM_SOURCES = ("encoder", "untuned", "pretrained")
"""The sources of text vectors that use the language model."""
STEPS = 200
"""Training steps of a ranker that measure its speed."""


@dataclass(frozen=True)
class Workload:
    """The total work of a stage."""

    step: Step
    texts: int
    steps: int
    trained: float
    """Tokens used for training, padding included."""
    read: float
    """Tokens of forward passes for embedding and evaluation."""

    @property
    def operations(self) -> tuple[float, float]:
        """The operations of training and of reading on a GPU.

        A forward pass takes 2 per token and parameter. Training adds the same for recomputing
        activations, for their gradients, and for those of trained weights. Attention is ignored,
        since it takes only a few percent at these lengths.
        """
        step, predicted = self.step, self.step.tokens.predicted / max(1, self.step.tokens.trained)
        head = step.vocabulary * step.architecture.hidden_size * predicted
        tuned = step.tuned_layers / step.architecture.num_hidden_layers
        factor = 1 + (2 if step.has_adapters else 3) * tuned
        trained = 2 * self.trained * (step.layer_parameters + head) * factor
        return trained, 2 * self.read * step.layer_parameters


def plan(config: Config, card_name: str, sources: Sequence[str]) -> None:
    """Prints the cost of each stage; `sources` are those of the text vectors.

    Raises ConfigError for an unknown card.
    """
    if card_name.lower() not in CARDS:
        raise ConfigError(f"--card {card_name}: expected one of {', '.join(CARDS)}")
    artifacts.require(config, "prepare")
    by_stage = workloads(config, len({*sources} & {*LM_SOURCES}))
    rates = measure_rates(config, by_stage)
    step = by_stage["pretrain"].step
    console.print(
        f"  {config.backbone.model}: {step.parameters / 1e6:,.1f} million parameters; trained in "
        + ", ".join(f"{v} {by_stage[v].step.trained / 1e6:,.1f}" for v in ("pretrain", "contrast"))
    )
    console.print(_table(by_stage, rates, card_name))
    if "sentence_encoder" in sources:
        console.print(f"  {_sentence_encoder(config)}", soft_wrap=True)
    console.print(f"  {_stage_3(config)}", soft_wrap=True)
    console.print(_assumptions(card_name), soft_wrap=True)
    manifests = {verb: artifacts.manifest(artifacts.folder(config, verb)) for verb in RUN}
    costs = {verb: manifest["measured"] for verb, manifest in manifests.items() if manifest}
    measured = (
        f"{verb} {duration(cost['seconds'])} and {gigabytes(cost['peak_memory_mb'] * 2**20)}"
        for verb, cost in costs.items()
    )
    console.print(f"  Measured in earlier runs here: {', '.join(measured)}", soft_wrap=True)
    for verb in by_stage:
        try:
            memory.require(config, verb)
        except UnavailableError as error:  # not fatal: the plan may be for another machine
            console.print(f"  {error}", soft_wrap=True)


def _table(by_stage: dict[str, Workload], rates: dict[str, float], card_name: str) -> Table:
    """Returns a table with a row for each stage."""
    table = plain_table()
    table.add_column("stage", no_wrap=True)
    titles = ["texts", "tokens trained", "tokens read"]
    for place in (device(), card_name, f"{PARALLEL_CARDS} cards"):
        titles += [f"{place}: time", "GB"]
    for title in [*titles[:-1], "GB each"]:
        table.add_column(title, justify="right")
    card, read_rate = CARDS[card_name.lower()], rates.get("embed")
    for verb, workload in by_stage.items():
        train_rate = rates.get(verb) if workload.steps else read_rate
        table.add_row(verb, *_row(workload, train_rate, read_rate, card))
    return table


def _row(
    workload: Workload, train_rate: float | None, read_rate: float | None, card: Card
) -> Iterator[str]:
    """Yields the cells of a stage; rates are seconds per token, None for a model too large here."""
    for count in (workload.texts, workload.trained, workload.read):
        yield _amount(count)
    if train_rate is None or read_rate is None:
        yield "too large"
    else:
        yield duration(workload.trained * train_rate + workload.read * read_rate)
    here = memory.needed_here(workload.step) + memory.PROCESS_BYTES * (device() == "cpu")
    yield f"{here / 1e9:.1f}"
    seconds = sum(workload.operations) / (UTILISATION * card.flops)
    bytes_ = memory.needed(workload.step, on_gpu=True, bf16=True)
    for cards, speed in ((1, 1.0), (PARALLEL_CARDS, PARALLEL_EFFICIENCY * PARALLEL_CARDS)):
        yield duration(seconds / speed) if bytes_ / cards <= card.bytes else "too large"
        yield f"{bytes_ / cards / 1e9:.1f}"


def _sentence_encoder(config: Config) -> str:
    """Returns a sentence about the pretrained encoder, measured on a sample of the texts."""
    with _warming_up("sentence_encoder"):
        model = load_sentence_encoder(config.sentence_encoder)
        texts = [(text,) for text in _sample(config).rows()]
        compute(model, texts[:8], config.embed.batch_tokens)
        started = time.perf_counter()
        compute(model, texts, config.embed.batch_tokens)
        speed = len(texts) / (time.perf_counter() - started)
    count = _texts(config).height
    return (
        f"sentence_encoder {config.sentence_encoder}: {count:,} texts at {speed:,.0f} texts/s, "
        f"{duration(count / speed)}"
    )


def _stage_3(config: Config) -> str:
    """Returns a sentence about `choose` and `align`, as if all rankers were as slow as LARR."""
    log, epochs = LogRows(artifacts.folder(config, "prepare") / "train"), config.align.epochs
    speed, models = ranker_speed(config, log), len(set(config.align.models) - {BEST})
    tried = ""
    if BEST in config.align.models:
        folds = [fold.shortened(config.choose.rows) for fold in holdout.folds(config)]
        models += choose.most_members(config, folds)
        samples = config.choose.trials * epochs * sum(len(fold.train) for fold in folds)
        tried = f"choose: at most {samples:,} samples, {duration(samples / speed)}; "
    samples = models * epochs * len(log)
    return (
        f"{tried}align: at most {samples:,}, {duration(samples / speed)} ({speed:,.0f} samples/s "
        "of LARR; other rankers are faster, trials with more epochs take longer)"
    )


def ranker_speed(config: Config, log: LogRows) -> float:
    """Returns the samples per second of LARR with random vectors, or of PLE without texts."""
    size = config.align.batch_size or step_rows(len(log) * config.align.epochs)
    candidate = VariantConfig(
        of="larr" if config.scene_keywords else "ple",
        vectors="random" if config.scene_keywords else None,
        settings={"epochs": 1, "batch_size": size, "figures": []},
    )
    prepared = artifacts.folder(config, "prepare").resolve()
    with _warming_up("align"), TemporaryDirectory() as folder:  # for the random vectors
        moved = config.model_copy(update={"output": Path(folder)})
        moved = with_variants(moved, {"warm_up": candidate})
        artifacts.folder(moved, "prepare").symlink_to(prepared)
        for source in rankers.text_vectors(moved, "warm_up"):
            vectors = artifacts.folder(moved, "embed") / source / VECTORS
            vectors.parent.mkdir(parents=True)
            random = np.random.default_rng(config.seed)
            texts = pl.scan_parquet(prepared / "texts.parquet").select(pl.len()).collect().item()
            shape = (texts, config.embed.dimension)
            np.save(vectors, random.standard_normal(shape, np.float32))
        ranker, rows = rankers.build(moved, "warm_up"), log.latest(STEPS * size)
        started = time.perf_counter()
        ranker.fit(rows, config.seed)
        return len(rows) / (time.perf_counter() - started)


def _assumptions(card: str) -> str:
    return (
        f"  This machine: times measured in warm-up steps; {gigabytes(memory.free())} are free.\n"
        f"  {card}: {UTILISATION:.0%} of the bfloat16 peak, 2 operations per parameter and token "
        "read, 6 to 8 if trained (4 to 6 with LoRA), activations computed twice. Models with less "
        f"than a billion parameters reach a smaller share.\n  {PARALLEL_CARDS} cards: weights, "
        f"optimizer and steps divided among them (FSDP), at {PARALLEL_EFFICIENCY:.0%} of their "
        "single speeds; larr uses one.\n  Not included: startup, loading of models, and [encoders]."
    )


def _amount(count: float) -> str:
    """Formats a count with a suitable unit."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= size:
            return f"{count / size:,.{int(count < 10 * size)}f} {unit}"
    return f"{count:,.0f}"


def duration(seconds: float) -> str:
    """Formats seconds with a suitable unit."""
    for unit, size in (("d", 86_400.0), ("h", 3_600.0), ("min", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:.1f} s"


def workloads(config: Config, models: int) -> dict[str, Workload]:
    """Returns the total work of each stage; `models` is how many models embed every text."""
    tokens = load_base(config, weights=False).tokens
    if tokens.tokenizer.name_or_path == str(BUILTIN) and config.backbone.model != BUILTIN_MODEL:
        console.print(
            f"  {config.backbone.model} has no tokenizer; the built-in one counts tokens instead, "
            "and yields more of them, especially in languages other than English",
            soft_wrap=True,
        )
    first, second, third = (sample_step(config, verb) for verb in memory.BATCH)
    rows, measured, _ = pretrain.gather(config, tokens)
    length = sum(len(row["input_ids"]) for row in rows) / len(rows)
    steps = pretrain.step_count(config, len(rows)) if first.trained else 0
    trained = steps * config.pretrain.batch_size * length
    # for the perplexities before and after training
    held_out_tokens = sum(len(row["input_ids"]) for part in measured.values() for row in part)
    evaluated = 2 * bool(steps) * held_out_tokens
    batches = config.contrast.triples // min(config.contrast.batch_size, config.contrast.triples)
    holdout = held_out(config)
    all_tasks, evaluator = tasks(config, holdout), RankingEvaluator.of(config, holdout)
    texts = {text for task in all_tasks for text in (*task.queries, *task.candidates)}
    # recall is measured before stage 1, before stage 2 and after it
    retrieved = (2 + bool(steps)) * _tokens(tokens, texts)
    if evaluator:
        ranked = [*evaluator.queries, *evaluator.candidates]
        retrieved += (CHECKS + 1) * _tokens(tokens, ranked)
    sample, count = _sample(config), _texts(config).height
    embedded = _tokens(tokens, [(text,) for text in sample.rows()]) / max(1, len(sample)) * count
    return {
        "pretrain": Workload(first, len(rows), steps, trained, evaluated),
        "contrast": Workload(
            second, config.contrast.triples, batches, batches * second.tokens.trained, retrieved
        ),
        "embed": Workload(third, count, 0, 0, models * embedded),
    }


def _texts(config: Config) -> pl.DataFrame:
    """Returns the distinct texts and their keywords."""
    path = artifacts.folder(config, "prepare") / "texts.parquet"
    return pl.read_parquet(path, columns=["keyword", "text"])


def _sample(config: Config) -> pl.DataFrame:
    texts = _texts(config)
    return texts.sample(min(SAMPLE, len(texts)), seed=config.seed, shuffle=True)


def _tokens(tokens: KeywordTokenizer, texts: Iterable[Parts]) -> int:
    return sum(map(len, tokens.encode_batch([*texts])))


class StepTimes(TrainerCallback):
    """Records the end of each step, and stops training after WARM_UP_SECONDS."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, _: Any, __: Any, control: TrainerControl, **___: Any) -> None:
        """Stops training when the time is up, but not before the second step."""
        self.ends.append(time.perf_counter())
        enough = self.ends[-1] - self.ends[0] >= WARM_UP_SECONDS
        control.should_training_stop = enough and len(self.ends) > 1

    @property
    def seconds(self) -> float:
        """The mean duration of a step, without the first one, which is slower."""
        return (self.ends[-1] - self.ends[0]) / (len(self.ends) - 1)


def measure_rates(config: Config, by_stage: dict[str, Workload]) -> dict[str, float]:
    """Returns the measured seconds per token by stage: of training, and for `embed` of reading.

    Omits stages that need more memory than is free.
    """
    measure = {"pretrain": _pretraining, "contrast": _contrasting, "embed": _reading}
    rates, available = {}, memory.free()
    for verb, workload in by_stage.items():
        if memory.needed_here(workload.step) <= available and (workload.steps or verb == "embed"):
            with _warming_up(verb):
                rates[verb] = measure[verb](config, workload)
    return rates


@contextmanager
def _warming_up(name: str) -> Iterator[None]:
    """Prints what is measured, then nothing until the end of the context."""
    console.print(f"  {name}: warming up", style="dim")
    quiet, console.quiet = console.quiet, True
    try:
        yield
    finally:
        console.quiet = quiet


def _pretraining(config: Config, workload: Workload) -> float:
    batch = _warm_up_batch(config.pretrain.batch_size, workload)
    small, times = config.with_settings({"pretrain.batch_size": batch}), StepTimes()
    lm = load_base(small)
    rows, _, _ = pretrain.gather(small, lm.tokens)
    pretrain.train_model(small, lm, rows, MAX_STEPS, [times])
    return times.seconds / (batch * sum(len(row["input_ids"]) for row in rows) / len(rows))


def _contrasting(config: Config, workload: Workload) -> float:
    batch = _warm_up_batch(min(config.contrast.batch_size, config.contrast.triples), workload)
    size = {"contrast.batch_size": batch, "contrast.triples": batch * MAX_STEPS}
    small, times = config.with_settings(size), StepTimes()
    rows = examples(small, held_out(small))
    texts = [text for view in VIEWS for text in rows[view][:batch] if text != EMPTY]
    encoder = contrast.starting_model(small, load_base(small), [from_input(text) for text in texts])
    contrast.train_model(small, encoder, rows, times)
    return times.seconds / sample_step(small, "contrast").tokens.trained


def _reading(config: Config, workload: Workload) -> float:
    encoder = as_encoder(load_base(config), config.embed.dimension, config.contrast.pooling)
    texts = [(text,) for text in _sample(config).rows()]
    tokens_per_text = _tokens(encoder[0].tokens, texts) / len(texts)
    flops_per_text = 2 * workload.step.layer_parameters * tokens_per_text
    texts = texts[: _affordable(len(texts), flops_per_text)]
    compute(encoder, texts[:8], config.embed.batch_tokens)
    started = time.perf_counter()
    compute(encoder, texts, config.embed.batch_tokens)
    return (time.perf_counter() - started) / _tokens(encoder[0].tokens, texts)


def _warm_up_batch(size: int, workload: Workload) -> int:
    return _affordable(size, workload.operations[0] / (workload.steps * size))


def _affordable(count: int, flops: float) -> int:
    """Returns how many items of this many operations warm up a CPU; a GPU processes all of them."""
    return count if device() == "cuda" else max(2, min(count, round(WARM_UP_FLOPS / flops)))
