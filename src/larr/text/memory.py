"""Estimates the memory of stages 1 and 2 and of embedding before a model is loaded.

`docs/your_data.md` compares estimates with measured peaks. The terms of the formula:

    weights      4 bytes per parameter; 2 if LoRA freezes them and products use bfloat16
    training     12 bytes per trained parameter (gradient, Adam's two moments), 4 more for adapters,
                 2 for bfloat16 copies of trained weights, 4 for the best weights so far (stage 2)
    activations  those of each token in each tuned layer; with checkpointing, the input of each
                 layer, and the activations of one layer for the tokens of one forward pass
    logits       14 bytes per vocabulary entry and predicted token
    merging      4 bytes per parameter, while adapters are merged into the weights
    processes    all of this for each process; together they have the activations of one, so this
                 is an upper bound
    dividing     with `cluster.divide_model` each process has its part of weights and training, and
                 8 bytes per gathered parameter (weight, gradient): embeddings, head, two layers; it
                 reads the whole weights first, and the first process collects them at the end
    not included up to 1 GB of states that stage 2 keeps with `backbone.lora_layers`
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import psutil
import torch
from peft import get_peft_model
from transformers import PreTrainedConfig

from larr import artifacts
from larr.config import Config
from larr.errors import UnavailableError
from larr.machine import bf16_is_fast, device
from larr.text import shards
from larr.text.backbone import LanguageModel, load_base, lora
from larr.text.corpus import descriptions, general_text
from larr.text.encoder import CPU_BATCH_TOKENS, SMALL_PARAMETERS, is_large
from larr.text.pairs import TripleCollator, examples, held_out
from larr.text.pretrain import IGNORED, describe
from larr.text.training import CHECKPOINTED_PARAMETERS, process_count

BATCH = {
    "pretrain": "pretrain.batch_size",
    "contrast": "contrast.batch_size",
    "embed": "embed.batch_tokens",
}
"""The stages that use the language model, and the setting of their batch size."""
SAMPLE = 300
"""Descriptions whose tokens are counted."""
PROCESS_BYTES = 1.4e9
"""Bytes of a CPU process in addition to the model: libraries, tables."""
MIN_FREE = 0.8
"""A stage is refused if less than this share of the estimate is free. Measured steps of stage 2
(builtin, MiniLM, SmolLM2) took .9 to 1.1 of the estimate."""


class Tokens(NamedTuple):
    """Numbers of tokens in one step, padding included."""

    trained: int
    forward: int
    """Tokens of one forward pass."""
    longest: int
    """Tokens of the longest text."""
    predicted: int = 0
    """Tokens with logits."""


@dataclass(frozen=True)
class Step:
    """The model of a stage, and the tokens of one step."""

    architecture: PreTrainedConfig
    parameters: int
    """Parameters of the model, without a head that the stage does not use."""
    layer_parameters: int
    """Parameters of the layers, which each token is multiplied by."""
    vocabulary: int
    """Tokens that the head predicts; 0 without a head."""
    trained: int
    """Trained parameters: all of them, or those of the adapters."""
    tuned_layers: int
    """Layers that gradients flow through."""
    tokens: Tokens
    processes: int = 1
    """Processes of a stage on this machine without a GPU, each with the model."""
    divided_among: int = 1
    """Processes among which the model is divided, on all machines."""

    @property
    def has_adapters(self) -> bool:
        """Whether LoRA freezes the model's own parameters."""
        return 0 < self.trained < self.parameters


def sample_step(config: Config, verb: str) -> Step:
    """Returns a step of a stage in BATCH, with a sample of the prepared texts."""
    lm = load_base(config, weights=False)
    model, head = lm.model, lm.model.get_output_embeddings()
    embedding = model.get_input_embeddings().weight
    architecture = model.config.get_text_config()
    if verb != "pretrain":
        model, head = model.base_model, None
    untied = 0 if head is None or head.weight is embedding else head.weight.numel()
    trained = parameters = sum(each.numel() for each in model.parameters())
    if verb == "embed":
        on_cpu = device() == "cpu" and parameters >= SMALL_PARAMETERS
        part = min(config.embed.batch_tokens, CPU_BATCH_TOKENS if on_cpu else sys.maxsize)
        tokens = Tokens(0, part, config.backbone.max_length)
    else:
        tokens = (
            _pretrain_tokens(config, lm) if verb == "pretrain" else _contrast_tokens(config, lm)
        )
    processes = _processes(config, verb, parameters)
    divides = config.cluster.divide_model and tokens.trained
    upper = config.backbone.lora_layers if verb == "contrast" else 0
    if (rank := config.backbone.lora_rank) and tokens.trained:
        model = get_peft_model(model, lora(lm.tokens, model, rank, upper))
        trained = sum(each.numel() for each in model.parameters() if each.requires_grad)
    return Step(
        architecture,
        parameters,
        layer_parameters=parameters - embedding.numel() - untied,
        vocabulary=0 if head is None else len(head.weight),
        trained=trained if tokens.trained else 0,
        tuned_layers=(rank and upper) or architecture.num_hidden_layers,
        tokens=tokens,
        processes=processes if config.cluster.engine == "local" else 1,
        divided_among=processes if divides else 1,
    )


def _processes(config: Config, verb: str, parameters: int) -> int:
    """Returns the number of processes of a stage on this machine."""
    if verb != "embed":
        return process_count(config, verb)
    texts = pl.scan_parquet(artifacts.folder(config, "prepare") / "texts.parquet")
    count = math.ceil(texts.select(pl.len()).collect().item() / shards.SHARD)
    is_large = parameters >= SMALL_PARAMETERS
    return shards.process_count(config.cluster, max(1, count), is_large=is_large)


def _pretrain_tokens(config: Config, lm: LanguageModel) -> Tokens:
    """Returns the tokens of a step of stage 1; none for an encoder without a head."""
    if lm.predicts is None:
        return Tokens(0, 0, 0)
    random, chosen = np.random.default_rng(config.seed), descriptions(config)[:SAMPLE]
    rows = [describe(lm.tokens, description, random)["labels"] for description in chosen]
    length, ratio = max(map(len, rows)), 0.0
    if next(general_text(config), None) is not None:  # its rows have full length and all labels
        length, ratio = config.backbone.max_length, config.pretrain.general_ratio
    labelled = sum(label != IGNORED for row in rows for label in row) / sum(map(len, rows))
    tokens = config.pretrain.batch_size * length
    # an encoder's head computes logits of all tokens
    share = 1.0 if lm.predicts == "masked" else (labelled + ratio) / (1 + ratio)
    return Tokens(tokens, tokens, length, round(tokens * share))


def _contrast_tokens(config: Config, lm: LanguageModel) -> Tokens:
    """Returns the tokens of a step of stage 2."""
    size = min(config.contrast.batch_size, config.contrast.triples)
    columns = examples(config.with_settings({"contrast.triples": size}), held_out(config))
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    collate = TripleCollator(lm.tokens, config.contrast.shown, large=is_large(lm.model.base_model))
    batch = collate(rows)
    shapes = [tuple(ids.shape) for name, ids in batch.items() if name.endswith("input_ids")]
    counts = [texts * length for texts, length in shapes]
    return Tokens(sum(counts), max(counts), max(length for _, length in shapes))


def needed(step: Step, *, on_gpu: bool, bf16: bool) -> float:
    """Returns the peak memory of a stage in bytes, by the formula in the module docstring."""
    architecture, tokens, size = step.architecture, step.tokens, 2 if bf16 else 4
    width = architecture.hidden_size
    # architectures name the width of the feed-forward layer differently
    names = ("intermediate_size", "n_inner", "ffn_dim")
    inner = next(filter(None, (getattr(architecture, name, None) for name in names)), 4 * width)
    weights: float = step.parameters * (size if step.has_adapters else 4)
    training: float = step.trained * (
        12 + 4 * step.has_adapters + 4 * (not step.vocabulary and not on_gpu)
    )
    copies = 2 * step.layer_parameters if bf16 and step.trained and not step.has_adapters else 0
    whole: float = 4 * step.parameters
    if step.divided_among > 1 and not on_gpu:
        weights, training = weights / step.divided_among, training / step.divided_among
        gathered = step.parameters - step.layer_parameters * (
            1 - 2 / architecture.num_hidden_layers
        )
        copies = gathered * (size if step.has_adapters else 8)
        whole += weights
    scores = 0 if on_gpu else architecture.num_attention_heads * tokens.longest * (size + 6)
    layer = width * (16 + 6 * size) + inner * 3 * size + scores
    if not tokens.trained:
        activations = tokens.forward * layer
    elif on_gpu or step.parameters >= CHECKPOINTED_PARAMETERS:
        stored = width * (size if step.has_adapters else 4)
        activations = tokens.trained * step.tuned_layers * stored + 2 * tokens.forward * layer
    else:
        activations = tokens.trained * step.tuned_layers * layer
    logits = 14 * tokens.predicted * step.vocabulary
    return float(max(weights + training + copies + activations + logits, whole))


def needed_here(step: Step) -> float:
    """Returns the peak memory of a stage's models on this machine in bytes."""
    return step.processes * needed(step, on_gpu=device() == "cuda", bf16=bf16_is_fast())


def free() -> int:
    """Returns the free bytes of the GPU, or of the main memory without a GPU."""
    if device() == "cuda":
        return torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved()
    return int(psutil.virtual_memory().available)


def require(config: Config, verb: str) -> None:
    """Raises UnavailableError if a stage certainly needs more memory than is free."""
    step, available = sample_step(config, verb), free()
    if MIN_FREE * needed_here(step) <= available:
        return
    section, _, name = BATCH[verb].partition(".")
    smaller = {BATCH[verb]: max(2, getattr(getattr(config, section), name) // 8)}
    adapters = {"backbone.lora_rank": 16}
    alone: dict[str, Any] = {"cluster.workers": 1} if step.processes > 1 else {}
    changes = [alone, {"cluster.divide_model": True}, smaller | alone]
    if step.trained:
        changes += [adapters | alone, adapters | smaller | alone]
    if verb == "contrast":
        upper = {"backbone.lora_layers": max(1, step.tuned_layers // 4)}
        changes.append(adapters | smaller | upper | alone)
    advice = "use a smaller backbone.model or a machine with more memory"
    for change in changes:
        if (bytes_ := needed_here(sample_step(config.with_settings(change), verb))) <= available:
            settings = ", ".join(f"{path} = {value}" for path, value in change.items())
            advice = f"set {settings}, which needs {gigabytes(bytes_)}"
            break
    raise UnavailableError(
        f"{verb}: {config.backbone.model!r} has {step.parameters / 1e6:,.0f} million parameters "
        f"and needs about {gigabytes(needed_here(step))} of memory, but only "
        f"{gigabytes(available)} are free; {advice}"
    )


def gigabytes(bytes_: float) -> str:
    """Formats bytes as gigabytes."""
    return f"{bytes_ / 1e9:,.1f} GB"
