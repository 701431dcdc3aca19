"""Stage 2, contrastive tuning: the language model becomes a text embedding model.

Paper: section 3.2, Eq. (10)-(21). Shapes: B triples, N texts, H hidden units, D the vector's
length.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from peft import get_peft_model
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from torch import Tensor, nn
from torch.utils.data import BatchSampler, SequentialSampler
from transformers import set_seed

from larr import artifacts
from larr.config import Config
from larr.config.text import ContrastConfig
from larr.losses import contrastive_terms, false_negatives, pair_loss
from larr.progress import console
from larr.text import training
from larr.text.backbone import KeywordText, KeywordTokenizer, load_base, load_language_model, lora
from larr.text.encoder import as_encoder, compute, from_input, load_encoder
from larr.text.pairs import EMPTY, VIEWS, examples, held_out
from larr.text.retrieval import recalls

GROUP = 32
"""Texts of like length that go through the model together, for less padding."""
SAMPLE = 400
"""Texts of each view from which the head's start and the spread of the vectors are computed."""
SHRINKAGE = 0.05
"""Part of the mean variance added to each, so that small axes are not blown up."""
SMALL_PARAMETERS = 3_000_000
"""A model with fewer parameters is trained by one thread."""
COLLAPSED = 0.05
"""A spread of the vectors below this means that nothing was learned."""


def contrast(config: Config) -> None:
    """Trains the text embedding model on users, places and orders, and measures retrieval.

    A training can collapse: all texts get the same vector. Such a model is reported and replaced
    by the one that it started from, whose vectors at least differ.
    """
    with artifacts.making(config, "contrast") as work:
        set_seed(config.seed)
        apart = held_out(config)
        rows = examples(config, apart)
        texts = [text for view in VIEWS for text in rows[view][:SAMPLE] if text != EMPTY]
        sample = [from_input(text) for text in texts]
        encoder = _starting_model(config, sample)
        curve, seconds = _train(config, encoder, rows, work.folder)
        vectors_ND = compute(encoder, sample, config.embed.batch_tokens)
        # 1 less the squared length of the mean unit vector; near 0 when all are equal
        spread = round(float(1 - (vectors_ND.mean(axis=0) ** 2).sum()), 4)
        if collapsed := spread < COLLAPSED:
            console.print(
                f"  contrastive tuning collapsed: all texts had nearly one vector (spread "
                f"{spread}), so the model from before it is kept. The texts may not show which "
                "place a user orders from; else lower contrast.learning_rate or "
                "contrast.batch_size, or raise contrast.triples"
            )
            encoder = _starting_model(config, sample)
        if config.backbone.lora_rank:
            encoder[0].model = encoder[0].model.merge_and_unload()
        encoder.save(str(work.folder), create_model_card=False)
        del encoder  # large models would not fit into memory together
        lm, pooling = artifacts.folder(config, "pretrain"), config.contrast.pooling
        triples = len(rows["keys"])
        work.measured(triples, "triples")
        work.figures |= {
            "recall_at_10": {
                "untuned": recalls(config, apart, as_encoder(load_base(config), None, pooling)),
                "cpt_only": recalls(
                    config, apart, as_encoder(load_language_model(lm, config), None, pooling)
                ),
                "whole": recalls(config, apart, load_encoder(work.folder)),
            },
            "loss": curve,
            "triples_per_second": round(triples / seconds, 1),
            "spread": spread,
            "collapsed": collapsed,
        }


def _starting_model(config: Config, sample: list[list[KeywordText]]) -> SentenceTransformer:
    """Returns the model of stage 1 with a whitening head, from which the training starts."""
    lm = load_language_model(artifacts.folder(config, "pretrain"), config)
    pooling = config.contrast.pooling
    encoder = as_encoder(lm, config.embed.dimension, pooling)
    states_NH = compute(as_encoder(lm, None, pooling), sample, config.embed.batch_tokens)
    whiten(encoder, states_NH)
    if config.backbone.lora_rank:
        body = encoder[0].model
        encoder[0].model = get_peft_model(body, lora(lm.tokens, body, config.backbone.lora_rank))
    return encoder


def whiten(encoder: SentenceTransformer, states_NH: np.ndarray) -> None:
    """Sets the head's weights so that these hidden states get mean 0 and equal variances.

    Hidden states of a language model point nearly the same way. Trained from there, InfoNCE at a
    low temperature first makes all vectors equal, and may never leave that state.
    """
    head = encoder[2].linear
    mean_H = states_NH.mean(axis=0, dtype=np.float64)
    centred_NH = states_NH - mean_H
    variances_H, axes_HH = np.linalg.eigh(centred_NH.T @ centred_NH / len(states_NH))
    scale_H = 1 / np.sqrt(variances_H + SHRINKAGE * variances_H.mean() + 1e-12)
    main_DH = (axes_HH * scale_H).T[::-1][: head.out_features] / np.sqrt(head.out_features)
    with torch.no_grad():
        head.weight.zero_()
        head.weight[: len(main_DH)] = torch.tensor(main_DH.copy())
        head.bias.zero_()
        head.bias[: len(main_DH)] = torch.tensor(-main_DH @ mean_H)


class Collator:
    """Builds a batch in which each distinct text of a step is encoded once.

    The texts are sorted by length and cut into groups of about GROUP. The batch holds the
    `input_ids` and `attention_mask` of each group, and as `label` for each triple the positions of
    its six texts in that order (-1 for none), then its keys (int64 [B, 9]).
    """

    valid_label_columns = ("label",)  # the trainer asks for them

    def __init__(self, tokens: KeywordTokenizer) -> None:
        self.tokens = tokens

    def __call__(self, features: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Returns the batch of some rows of `larr.text.pairs.examples`."""
        texts = sorted({row[view] for row in features for view in VIEWS} - {EMPTY})
        encoded = self.tokens.encode_batch([from_input(text) for text in texts])
        order = sorted(range(len(texts)), key=lambda number: len(encoded[number]))
        batch: dict[str, Tensor] = {}
        groups = np.array_split(np.array(order), max(1, len(order) // GROUP))
        for group, numbers in enumerate(groups):
            padded = self.tokens.pad([encoded[number] for number in numbers])
            batch |= {f"{group}_{key}": tensor for key, tensor in padded.items()}
        positions = {texts[number]: position for position, number in enumerate(order)}
        positions[EMPTY] = -1
        batch["label"] = torch.tensor(
            [[positions[row[view]] for view in VIEWS] + row["keys"] for row in features]
        )
        return batch


class TripleLoss(nn.Module):
    """L_2: the three losses of one step. Paper: Eq. (12)-(21)."""

    def __init__(self, model: SentenceTransformer, contrast: ContrastConfig, bf16: bool) -> None:
        super().__init__()
        self.model = model
        self.contrast = contrast
        self.bf16 = bf16

    def forward(self, groups: list[dict[str, Tensor]], labels: Tensor) -> dict[str, Tensor]:
        """Returns the three terms of L_2 for a batch of `Collator`."""
        with torch.autocast(labels.device.type, torch.bfloat16, enabled=self.bf16):
            vectors = [self.model(group)["sentence_embedding"] for group in groups]
        vectors_ND = torch.cat(vectors).float()
        at = dict(zip(VIEWS, labels[:, : len(VIEWS)].T, strict=True))
        user, place, chain = labels[:, len(VIEWS) :].T
        settings = self.contrast
        losses = (
            self._pair(vectors_ND, at["profile"], at["action"], [user]),
            self._pair(vectors_ND, at["business"], at["basic"], [place, chain]),
            self._pair(vectors_ND, at["user"], at["place"], [user, place, chain]),
        )
        lambdas = (settings.lambda_user_user, settings.lambda_place_place)
        return contrastive_terms(losses, (*lambdas, settings.lambda_user_place))

    def _pair(
        self, vectors_ND: Tensor, first_B: Tensor, second_B: Tensor, keys: list[Tensor]
    ) -> Tensor:
        """Returns one of the three losses, over the triples that have both texts.

        Triples that share a user, place, chain or text are no negatives of each other: they would
        push apart what belongs together (decisions 9, 10).
        """
        present = (first_B >= 0) & (second_B >= 0)
        if int(present.sum()) < 2:
            return vectors_ND.sum() * 0  # no negatives; a zero that backward accepts
        first_B, second_B = first_B[present], second_B[present]
        same = torch.stack([first_B, second_B, *(key[present] for key in keys)], dim=1)
        excluded_BB = false_negatives(same) & self.contrast.mask_false_negatives
        return pair_loss(
            vectors_ND[first_B], vectors_ND[second_B], excluded_BB, self.contrast.temperature
        )


class NoModelCardTrainer(SentenceTransformerTrainer):
    """The library's trainer without its model card, for which it would read all examples again."""

    def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
        """Adds none."""


def _train(
    config: Config, encoder: SentenceTransformer, rows: dict[str, list[Any]], folder: Path
) -> tuple[list[dict[str, float]], float]:
    """Trains in place; returns the losses at twenty points of the training, and the seconds."""
    batch = min(config.contrast.batch_size, config.contrast.triples)
    steps = config.contrast.triples // batch
    arguments = SentenceTransformerTrainingArguments(
        **training.arguments(folder, config.contrast.learning_rate, steps, config.seed),
        num_train_epochs=1,
        per_device_train_batch_size=batch,
        warmup_steps=0.1,
        # `examples` has put the rows into batches already
        batch_sampler=lambda dataset, batch_size, **_: BatchSampler(
            SequentialSampler(dataset), batch_size, drop_last=True
        ),
    )
    trainer = NoModelCardTrainer(
        model=encoder,
        args=arguments,
        train_dataset=Dataset.from_dict(rows),
        loss=TripleLoss(encoder, config.contrast, arguments.bf16),
        data_collator=Collator(encoder[0].tokens),
    )
    threads = torch.get_num_threads()
    if sum(parameter.numel() for parameter in encoder.parameters()) < SMALL_PARAMETERS:
        torch.set_num_threads(1)  # two threads took a quarter more time, waiting for each other
    try:
        entries, seconds = training.run(trainer, "contrast", "contrastive tuning", steps)
    finally:
        torch.set_num_threads(threads)
    names = ("loss", "user_user", "place_place", "user_place")
    return [{name: entry[name] for name in names} for entry in entries], seconds
