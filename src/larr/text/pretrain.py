"""Stage 1, continual pretraining: predicts the texts of a place from its name and location.

Paper: section 3.1, Eq. (1)-(7). Shapes: B texts, T tokens, H hidden units, L labelled positions,
V tokens of the vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from datasets import Dataset
from peft import get_peft_model
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel, TrainerCallback, TrainingArguments, set_seed

from larr import artifacts
from larr.config import Config
from larr.config.text import InstructConfig, PretrainConfig
from larr.group import ALONE, Group, process_group
from larr.progress import console
from larr.text import training
from larr.text.backbone import KeywordTokenizer, LanguageModel, load_base, lora
from larr.text.corpus import Description, descriptions, general_text
from larr.text.training import ParallelTrainer, collect, divide, process_count

IGNORED = -100
"""The label of tokens that are not predicted, as defined by torch and transformers."""
HELD_OUT_PLACES = 0.03
MAX_HELD_OUT_PLACES = 300
TITLES = {"pretrain": "continual pretraining", "instruct": "instruction tuning"}
MASKED = 0.3
"""Share of the labelled tokens that are masked for an encoder."""
HELD_OUT_GENERAL_TOKENS = 16_384
EVALUATION_BATCH = 16
MIN_GENERAL_SHARE = 0.9
"""Warn if less than this share of `pretrain.general_ratio` is available."""


Row = dict[Literal["input_ids", "labels"], list[int]]
"""The token ids of a sequence, and its labels."""


def pretrain(config: Config) -> None:
    """Trains the language model on the descriptions of places, mixed with general text.

    A causal language model predicts the next token, an encoder the masked tokens; a model without a
    head for this, such as most sentence encoders, is not trained.
    """
    artifacts.require(config, "prepare")
    set_seed(config.seed)
    lm = load_base(config)  # may fail, so load it before deleting the previous run
    if lm.predicts is None:
        console.print(
            f"  {config.backbone.model} has no head for predicting tokens; stage 1 is skipped"
        )
    with artifacts.building(config, "pretrain") as work:
        train, held_out, general_ratio = gather(config, lm.tokens)
        steps = step_count(config, len(train)) if lm.predicts else 0
        processes = process_count(config, "pretrain", steps)
        with process_group(processes, train_in_worker, config) as group:
            figures: dict[str, Any] = {
                f"perplexity_{name}_before": perplexity(lm, rows) for name, rows in held_out.items()
            }
            trained, figures["loss"], seconds = train_model(config, lm, train, steps, group=group)
        lm = LanguageModel(trained, lm.tokens)
        figures |= {
            f"perplexity_{name}_after": perplexity(lm, rows) for name, rows in held_out.items()
        }
        lm.model.save_pretrained(work.folder)
        lm.tokens.tokenizer.save_pretrained(work.folder)
        mean_length = sum(len(row["input_ids"]) for row in train) / len(train)
        tokens = round(steps * config.pretrain.batch_size * mean_length)
        work.measured(tokens, "tokens")
        work.figures |= figures | {
            "train_tokens": tokens,
            "held_out_places": len(held_out["y"]),
            "general_ratio": general_ratio,
            "tokens_per_second": round(tokens / seconds, 1) if seconds else 0.0,
        }


def train_in_worker(config: Config, group: Group) -> None:
    """Trains in another process of the group."""
    set_seed(config.seed)
    lm = load_base(config)
    rows, _, _ = gather(config, lm.tokens)
    steps = step_count(config, len(rows))
    train_model(config, lm, rows, steps, group=group)


def gather(
    config: Config, tokens: KeywordTokenizer
) -> tuple[list[Row], dict[str, list[Row]], float]:
    """Returns training rows, held-out rows, and the general tokens per token of the places.

    The perplexity is measured on the held-out `y`, places; `y_text`, the same without labels on the
    markers, for a fair comparison with the base model, which does not know them; and `general`,
    general text, to detect forgetting (the built-in model was trained on the built-in text).
    """
    random, markers = np.random.default_rng(config.seed), set(tokens.marker_ids)
    train, held_out = _split(descriptions(config), random)
    rows = [describe(tokens, description, random) for description in train]
    if tokens.shortened:
        console.print(
            f"  {tokens.shortened:,} of {len(rows):,} descriptions exceed backbone.max_length "
            f"({tokens.max_length} tokens); their longest texts are truncated"
        )
    place_tokens, size = sum(len(row["input_ids"]) for row in rows), tokens.max_length
    general_tokens = config.pretrain.general_ratio * place_tokens
    blocks = _general_blocks(config, tokens, HELD_OUT_GENERAL_TOKENS + general_tokens)
    # hold out at least a tenth, even of a short text
    mixed_in = min(round(general_tokens / size), len(blocks) * 9 // 10)
    ratio = round(mixed_in * size / place_tokens, 2)
    if ratio < MIN_GENERAL_SHARE * config.pretrain.general_ratio:
        console.print(
            f"  there are {ratio} tokens of general text per token of the places, but "
            f"pretrain.general_ratio is {config.pretrain.general_ratio:g}; provide a longer "
            "pretrain.general_text"
        )
    y = [describe(tokens, description, random) for description in held_out]
    y_text: list[Row] = [
        row | {"labels": [IGNORED if label in markers else label for label in row["labels"]]}
        for row in y
    ]
    measured = {"y": y, "y_text": y_text, "general": blocks[mixed_in:]}
    return rows + blocks[:mixed_in], measured, ratio


def _general_blocks(config: Config, tokens: KeywordTokenizer, limit: float) -> list[Row]:
    """Returns about `limit` tokens of general text as rows of full length, with all labels."""
    end, size = tokens.tokenizer.eos_token_id, tokens.max_length
    ids: list[int] = []
    for document in general_text(config):
        ids += tokens.text_ids([document])[0] + ([] if end is None else [end])
        if len(ids) >= limit:
            break
    blocks = [ids[start : start + size] for start in range(0, len(ids) - size + 1, size)]
    return [{"input_ids": block, "labels": block} for block in blocks]


def describe(
    tokens: KeywordTokenizer, description: Description, random: np.random.Generator
) -> Row:
    """Returns [x_i, y_i] with labels on y_i only and the keywords of y_i in random order.

    Paper: Eq. (5)-(7), decision 3.
    """
    prompt, target = description.prompt, description.target
    ids = tokens.encode([*prompt, *(target[index] for index in random.permutation(len(target)))])
    # measured in the encoded row, since `encode` may have truncated the prompt
    start = ids.index(tokens.ends[prompt[-1][0]]) + 1 if prompt else len(tokens.prefix)
    stop = len(ids) - len(tokens.suffix)  # tokens such as [SEP] are not part of y
    labels = [IGNORED] * start + ids[start:stop] + [IGNORED] * len(tokens.suffix)
    return {"input_ids": ids, "labels": labels}


def _split(
    places: list[Description], random: np.random.Generator
) -> tuple[list[Description], list[Description]]:
    """Returns training and held-out places.

    Branches of a chain have the same texts and are held out only if there are no other places. If
    no place remained for training, trains on all of them.
    """
    single = [index for index, place in enumerate(places) if place.chain is None]
    candidates = single or list(range(len(places)))
    count = min(MAX_HELD_OUT_PLACES, max(1, round(HELD_OUT_PLACES * len(places))))
    held_out = set(random.permutation(candidates)[:count].tolist())
    train = [place for index, place in enumerate(places) if index not in held_out]
    return train or places, [places[index] for index in sorted(held_out)]


class Collator:
    """Builds a batch, in which the label of a position is the token predicted from its state.

    A causal language model predicts the next token. For an encoder some labelled tokens are masked
    and only their labels kept: masked-language modelling of y, without x and markers.
    """

    def __init__(self, lm: LanguageModel, seed: int) -> None:
        self.tokens, self.masks = lm.tokens, lm.predicts == "masked"
        self.random = torch.Generator().manual_seed(seed)

    def __call__(self, rows: Sequence[Row]) -> dict[str, torch.Tensor]:
        """Returns `input_ids`, `attention_mask` and `labels` (int64 [B, T])."""
        batch = self.tokens.pad([row["input_ids"] for row in rows])
        labels = [torch.tensor(row["labels"]) for row in rows]
        labels_BT = pad_sequence(labels, batch_first=True, padding_value=IGNORED)
        if self.masks:
            ids_BT = batch["input_ids"]
            kept_BT = torch.isin(ids_BT, torch.tensor(self.tokens.marker_ids))
            chosen_BT = torch.rand(ids_BT.shape, generator=self.random) < MASKED
            chosen_BT &= (labels_BT != IGNORED) & ~kept_BT
            ids_BT[chosen_BT] = self.tokens.tokenizer.mask_token_id
            labels_BT = labels_BT.masked_fill(~chosen_BT, IGNORED)
        else:
            labels_BT = functional.pad(labels_BT[:, 1:], (0, 1), value=IGNORED)
        return batch | {"labels": labels_BT}


class LabelledTokensTrainer(ParallelTrainer):
    """A trainer with a loss that applies the head to labelled positions only.

    Half of the positions have no label, and the head dominates the cost of a small model.
    """

    def compute_loss(self, model: Any, inputs: dict[str, torch.Tensor], *_: Any, **__: Any) -> Any:
        """Returns Eq. (7), the mean cross-entropy of the labelled tokens of a batch.

        Each process of a group reads a part of the rows.
        """
        lm = self.accelerator.unwrap_model(model)
        rows = {name: self.group.part(tensor).contiguous() for name, tensor in inputs.items()}
        with torch.autocast(lm.device.type, torch.bfloat16, enabled=self.args.bf16):
            loss = labelled_losses(lm, rows).sum()
        return self.group.all_reduce(loss / (inputs["labels"] != IGNORED).sum().clamp(min=1))


def labelled_losses(lm: PreTrainedModel, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """Returns the cross-entropy of each labelled token (float32 [L]). Paper: Eq. (7)."""
    labels_BT = inputs["labels"]
    labelled_BT = labels_BT != IGNORED
    select = lm.get_output_embeddings().register_forward_pre_hook(
        lambda _, states: (states[0][labelled_BT][None],)
    )
    with select:
        logits_1LV = lm(
            input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]
        ).logits
    return functional.cross_entropy(logits_1LV[0].float(), labels_BT[labelled_BT], reduction="none")


def step_count(config: Config, rows: int) -> int:
    """Returns the number of training steps for `rows` rows."""
    settings = config.pretrain
    steps = math.ceil(settings.epochs * rows / settings.batch_size)
    return min(steps, settings.max_steps or steps)


def train_model(
    config: Config,
    lm: LanguageModel,
    rows: list[Row],
    steps: int,
    callbacks: Sequence[TrainerCallback] = (),
    group: Group = ALONE,
    section: Literal["pretrain", "instruct"] = "pretrain",
) -> tuple[PreTrainedModel, list[float], float]:
    """Returns the trained model, about twenty losses, and the seconds.

    `section` is that of the batch size and the learning rate.
    """
    if steps == 0:
        return lm.model, [], 0.0
    settings: PretrainConfig | InstructConfig = getattr(config, section)
    arguments = TrainingArguments(
        **training.arguments(config, settings, steps),
        max_steps=steps,
        per_device_train_batch_size=settings.batch_size,
        warmup_steps=0.05,
    )
    model: Any = lm.model
    if rank := config.backbone.lora_rank:
        set_seed(config.seed)
        model = get_peft_model(model, lora(lm.tokens, model, rank))
    trainer = LabelledTokensTrainer(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        data_collator=Collator(lm, config.seed),
        callbacks=[*callbacks],
    )
    trainer.group = group
    group.start(model)
    whole: Any = divide(model, group)
    entries, seconds = training.run(trainer, section, TITLES[section], steps)
    collect(model, whole)
    trained = whole.float().merge_and_unload() if rank else whole
    return trained, [entry["loss"] for entry in entries], seconds


def perplexity(lm: LanguageModel, rows: list[Row]) -> float | None:
    """Returns exp of the mean cross-entropy of the labelled tokens (for encoders, masked ones).

    Returns None without such tokens or without a head.
    """
    if lm.predicts is None:
        return None
    lm.model.eval()
    total, count = 0.0, 0
    collate = Collator(lm, seed=0)  # masks the same tokens before and after training
    by_length = sorted(rows, key=lambda row: len(row["input_ids"]))  # for less padding
    with torch.no_grad():
        for start in range(0, len(by_length), EVALUATION_BATCH):
            batch = collate(by_length[start : start + EVALUATION_BATCH])
            batch = {name: tensor.to(lm.model.device) for name, tensor in batch.items()}
            losses_L = labelled_losses(lm.model, batch)
            total += float(losses_L.sum(dtype=torch.float64))
            count += len(losses_L)
    return round(math.exp(total / count), 4) if count else None
