"""Stage 1, continual pretraining: from a place's name and location, tell the rest of it.

Paper: section 3.1, Eq. (1)-(7). Shapes: B texts, T tokens, H hidden units, L labelled positions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch.nn import functional
from transformers import PreTrainedModel, set_seed
from trl import SFTConfig, SFTTrainer

from larr import artifacts
from larr.config import Config
from larr.hardware import bf16_is_fast, device
from larr.progress import console
from larr.text import training
from larr.text.backbone import (
    KeywordTokenizer,
    LanguageModel,
    load_base,
    lora,
)
from larr.text.corpus import Description, descriptions, general_text, in_random_order
from larr.text.pairs import check_pairs

HELD_OUT_PLACES = 0.03
HELD_OUT_PLACES_AT_MOST = 300
HELD_OUT_GENERAL_TOKENS = 16_384
IGNORED = -100
EVALUATED_AT_ONCE = 16
ENOUGH = 0.9
"""Less than this part of `general_ratio` is told."""
SCALES = (
    "final_logit_softcapping",
    "logit_scale",
    "logits_scaling",
    "lm_head_multiplier",
    "output_multiplier",
)
"""Settings of models whose logits are more than one linear layer of their hidden states."""


@dataclass(frozen=True)
class Row:
    """A sequence and its labels; IGNORED where nothing has to be predicted."""

    ids: list[int]
    labels: list[int]


@dataclass(frozen=True)
class Material:
    """What stage 1 trains on, and what it keeps to measure itself."""

    train: list[Row]
    places: list[Row]
    """Held-out places."""
    general: list[Row]
    """Held-out general text."""
    general_ratio: float
    """Tokens of general text for one of the domain, as far as there is text."""


def pretrain(config: Config) -> None:
    """Trains the language model on the descriptions of places, mixed with general text."""
    artifacts.require(config, "prepare")
    check_pairs(config)
    set_seed(config.seed)
    lm = load_base(config)  # before anything of an earlier run is thrown away
    with artifacts.making(config, "pretrain") as work:
        material = gather(config, lm.tokens)
        figures = _perplexities(lm, material, "before")
        trained, figures["loss"], seconds = _train(config, lm, material.train, work.folder)
        lm = LanguageModel(trained, lm.tokens)
        figures |= _perplexities(lm, material, "after")
        lm.model.save_pretrained(work.folder)
        lm.tokens.tokenizer.save_pretrained(work.folder)
        tokens = _tokens_seen(config, material.train)
        work.measured(tokens, "tokens")
        work.figures |= figures | {
            "train_tokens": tokens,
            "held_out_places": len(material.places),
            "general_ratio": material.general_ratio,
            "tokens_per_second": round(tokens / seconds, 1) if seconds else 0.0,
        }


def gather(config: Config, tokens: KeywordTokenizer) -> Material:
    """Rows of descriptions and of general text, `general_ratio` tokens of it for one of them."""
    random = np.random.default_rng(config.seed)
    train, places = _split(descriptions(config), random)
    told = [describe(tokens, description, random) for description in train]
    if tokens.shortened:
        console.print(
            f"  {tokens.shortened:,} of {len(told):,} descriptions have more tokens than "
            f"backbone.max_length ({tokens.max_length}) and lose the ends of their longest texts"
        )
    domain = sum(len(row.ids) for row in told)
    wanted = config.pretrain.general_ratio * domain
    blocks = _general_blocks(config, tokens, HELD_OUT_GENERAL_TOKENS + wanted)
    mixed_in = min(round(wanted / tokens.max_length), len(blocks) * 9 // 10)
    ratio = round(mixed_in * tokens.max_length / domain, 2)
    if ratio < ENOUGH * config.pretrain.general_ratio:
        console.print(
            f"  the general text has {ratio} tokens for one of the places, and "
            f"pretrain.general_ratio asks for {config.pretrain.general_ratio:g}; a longer "
            "pretrain.general_text would have them"
        )
    return Material(
        train=told + blocks[:mixed_in],
        places=[describe(tokens, description, random) for description in places],
        general=blocks[mixed_in:],
        general_ratio=ratio,
    )


def describe(
    tokens: KeywordTokenizer, description: Description, random: np.random.Generator
) -> Row:
    """[x_i, y_i] with labels on y_i alone; the keywords of y_i in random order.

    Paper: Eq. (5)-(7), decision 3.
    """
    ids = tokens.encode([*description.prompt, *in_random_order(description.target, random)])
    asked = ids.index(tokens.ends[description.prompt[-1][0]]) + 1 if description.prompt else 0
    return Row(ids, [IGNORED] * asked + ids[asked:])


def _split(
    places: list[Description], random: np.random.Generator
) -> tuple[list[Description], list[Description]]:
    """Training and held-out places; a chain's branches tell the same, so they are not held out."""
    alone = [number for number, place in enumerate(places) if place.chain is None]
    candidates = alone or list(range(len(places)))
    wanted = min(HELD_OUT_PLACES_AT_MOST, max(1, round(HELD_OUT_PLACES * len(places))))
    held_out = set(random.permutation(candidates)[:wanted].tolist())
    train = [place for number, place in enumerate(places) if number not in held_out]
    return train or places, [places[number] for number in sorted(held_out)]


def _general_blocks(config: Config, tokens: KeywordTokenizer, wanted: float) -> list[Row]:
    end = tokens.tokenizer.eos_token_id
    ids: list[int] = []
    for document in general_text(config):
        ids += tokens.text_ids([document])[0] + ([] if end is None else [end])
        if len(ids) >= wanted:
            break
    size = tokens.max_length
    blocks = [ids[start : start + size] for start in range(0, len(ids) - size + 1, size)]
    return [Row(block, block) for block in blocks]


class Trainer(SFTTrainer):
    """TRL's trainer, but in a single process the language head reads the labelled positions alone.

    On a CPU TRL's own fused head, made for GPUs, is two to three times slower.
    """

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Eq. (7): cross-entropy summed over the labelled tokens, divided by their number."""
        lm = self.accelerator.unwrap_model(model)
        if self.accelerator.num_processes > 1 or scales_logits(lm):
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        with torch.autocast(lm.device.type, torch.bfloat16, enabled=self.args.bf16):
            loss_L = labelled_losses(lm, inputs)
        return loss_L.sum() / (len(loss_L) if num_items_in_batch is None else num_items_in_batch)


def labelled_losses(lm: PreTrainedModel, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """Cross-entropy of each labelled token (float32 [L]). Paper: Eq. (7)."""
    body = lm.get_base_model().base_model if hasattr(lm, "get_base_model") else lm.base_model
    hidden_BTH = body(
        input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]
    ).last_hidden_state
    next_BT = inputs["labels"][:, 1:]
    labelled_BT = next_BT != IGNORED
    logits_LV = lm.get_output_embeddings()(hidden_BTH[:, :-1][labelled_BT])
    return functional.cross_entropy(logits_LV.float(), next_BT[labelled_BT], reduction="none")


def scales_logits(lm: PreTrainedModel) -> bool:
    """Whether the model does more with its hidden states than one linear layer."""
    settings = lm.config.get_text_config()
    return any(getattr(settings, name, None) is not None for name in SCALES)


def _train(
    config: Config, lm: LanguageModel, rows: list[Row], folder: Path
) -> tuple[PreTrainedModel, list[float], float]:
    """The trained model, its loss twenty times on the way, and the seconds it took."""
    steps = _steps(config, len(rows))
    if steps == 0:
        return lm.model, [], 0.0
    rank = config.backbone.lora_rank
    columns = {"input_ids": [row.ids for row in rows], "labels": [row.labels for row in rows]}
    trainer = Trainer(
        model=lm.model,
        args=_arguments(config, steps, folder / "trainer"),
        train_dataset=Dataset.from_dict(columns),
        processing_class=lm.tokens.tokenizer,
        peft_config=lora(lm.tokens, lm.model, rank) if rank else None,
    )
    records, seconds = training.run(trainer, "pretrain", "continual pretraining", "steps", steps)
    losses = [record["loss"] for record in records]
    return (trainer.model.merge_and_unload() if rank else trainer.model), losses, seconds


def _tokens_seen(config: Config, rows: list[Row]) -> int:
    """The training tokens of all steps, for the mean row."""
    seen = _steps(config, len(rows)) * config.pretrain.batch_size
    return round(seen * sum(len(row.ids) for row in rows) / len(rows))


def _steps(config: Config, rows: int) -> int:
    steps = math.ceil(config.pretrain.epochs * rows / config.pretrain.batch_size)
    return min(steps, config.pretrain.max_steps or steps)


def _arguments(config: Config, steps: int, folder: Path) -> SFTConfig:
    on_gpu = device() == "cuda"
    return SFTConfig(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=config.pretrain.batch_size,
        learning_rate=config.pretrain.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=0.05,
        max_grad_norm=1.0,
        weight_decay=0.01,
        bf16=bf16_is_fast(),
        use_cpu=not on_gpu,
        activation_checkpointing=on_gpu,
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
        logging_steps=max(1, steps // 20),
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=config.seed,
    )


def _perplexities(lm: LanguageModel, material: Material, when: str) -> dict[str, Any]:
    """Of y, of y without its special tokens (they are new to the base model), of general text."""
    markers = set(lm.tokens.marker_ids)
    texts = [
        Row(row.ids, [IGNORED if label in markers else label for label in row.labels])
        for row in material.places
    ]
    return {
        f"perplexity_y_{when}": perplexity(lm, material.places),
        f"perplexity_y_text_{when}": perplexity(lm, texts),
        f"perplexity_general_{when}": perplexity(lm, material.general),
    }


def perplexity(lm: LanguageModel, rows: list[Row]) -> float | None:
    """exp of the mean cross-entropy of the labelled tokens; None without rows."""
    if not rows:
        return None
    lm.model.eval()
    total, count = 0.0, 0
    ordered = sorted(rows, key=lambda row: len(row.ids))
    with torch.no_grad():
        for start in range(0, len(ordered), EVALUATED_AT_ONCE):
            loss, labelled = _loss_of(lm, ordered[start : start + EVALUATED_AT_ONCE])
            total, count = total + loss, count + labelled
    return round(math.exp(total / count), 4)


def _loss_of(lm: LanguageModel, rows: list[Row]) -> tuple[float, int]:
    batch = {key: value.to(lm.model.device) for key, value in _batch(lm.tokens, rows).items()}
    labelled = int((batch["labels"][:, 1:] != IGNORED).sum())
    return float(lm.model(**batch).loss) * labelled, labelled


def _batch(tokens: KeywordTokenizer, rows: list[Row]) -> dict[str, torch.Tensor]:
    batch = tokens.pad([row.ids for row in rows])
    labels_BT = torch.full_like(batch["input_ids"], IGNORED)
    for number, row in enumerate(rows):
        labels_BT[number, : len(row.labels)] = torch.tensor(row.labels)
    return batch | {"labels": labels_BT}
