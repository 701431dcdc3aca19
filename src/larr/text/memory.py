"""The memory that stages 1 and 2 and embedding need, by a formula, before a model is loaded.

Measured peaks beside those of the formula are in `docs/your_data.md`. Parts of the formula:

    weights      4 bytes a parameter; 2 if LoRA leaves them as they are and products are in bfloat16
    training     12 bytes a trained parameter (gradient, Adam's two means), 4 more for an adapter,
                 2 for bfloat16 copies of trained weights, 4 for the best weights so far (stage 2)
    activations  of each token of a step in each tuned layer; where they are computed twice, only
                 the layer's input, and all of one layer for the part that is computed at a time
    logits       14 bytes for each word of the vocabulary at each predicted token
    the end      4 bytes a parameter, when adapters are merged into the weights
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import psutil
import torch
from peft import get_peft_model
from torch.nn import Module

from larr.config import Config
from larr.errors import UnavailableError
from larr.machine import bf16_is_fast, device
from larr.sections import changed
from larr.text.backbone import load_base, lora
from larr.text.contrast import Collator
from larr.text.corpus import descriptions
from larr.text.encoder import CPU_BATCH_TOKENS, SMALL_PARAMETERS
from larr.text.pairs import examples, held_out
from larr.text.pretrain import IGNORED, describe
from larr.text.training import CHECKPOINTED_PARAMETERS

BATCH = {
    "pretrain": "pretrain.batch_size",
    "contrast": "contrast.batch_size",
    "embed": "embed.batch_tokens",
}
"""The stages that read the language model, and the setting by which each needs more memory."""
SAMPLE = 300
"""Descriptions whose tokens are counted."""
PROCESS = 1.4e9
"""Bytes of a process on a CPU besides its model: libraries, tables."""
CERTAIN = 0.8
"""Part of the formula's bytes that must be free, or a stage is refused: with a little less than the
formula's it may still fit."""


@dataclass(frozen=True)
class Step:
    """The model of a stage, and the tokens of one step."""

    parameters: int
    """Of the model, as far as the stage reads it."""
    multiplied: int
    """Parameters of its layers: those that each token is multiplied by."""
    trained: int
    adapters: bool
    """Whether LoRA leaves the other parameters as they are."""
    layers: int
    tuned_layers: int
    """The layers through which gradients flow."""
    width: int
    inner: int
    """Units within a layer's feed-forward part."""
    heads: int
    words: int
    """Of the vocabulary, to predict; 0 without a head."""
    tokens: int
    """That are trained on, padding included."""
    part: int
    """Tokens that go through the model at a time."""
    length: int
    """Tokens of the longest text, padding included."""
    predicted: int
    """Tokens for which logits are computed."""

    @property
    def computes_twice(self) -> bool:
        """Whether activations are computed again for the gradients, on a CPU."""
        return self.parameters >= CHECKPOINTED_PARAMETERS


def step_of(config: Config, verb: str) -> Step:
    """Returns a step of one of the stages of BATCH; its texts are a sample of what is prepared."""
    lm = load_base(config, weights=False)
    settings, model = lm.model.config.get_text_config(), lm.model
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    if verb != "pretrain":
        model, head = model.base_model, None
    parameters, layers = _count(model), settings.num_hidden_layers
    words = len(head.weight) if head is not None else 0
    untied = 0 if head is None or head.weight is embedding.weight else head.weight.numel()
    tokens, part, length, predicted = 0, 0, config.backbone.max_length, 0
    random = np.random.default_rng(config.seed)
    if verb == "embed":
        on_cpu = device() == "cpu" and parameters >= SMALL_PARAMETERS
        part = min(config.embed.batch_tokens, CPU_BATCH_TOKENS if on_cpu else 1 << 40)
    elif verb == "contrast":
        part_config = altered(config, {"contrast.triples": config.contrast.batch_size})
        rows = examples(part_config, held_out(config))
        large = parameters >= SMALL_PARAMETERS
        collate = Collator(lm.tokens, config.contrast.shown, large=large)
        batch = collate(
            [dict(zip(rows, row, strict=True)) for row in zip(*rows.values(), strict=True)]
        )
        shapes = [ids.shape for name, ids in batch.items() if name.endswith("input_ids")]
        tokens, part = sum(map(prod, shapes)), max(map(prod, shapes))
        length = max(shape[1] for shape in shapes)
    elif lm.predicts:
        described = [describe(lm.tokens, row, random) for row in descriptions(config)[:SAMPLE]]
        if not config.pretrain.general_ratio:
            length = max(len(row["input_ids"]) for row in described)
        tokens = part = config.pretrain.batch_size * length
        labelled = sum(label != IGNORED for row in described for label in row["labels"])
        share = labelled / sum(len(row["labels"]) for row in described)
        ratio = config.pretrain.general_ratio  # general text has a label at each token
        share = 1.0 if lm.predicts == "masked" else (share + ratio) / (1 + ratio)
        predicted = round(tokens * share)
    rank, upper = config.backbone.lora_rank, 0
    trained = parameters if tokens else 0
    if rank and tokens:
        upper = config.backbone.lora_layers if verb == "contrast" else 0
        adapters = lora(lm.tokens, model, rank, upper)
        wrapped = get_peft_model(model, adapters)
        trained = sum(each.numel() for each in wrapped.parameters() if each.requires_grad)
    return Step(
        parameters=parameters,
        multiplied=parameters - embedding.weight.numel() - untied,
        trained=trained,
        adapters=bool(rank and tokens),
        layers=layers,
        tuned_layers=(upper or layers) if tokens else 0,
        width=settings.hidden_size,
        inner=_inner(settings),
        heads=settings.num_attention_heads,
        words=words,
        tokens=tokens,
        part=part,
        length=length,
        predicted=predicted,
    )


def needed(step: Step, *, on_gpu: bool, bf16: bool) -> float:
    """Returns the bytes that a stage needs at its peak, as the head of this file explains."""
    number = 2 if bf16 else 4
    weights = step.parameters * (number if step.adapters else 4)
    training = step.trained * (12 + 4 * step.adapters + 4 * (not step.words and not on_gpu))
    if bf16 and step.trained and not step.adapters:
        training += 2 * step.multiplied
    scores = 0 if on_gpu else step.heads * step.length * (number + 6)
    layer = step.width * (16 + 6 * number) + step.inner * 3 * number + scores
    if step.tokens and (on_gpu or step.computes_twice):
        stored = number if step.adapters else 4
        activations = step.tokens * step.tuned_layers * step.width * stored + 2 * step.part * layer
    else:
        activations = step.tokens * step.tuned_layers * layer or step.part * layer
    logits = 14 * step.predicted * step.words
    return float(max(weights + training + activations + logits, 4 * step.parameters))


def here(step: Step) -> float:
    """Returns the bytes that a stage needs on this machine, besides those of its process."""
    return needed(step, on_gpu=device() == "cuda", bf16=bf16_is_fast())


def free() -> int:
    """Returns the bytes that are free for a stage: of the GPU, else of this machine's memory."""
    if device() == "cuda":
        return torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved()
    return int(psutil.virtual_memory().available)


def require(config: Config, verb: str) -> None:
    """Raises UnavailableError if a stage surely needs more memory than is free."""
    step, available = step_of(config, verb), free()
    if CERTAIN * here(step) <= available:
        return
    fewer = {BATCH[verb]: max(2, _value(config, BATCH[verb]) // 8)}
    adapters = {"backbone.lora_rank": 16}
    changes: list[dict[str, Any]] = [fewer]
    if step.tokens:
        changes += [adapters, adapters | fewer]
    if verb == "contrast":
        changes.append(adapters | fewer | {"backbone.lora_layers": max(1, step.layers // 4)})
    advice = "take a smaller backbone.model or a machine with more memory"
    for change in changes:
        if (bytes_ := here(step_of(altered(config, change), verb))) <= available:
            settings = ", ".join(f"{path} = {value}" for path, value in change.items())
            advice = f"set {settings}, which needs {gigabytes(bytes_)}"
            break
    raise UnavailableError(
        f"{verb}: {config.backbone.model!r} has {step.parameters / 1e6:,.0f} million parameters "
        f"and needs some {gigabytes(here(step))} of memory, {gigabytes(available)} are free; "
        f"{advice}"
    )


def altered(config: Config, settings: dict[str, Any]) -> Config:
    """Returns a configuration with values set at dotted paths."""
    return type(config).model_validate(changed(config.model_dump(), settings))


def gigabytes(bytes_: float) -> str:
    """Returns a number of bytes in words."""
    return f"{bytes_ / 1e9:,.1f} GB"


def _value(config: Config, path: str) -> int:
    section, _, name = path.partition(".")
    return int(getattr(getattr(config, section), name))


def _count(model: Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _inner(settings: Any) -> int:
    """Returns the units of the feed-forward part; GPT-2 names them otherwise, or not at all."""
    names = ("intermediate_size", "n_inner", "ffn_dim")
    values = (getattr(settings, name, None) for name in names)
    return next((int(value) for value in values if value), 4 * settings.hidden_size)
