"""Stage 2, contrastive tuning: turns the language model into a text embedding model.

Paper: section 3.2, Eq. (10)-(21). Shapes: B triples, K keys, S places shown beside an order
(`contrast.shown`), N texts, C candidates, P places, H hidden units, D vector length.
"""

from __future__ import annotations

from contextlib import nullcontext
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
from torch.nn import functional
from torch.utils.data import BatchSampler, SequentialSampler
from transformers import TrainerCallback, set_seed

from larr import artifacts
from larr.config import Config
from larr.config.text import ContrastConfig
from larr.group import ALONE, Group, process_group
from larr.losses import cosine, false_negatives, info_nce
from larr.progress import console
from larr.text import training
from larr.text.backbone import LanguageModel, Parts, load_base, load_language_model, lora
from larr.text.encoder import as_encoder, compute, from_input, is_large
from larr.text.lower_layers import computed_once
from larr.text.pairs import EMPTY, KEYS, VIEWS, HeldOut, TripleCollator, examples, held_out
from larr.text.ranking_evaluator import Checks
from larr.text.retrieval import recalls
from larr.text.training import ParallelTrainer, collect, divide, process_count

SAMPLE = 400
"""Texts of each view from which the head is initialised."""
SHRINKAGE = 0.05
"""Share of the mean variance added to each, so that whitening does not blow up small axes."""
MAX_ALONE = 0.5
"""A larger share of examples without negatives is reported."""


def contrast(config: Config) -> None:
    """Trains the text embedding model on users, places and orders, and measures retrieval.

    Evaluates the model on held-out orders a few times and keeps the best version. This may be the
    initial one, for example if training collapses all vectors into one.
    """
    with artifacts.building(config, "contrast") as work:
        holdout, pretrained = held_out(config), artifacts.folder(config, "pretrain")
        steps = config.contrast.triples // config.contrast.batch_size
        processes = process_count(config, "contrast", steps)
        with process_group(processes, tune, config, holdout) as group:
            recall = {}  # each model is freed before the next one is read
            if artifacts.read_json(pretrained / artifacts.MANIFEST)["figures"]["train_tokens"]:
                recall["untuned"] = _recalls_before(config, holdout, load_base(config))
            lm = load_language_model(pretrained, config)
            recall["cpt_only"] = _recalls_before(config, holdout, lm)
            del lm
            encoder, figures = tune(config, holdout, group)
        if config.backbone.lora_rank:
            encoder[0].model = encoder[0].model.float().merge_and_unload()
        encoder.save(str(work.folder), create_model_card=False)
        recall["whole"] = recalls(config, holdout, encoder)
        work.measured(figures.pop("triples"), "triples")
        # if stage 1 was skipped, its model is the untuned one
        work.figures |= {"recall_at_10": {"untuned": recall["cpt_only"]} | recall, **figures}


def _recalls_before(config: Config, holdout: HeldOut, lm: LanguageModel) -> dict[str, Any]:
    """Returns the recall of a language model before contrastive tuning."""
    return recalls(config, holdout, as_encoder(lm, None, config.contrast.pooling))


def tune(
    config: Config, holdout: HeldOut, group: Group
) -> tuple[SentenceTransformer, dict[str, Any]]:
    """Trains the model of stage 1 in a process of the group; returns the best version and figures.

    With a group that divides the model, only the first process returns weights.
    """
    set_seed(config.seed)
    lm = load_language_model(artifacts.folder(config, "pretrain"), config)
    rows = examples(config, holdout)
    texts = [text for view in VIEWS for text in rows[view][:SAMPLE] if text != EMPTY]
    encoder = starting_model(config, lm, [from_input(text) for text in texts])
    del lm  # it may have a head
    group.start(encoder)
    whole = divide(encoder, group)
    checks = Checks(config, holdout, encoder, group)
    curve, seconds, steps = train_model(config, encoder, rows, checks, group)
    checks.restore()
    collect(encoder, whole)
    _report(config, rows, checks, steps)
    triples = steps * min(config.contrast.batch_size, config.contrast.triples)
    return whole, {
        "loss": curve,
        "triples": triples,
        "triples_per_second": round(triples / seconds, 1),
        "held_out_auc": checks.auc,
        "kept_step": checks.kept_step if checks.auc else steps,
        "kept_start": bool(checks.auc) and checks.kept_step == 0,
    }


def _report(config: Config, rows: dict[str, list[Any]], checks: Checks, steps: int) -> None:
    """Prints how the kept model ranks held-out orders, and possible reasons for a poor result."""
    alone = without_negatives(config.contrast, rows)
    if alone > MAX_ALONE:
        console.print(
            f"  {alone:.0%} of the examples have no negatives: all others in their batch share the "
            "user, place or chain, and no other place was shown with them. Set "
            "contrast.mask_false_negatives = false, or add impressions without a click"
        )
    if not checks.auc:
        console.print("  there are no held-out orders for evaluation; keeping the last step")
    elif checks.kept_step:
        console.print(
            f"  keeping step {checks.kept_step} of {steps}: ordered places score above others in "
            f"{checks.auc[checks.best]:.1%} of the held-out pairs (before tuning "
            f"{checks.auc[0]:.1%}, chance 50%)"
        )
    else:
        console.print(
            "  contrastive tuning did not improve the ranking; keeping the initial model. Ordered "
            f"places score above others in {checks.auc[0]:.1%} of the held-out pairs before tuning "
            f"and in at most {max(checks.auc[1:]):.1%} during it (chance 50%). The texts may not "
            "reveal where users order; otherwise lower contrast.learning_rate or "
            "contrast.batch_size, or raise contrast.triples"
        )


def without_negatives(contrast: ContrastConfig, rows: dict[str, list[Any]]) -> float:
    """Returns the share of examples whose pair (U, P) has no negatives, in the batch or shown."""
    if not contrast.mask_false_negatives:
        return 0.0
    size = min(contrast.batch_size, len(rows["keys"]))
    batches_NBK = torch.tensor(rows["keys"]).split(size)
    alone = torch.cat([false_negatives(keys_BK).all(dim=1) for keys_BK in batches_NBK])
    has_shown = torch.tensor([bool(texts) for texts in rows["not_taken"]])
    return float((alone & ~has_shown).float().mean())


def starting_model(config: Config, lm: LanguageModel, sample: list[Parts]) -> SentenceTransformer:
    """Returns the model of stage 1 with a whitening head, the start of the training."""
    pooling = config.contrast.pooling
    encoder = as_encoder(lm, config.embed.dimension, pooling)
    states_NH = compute(as_encoder(lm, None, pooling), sample, config.embed.batch_tokens)
    whiten(encoder, states_NH)
    if rank := config.backbone.lora_rank:
        body = encoder[0].model
        adapters = lora(lm.tokens, body, rank, config.backbone.lora_layers)
        encoder[0].model = get_peft_model(body, adapters)
    return encoder


def whiten(encoder: SentenceTransformer, states_NH: np.ndarray) -> None:
    """Sets the head's weights so that it maps these hidden states to mean 0 and equal variances.

    Hidden states of a language model all have nearly the same direction. Without whitening, InfoNCE
    at a low temperature first collapses all vectors into one and may never recover.
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


class TripleLoss(nn.Module):
    """L_2, the three losses of one step. Paper: Eq. (12)-(21).

    `log_share_P` contains the logarithm of each place's share of the examples, by place key.
    """

    def __init__(
        self,
        model: SentenceTransformer,
        contrast: ContrastConfig,
        log_share_P: Tensor,
        *,
        bf16: bool,
        group: Group = ALONE,
    ) -> None:
        super().__init__()
        self.model = model
        self.contrast = contrast
        self.log_share_P: Tensor
        self.register_buffer("log_share_P", log_share_P)
        self.bf16 = bf16
        self.group = group

    def forward(self, groups: list[dict[str, Tensor]], labels: Tensor) -> dict[str, Tensor]:
        """Returns the three terms of L_2 for a batch from `TripleCollator`.

        Paper: L_2 = lambda_1 L^UU + lambda_2 L^PP + lambda_3 L^UP, Eq. (21).
        """
        with torch.autocast(labels.device.type, torch.bfloat16, enabled=self.bf16):
            own = [self.model(texts)["sentence_embedding"] for texts in self.group.part(groups)]
        vectors_ND = self.group.gather_texts(own, [len(texts["input_ids"]) for texts in groups])
        of_view = dict(zip(VIEWS, labels[:, : len(VIEWS)].T, strict=True))
        keys_BK, shown_BS = labels[:, len(VIEWS) :].split([KEYS, self.contrast.shown], dim=1)
        user, place, chain = keys_BK.T
        uu = self._pair(vectors_ND, of_view["profile"], of_view["action"], [user])
        pp = self._pair(vectors_ND, of_view["business"], of_view["basic"], [place, chain])
        up = self._user_place(vectors_ND, of_view["user"], of_view["place"], keys_BK, shown_BS)
        return {
            "user_user": self.contrast.lambda_user_user * uu,
            "place_place": self.contrast.lambda_place_place * pp,
            "user_place": self.contrast.lambda_user_place * up,
        }

    def _pair(
        self, vectors_ND: Tensor, first_B: Tensor, second_B: Tensor, keys: list[Tensor]
    ) -> Tensor:
        """Returns L^UU or L^PP over the triples that have both texts. Paper: Eq. (14), (16).

        Triples that share a user, place, chain or text are not used as negatives of each other,
        which would push related texts apart (decisions 9, 10).
        """
        present = (first_B >= 0) & (second_B >= 0)
        if int(present.sum()) < 2:
            return vectors_ND.sum() * 0  # no negatives: a zero with a gradient
        first_B, second_B = first_B[present], second_B[present]
        same = torch.stack([first_B, second_B, *(key[present] for key in keys)], dim=1)
        excluded_BB = false_negatives(same) & self.contrast.mask_false_negatives
        scores_BB = cosine(vectors_ND[first_B], vectors_ND[second_B])
        return info_nce(scores_BB, excluded_BB, self.contrast.temperature)

    def _user_place(
        self,
        vectors_ND: Tensor,
        user_B: Tensor,
        place_B: Tensor,
        keys_BK: Tensor,
        shown_BS: Tensor,
    ) -> Tensor:
        """Returns L^UP of Eq. (20); negatives are the batch's other places and S places shown.

        Batches contain places in proportion to their orders; subtracting the logarithm of the share
        from the scores corrects this. Places shown with an order are negatives of that order only.
        """
        settings = self.contrast
        same = torch.cat([torch.stack([user_B, place_B], dim=1), keys_BK], dim=1)
        excluded_BB = false_negatives(same) & settings.mask_false_negatives
        shown_N = torch.unique(shown_BS[shown_BS >= 0])
        beside_BN = (shown_BS[:, :, None] == shown_N).any(dim=1) & (place_B[:, None] != shown_N)
        scores_BC = cosine(vectors_ND[user_B], vectors_ND[torch.cat([place_B, shown_N])])
        if settings.correct_popularity:
            share_B = settings.temperature * self.log_share_P[keys_BK[:, 1]]
            scores_BC = scores_BC - functional.pad(share_B, (0, len(shown_N)))
        excluded_BC = torch.cat([excluded_BB, ~beside_BN], dim=1)
        return info_nce(scores_BC, excluded_BC, settings.temperature)


class NoModelCardTrainer(ParallelTrainer, SentenceTransformerTrainer):
    """The library's trainer without a model card, which would take another pass over the data."""

    def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
        """Does nothing."""


def train_model(
    config: Config,
    encoder: SentenceTransformer,
    rows: dict[str, list[Any]],
    checks: TrainerCallback,
    group: Group = ALONE,
) -> tuple[list[dict[str, float]], float, int]:
    """Trains `encoder` in place; returns about twenty losses, the seconds and the steps."""
    batch = min(config.contrast.batch_size, config.contrast.triples)
    steps = config.contrast.triples // batch
    arguments = SentenceTransformerTrainingArguments(
        **training.arguments(config, config.contrast, steps),
        num_train_epochs=1,
        per_device_train_batch_size=batch,
        warmup_steps=0.1,
        # `examples` returns the rows in batch order
        batch_sampler=lambda dataset, batch_size, **_: BatchSampler(
            SequentialSampler(dataset), batch_size, drop_last=True
        ),
    )
    place_N = torch.tensor(rows["keys"])[:, 1]
    log_share_P = (torch.bincount(place_N) / len(place_N)).log()
    trainer = NoModelCardTrainer(
        model=encoder,
        args=arguments,
        train_dataset=Dataset.from_dict(rows),
        loss=TripleLoss(encoder, config.contrast, log_share_P, bf16=arguments.bf16, group=group),
        data_collator=TripleCollator(
            encoder[0].tokens, config.contrast.shown, large=is_large(encoder), processes=group.size
        ),
        callbacks=[checks],
    )
    trainer.group = group
    if is_large(encoder):
        for module in encoder.modules():
            if hasattr(module, "cast_input_dtype_enabled"):
                module.cast_input_dtype_enabled = False  # autocast would undo the cast
    tuned = config.backbone.lora_layers if config.backbone.lora_rank else 0
    if group.divides:
        # a process that kept the states of the lower layers would not take part in gathering them
        tuned = 0
    lower = computed_once(encoder[0].model.get_base_model(), tuned) if tuned else nullcontext()
    threads = torch.get_num_threads()
    if not is_large(encoder):
        torch.set_num_threads(1)  # two threads wait for each other and take a quarter more time
    try:
        with lower:
            entries, seconds = training.run(trainer, "contrast", "contrastive tuning", steps)
    finally:
        torch.set_num_threads(threads)
    names = ("loss", "user_user", "place_place", "user_place")
    curve = [{name: entry[name] for name in names} for entry in entries]
    return curve, seconds, trainer.state.global_step
