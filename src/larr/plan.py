"""`larr plan`: what stages 1 and 2 and embedding will cost here, and on GPUs of a named kind.

Here the time of a token is measured, in a few steps of each stage. For GPUs it is computed from the
operations and the data sheet of the card; memory is by the formula of `larr.text.memory`.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import polars as pl
from rich import box
from rich.table import Table
from transformers import TrainerCallback, TrainerControl

from larr import artifacts
from larr.config import Config
from larr.config.text import BUILTIN_MODEL
from larr.errors import ConfigError, UnavailableError
from larr.machine import device
from larr.progress import console
from larr.stages import RUN
from larr.text import contrast, memory, pretrain
from larr.text.backbone import KeywordText, KeywordTokenizer, load_base
from larr.text.checkpoint import BUILTIN
from larr.text.encoder import as_encoder, compute, from_input
from larr.text.judge import CHECKS, Judge
from larr.text.memory import Step, gigabytes, step_of
from larr.text.pairs import EMPTY, VIEWS, examples, held_out
from larr.text.retrieval import tasks


@dataclass(frozen=True)
class Card:
    """A kind of GPU, by its maker's data sheet."""

    flops: float
    """Operations a second in dense bfloat16 products."""
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
USED = 0.4
"""Part of a card's peak that models of more than a billion parameters reach."""
TOGETHER, CARDS_TOGETHER = 0.8, 8
"""Part of their single speeds that several cards reach together."""
WARM_UP_SECONDS, MOST_STEPS = 5.0, 20
WARM_UP_FLOPS = 5e11
"""Operations of a warm-up step: one to five seconds of a CPU."""
SAMPLE = 2_000
"""Texts whose tokens are counted, and that are embedded in the warm-up."""
READERS = ("encoder", "untuned", "pretrained")
"""The sources of text vectors that read the language model."""


@dataclass(frozen=True)
class Amount:
    """What a stage reads in all."""

    step: Step
    texts: int
    steps: int
    trained: float
    """Tokens that are trained on, padding included."""
    read: float
    """Tokens that only go forward: embedded, or judged by."""

    @property
    def operations(self) -> tuple[float, float]:
        """Those of training and of reading on a GPU: 2 for each token and parameter.

        Gradients take as many for the activations, and again for the weights if these are trained;
        activations are computed twice. Attention is left out: at these lengths it is some percent.
        """
        step, predicted = self.step, self.step.tokens.predicted / max(1, self.step.tokens.trained)
        head = step.words * step.settings.hidden_size * predicted
        tuned = step.tuned_layers / step.settings.num_hidden_layers
        factor = 1 + (2 if step.has_adapters else 3) * tuned
        trained = 2 * self.trained * (step.multiplied + head) * factor
        return trained, 2 * self.read * step.multiplied


def plan(config: Config, card_name: str, sources: Sequence[str]) -> None:
    """Prints what each stage costs; `sources` are those of the text vectors that are wanted.

    Raises ConfigError for an unknown card.
    """
    if card_name.lower() not in CARDS:
        raise ConfigError(f"--card {card_name}: expected one of {', '.join(CARDS)}")
    artifacts.require(config, "prepare")
    amounts = _amounts(config, [name for name in sources if name in READERS])
    rates = _rates(config, amounts)
    step = amounts["pretrain"].step
    console.print(
        f"  {config.backbone.model}: {step.parameters / 1e6:,.1f} million parameters; trained in "
        + ", ".join(f"{v} {amounts[v].step.trained / 1e6:,.1f}" for v in ("pretrain", "contrast"))
    )
    console.print(_table(amounts, rates, card_name))
    console.print(_assumptions(card_name), soft_wrap=True)
    done = {verb: artifacts.manifest(artifacts.folder(config, verb)) for verb in RUN}
    costs = {verb: recorded["measured"] for verb, recorded in done.items() if recorded}
    measured = (
        f"{verb} {duration(cost['seconds'])} and {gigabytes(cost['peak_memory_mb'] * 2**20)}"
        for verb, cost in costs.items()
    )
    console.print(f"  Measured when they ran here: {', '.join(measured)}", soft_wrap=True)
    for verb in amounts:
        try:
            memory.require(config, verb)
        except UnavailableError as error:  # the plan may be for another machine
            console.print(f"  {error}", soft_wrap=True)


def _table(amounts: dict[str, Amount], rates: dict[str, float], card_name: str) -> Table:
    """Returns a row for each stage."""
    table = Table(box=box.SIMPLE, padding=(0, 1, 0, 0))
    table.add_column("stage")
    cards = f"{CARDS_TOGETHER} x {card_name}"
    for title in ("texts", "tokens trained", "read", f"time, {device()}", "memory"):
        table.add_column(title, justify="right")
    for title in (f"time, {card_name}", "memory", f"time, {cards}", "memory of each"):
        table.add_column(title, justify="right")
    card, read = CARDS[card_name.lower()], rates.get("embed")
    for verb, amount in amounts.items():
        train = rates.get(verb) if amount.steps else read
        table.add_row(verb, *_row(amount, train, read, card))
    return table


def _row(amount: Amount, train: float | None, read: float | None, card: Card) -> Iterator[str]:
    """Yields the cells of a stage; `train` and `read` are seconds of a token, None if too large."""
    yield f"{amount.texts:,}"
    yield f"{amount.trained:,.0f}"
    yield f"{amount.read:,.0f}"
    if train is None or read is None:
        yield "too large"
    else:
        yield duration(amount.trained * train + amount.read * read)
    yield gigabytes(memory.here(amount.step) + memory.PROCESS * (device() == "cpu"))
    seconds = sum(amount.operations) / (USED * card.flops)
    bytes_ = memory.needed(amount.step, on_gpu=True, bf16=True)
    for cards, speed in ((1, 1.0), (CARDS_TOGETHER, TOGETHER * CARDS_TOGETHER)):
        yield duration(seconds / speed) if bytes_ / cards <= card.bytes else "too large"
        yield gigabytes(bytes_ / cards)


def _assumptions(card: str) -> str:
    return (
        f"  This machine: time as measured in warm-up steps; {gigabytes(memory.free())} are free.\n"
        f"  {card}: {USED:.0%} of the peak in bfloat16, 2 operations for each "
        "parameter and token read, 6 to 8 if trained (4 to 6 with LoRA), activations computed "
        f"twice. Smaller models than a billion parameters use less of a card.\n  {CARDS_TOGETHER} "
        f"cards: weights, optimizer and steps divided among them (FSDP), at {TOGETHER:.0%} of "
        "their single speeds; larr itself runs on one.\n  Not in it: start, loading of models, "
        "`sentence_encoder`, [encoders], and stage 3, whose cost does not depend on the model."
    )


def duration(seconds: float) -> str:
    """Returns seconds in words."""
    for unit, size in (("d", 86_400.0), ("h", 3_600.0), ("min", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:.1f} s"


def _amounts(config: Config, readers: Sequence[str]) -> dict[str, Amount]:
    """Returns what each stage reads in all; `readers` are the sources that embed every text."""
    tokens = load_base(config, weights=False).tokens
    if tokens.tokenizer.name_or_path == str(BUILTIN) and config.backbone.model != BUILTIN_MODEL:
        console.print(
            f"  {config.backbone.model} has no tokenizer: texts are counted with the built-in one, "
            "which needs more tokens, especially in languages other than English",
            soft_wrap=True,
        )
    first, second, third = (step_of(config, verb) for verb in memory.BATCH)
    rows, measured, _ = pretrain.gather(config, tokens)
    length = sum(len(row["input_ids"]) for row in rows) / len(rows)
    steps = pretrain.steps_of(config, len(rows)) if first.trained else 0
    trained = steps * config.pretrain.batch_size * length
    # for the perplexities before and after
    apart_tokens = sum(len(row["input_ids"]) for part in measured.values() for row in part)
    judging = 2 * bool(steps) * apart_tokens
    batches = config.contrast.triples // min(config.contrast.batch_size, config.contrast.triples)
    apart = held_out(config)
    every, judge = tasks(config, apart), Judge.of(config, apart)
    texts = {tuple(text) for task in every for text in (*task.queries, *task.candidates)}
    # recall of the model before stage 1, before stage 2 and after it
    recalling = (2 + bool(steps)) * _tokens(tokens, map(list, texts))
    if judge:
        recalling += (CHECKS + 1) * _tokens(tokens, map(list, (*judge.queries, *judge.candidates)))
    sample, count = _sample(config), _texts(config).height
    embedded = _tokens(tokens, ([text] for text in sample.rows())) / max(1, len(sample)) * count
    return {
        "pretrain": Amount(first, len(rows), steps, trained, judging),
        "contrast": Amount(
            second, config.contrast.triples, batches, batches * second.tokens.trained, recalling
        ),
        "embed": Amount(third, count, 0, 0, len(readers) * embedded),
    }


def _texts(config: Config) -> pl.DataFrame:
    """Returns the distinct texts, with their keywords."""
    path = artifacts.folder(config, "prepare") / "texts.parquet"
    return pl.read_parquet(path, columns=["keyword", "text"])


def _sample(config: Config) -> pl.DataFrame:
    texts = _texts(config)
    return texts.sample(min(SAMPLE, len(texts)), seed=config.seed, shuffle=True)


def _tokens(tokens: KeywordTokenizer, texts: Iterable[list[KeywordText]]) -> int:
    return sum(map(len, tokens.encode_batch([*texts])))


class StepTimes(TrainerCallback):
    """Ends a training some seconds after its first step, and counts the steps since."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, _: Any, __: Any, control: TrainerControl, **___: Any) -> None:
        """Ends the training if the time is up."""
        self.ends.append(time.perf_counter())
        enough = self.ends[-1] - self.ends[0] >= WARM_UP_SECONDS
        control.should_training_stop = enough and len(self.ends) > 1

    @property
    def seconds(self) -> float:
        """Of a step; the first one, which is slower, is not counted."""
        return (self.ends[-1] - self.ends[0]) / (len(self.ends) - 1)


def _rates(config: Config, amounts: dict[str, Amount]) -> dict[str, float]:
    """Returns the measured seconds of a token, by stage: of training, and `embed` of reading.

    A stage whose memory is not there is not measured.
    """
    measure = {"pretrain": _pretraining, "contrast": _contrasting, "embed": _reading}
    rates, available, quiet = {}, memory.free(), console.quiet
    for verb, amount in amounts.items():
        if memory.here(amount.step) <= available and (amount.steps or verb == "embed"):
            console.print(f"  {verb}: warming up", style="dim")
            console.quiet = True
            try:
                with TemporaryDirectory() as folder:
                    rates[verb] = measure[verb](config, amount, Path(folder))
            finally:
                console.quiet = quiet
    return rates


def _pretraining(config: Config, amount: Amount, folder: Path) -> float:
    batch = _warm_up_batch(config.pretrain.batch_size, amount)
    small, times = memory.altered(config, {"pretrain.batch_size": batch}), StepTimes()
    lm = load_base(small)
    rows, _, _ = pretrain.gather(small, lm.tokens)
    pretrain.train_model(small, lm, rows, MOST_STEPS, folder, [times])
    return times.seconds / (batch * sum(len(row["input_ids"]) for row in rows) / len(rows))


def _contrasting(config: Config, amount: Amount, folder: Path) -> float:
    batch = _warm_up_batch(min(config.contrast.batch_size, config.contrast.triples), amount)
    size = {"contrast.batch_size": batch, "contrast.triples": batch * MOST_STEPS}
    small, times = memory.altered(config, size), StepTimes()
    rows = examples(small, held_out(small))
    texts = [text for view in VIEWS for text in rows[view][:batch] if text != EMPTY]
    encoder = contrast.starting_model(small, load_base(small), [from_input(text) for text in texts])
    contrast.train_model(small, encoder, rows, times, folder)
    return times.seconds / step_of(small, "contrast").tokens.trained


def _reading(config: Config, amount: Amount, _: Path) -> float:
    encoder = as_encoder(load_base(config), config.embed.dimension, config.contrast.pooling)
    texts = [[text] for text in _sample(config).rows()]
    of_one = 2 * amount.step.multiplied * _tokens(encoder[0].tokens, texts) / len(texts)
    texts = texts[: max(8, round(WARM_UP_FLOPS / of_one))]
    compute(encoder, texts[:8], config.embed.batch_tokens)
    started = time.perf_counter()
    compute(encoder, texts, config.embed.batch_tokens)
    return (time.perf_counter() - started) / _tokens(encoder[0].tokens, texts)


def _warm_up_batch(size: int, amount: Amount) -> int:
    """Returns the batch size of a step of about WARM_UP_FLOPS."""
    of_one = amount.operations[0] / (amount.steps * size)
    return max(2, min(size, round(WARM_UP_FLOPS / of_one)))
