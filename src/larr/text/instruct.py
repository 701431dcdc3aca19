"""Instruction tuning: the LM learns to continue knowledge about a user with the next order.

This is HKFR (arXiv 2308.03333). The knowledge is one text, the scene keyword `instruct.knowledge`:
its template fuses what the user ordered, clicked and left, where and when, before the day of the
order, and `instruct.summariser` may rewrite it. The answers are short texts of the ordered place,
such as its category. An instruction has the form of stage 1, `<user_knowledge> ...
</user_knowledge><poi_kind> ... </poi_kind>`, with labels on the answer only.

Shapes: N orders, B texts, T tokens of a batch, A answers, S tokens of all answers, H hidden units,
V tokens of the vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Module
from torch import Tensor
from transformers import set_seed

from larr import artifacts
from larr.config import Config
from larr.errors import ConfigError, DataError
from larr.progress import console
from larr.text.backbone import KeywordText, LanguageModel, load_language_model
from larr.text.corpus import Description
from larr.text.encoder import compute
from larr.text.pairs import held_out, sample_orders
from larr.text.pretrain import describe, train_model
from larr.text.summaries import summarised

PASS_TOKENS = 2_048
"""Tokens of one pass of the LM, whose logits take 400 MB with SmolLM2's vocabulary."""
ANSWERS = "answers.parquet"
"""The distinct answers: keyword and text, and the number of training orders."""
EVALUATED = 2_000
"""Maximum number of orders for an evaluation."""


def instruct(config: Config) -> None:
    """Trains the LM of stage 1 to answer what a user orders next, and evaluates it.

    Orders of held-out users and rows are evaluated, as in stage 2. Raises ConfigError for an LM
    that does not predict next tokens, or for too many answers.
    """
    artifacts.require(config, "prepare", "pretrain")
    set_seed(config.seed)
    lm = load_language_model(artifacts.folder(config, "pretrain"), config)
    if lm.predicts != "next":
        raise ConfigError(
            f"instruct: {config.backbone.model} does not predict next tokens; set backbone.model "
            "to a causal language model"
        )
    settings, holdout = config.instruct, held_out(config)
    with artifacts.building(config, "instruct") as work:
        orders = known_orders(config, holdout.is_trained)
        answers = distinct_answers(config, orders)
        rows = instructions(lm, config, orders)
        steps = math.ceil(settings.epochs * len(rows) / settings.batch_size)
        trained, losses, _ = train_model(config, lm, rows, steps, section="instruct")
        trained.save_pretrained(work.folder)
        lm.tokens.tokenizer.save_pretrained(work.folder)
        answers.write_parquet(work.folder / ANSWERS)
        work.measured(round(settings.epochs * len(rows)), "instructions")
        model = as_predictor(LanguageModel(trained, lm.tokens), answers)
        is_held_out = holdout.is_user | holdout.is_row
        others = known_orders(config, is_held_out)
        work.figures |= {
            "loss": losses,
            "answers": len(answers),
            "held_out": accuracies(config, model, answers, others),
            "trained": accuracies(config, model, answers, orders),
        }
        for name, shares in work.figures["held_out"].items():
            console.print(
                f"  {name}: right in {shares['model']:.0%} of {shares['orders']:,} held-out "
                f"orders; the most frequent one in {shares['popular']:.0%}, that of the user in "
                f"{shares['own']:.0%}"
            )


def known_orders(config: Config, chosen: pl.Expr) -> pl.DataFrame:
    """Returns a sample of orders that have knowledge, with its summaries."""
    name = config.instruct.knowledge
    orders = sample_orders(config, chosen, config.instruct.orders).drop_nulls(name)
    return orders.with_columns(summarised(config, orders[name]).alias(name))


def instructions(lm: LanguageModel, config: Config, orders: pl.DataFrame) -> list[Any]:
    """Returns the token ids and labels of each order and answer."""
    random, settings = np.random.default_rng(config.seed), config.instruct
    rows = []
    for order in orders.iter_rows(named=True):
        prompt = ((settings.knowledge, order[settings.knowledge]),)
        for name in settings.answers:
            if order[name] is not None:
                target = ((name, order[name]),)
                rows.append(describe(lm.tokens, Description(prompt, target, None), random))
    return rows


def distinct_answers(config: Config, orders: pl.DataFrame) -> pl.DataFrame:
    """Returns the distinct answers of training orders, in the order of `instruct.answers`.

    The most frequent one of each keyword comes first. Raises DataError if there are none, and
    ConfigError if they do not fit into a vector.
    """
    parts = [
        orders.select(keyword=pl.lit(name), text=name)
        .drop_nulls()
        .group_by("keyword", "text")
        .agg(orders=pl.len())
        .sort("orders", "text", descending=[True, False])
        for name in config.instruct.answers
    ]
    answers = pl.concat(parts)
    if not len(answers):
        raise DataError(
            f"no training order has texts of {config.instruct.knowledge} and of "
            f"{', '.join(config.instruct.answers)}; check their templates"
        )
    if len(answers) > config.embed.dimension:
        raise ConfigError(
            f"instruct.answers: {', '.join(config.instruct.answers)} have {len(answers)} distinct "
            f"texts, but a vector holds the probabilities of at most {config.embed.dimension} "
            "(embed.dimension); choose keywords with fewer texts"
        )
    return answers


class Predictor(Module):
    """Computes the log-probability of each answer, given a description, with one pass of the LM.

    All answers follow the description in one sequence. The attention mask hides them from each
    other, and each begins at the position after the description. A sliding window of the model must
    be longer than both.
    """

    def __init__(self, lm: LanguageModel, answers: Sequence[KeywordText]) -> None:
        super().__init__()
        self.model, self.tokens = lm.model, lm.tokens
        self.keywords = [keyword for keyword, _ in answers]
        texts = zip(answers, self.tokens.text_ids(text for _, text in answers), strict=True)
        blocks = [
            torch.tensor([self.tokens.starts[keyword], *ids, self.tokens.ends[keyword]])
            for (keyword, _), ids in texts
        ]
        sizes = torch.tensor([len(block) - 1 for block in blocks])
        self.id_S = torch.cat([block[:-1] for block in blocks])
        self.next_S = torch.cat([block[1:] for block in blocks])
        self.answer_S = torch.arange(len(blocks)).repeat_interleave(sizes)
        self.offset_S = torch.cat([torch.arange(size) for size in sizes.tolist()])

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """Adds `sentence_embedding`: log-probabilities (float32 [B, A]).

        The probabilities of the answers of one keyword sum to 1.
        """
        ids_BT, mask_BT = features["input_ids"], features["attention_mask"]
        rows = max(1, PASS_TOKENS // (ids_BT.shape[1] + len(self.id_S)))
        parts = zip(ids_BT.split(rows), mask_BT.split(rows), strict=True)
        score_BA = torch.cat([self._scores(*part) for part in parts])
        for keyword in set(self.keywords):
            answers = [answer for answer, name in enumerate(self.keywords) if name == keyword]
            score_BA[:, answers] = score_BA[:, answers].log_softmax(dim=1)
        features["sentence_embedding"] = score_BA
        return features

    def save(self, *_: Any, **__: Any) -> None:
        """Does nothing: `instruct` saves the language model."""

    def _scores(self, ids_BT: Tensor, mask_BT: Tensor) -> Tensor:
        """Returns the log-probability of each answer after its start marker (float32 [B, A])."""
        (rows, length), total, device = ids_BT.shape, len(self.id_S), ids_BT.device
        id_S, next_S, answer_S, offset_S = (
            each.to(device) for each in (self.id_S, self.next_S, self.answer_S, self.offset_S)
        )
        length_B = mask_BT.sum(dim=1) - len(self.tokens.suffix)
        at_T = torch.arange(length, device=device)
        sees = torch.zeros(rows, length + total, length + total, dtype=torch.bool, device=device)
        sees[:, :length, :length] = at_T[:, None] >= at_T
        sees[:, length:, :length] = (at_T < length_B[:, None])[:, None]
        is_same_SS = answer_S[:, None] == answer_S
        sees[:, length:, length:] = is_same_SS & (offset_S[:, None] >= offset_S)
        bias = torch.zeros(sees.shape, dtype=self.model.dtype, device=device)
        bias.masked_fill_(~sees, torch.finfo(bias.dtype).min)
        position_BS = length_B[:, None] + offset_S
        logits_BSV: Tensor = self.model(
            input_ids=torch.cat([ids_BT, id_S.expand(rows, -1)], dim=1),
            attention_mask=bias[:, None],
            position_ids=torch.cat([at_T.expand(rows, -1), position_BS], dim=1),
            logits_to_keep=total,
        ).logits.float()
        chosen_BS = logits_BSV[:, torch.arange(total), next_S] - logits_BSV.logsumexp(dim=2)
        zero_BA = chosen_BS.new_zeros(rows, len(self.keywords))
        return zero_BA.index_add(1, answer_S, chosen_BS)


def as_predictor(lm: LanguageModel, answers: pl.DataFrame) -> SentenceTransformer:
    """Returns a `Predictor` of these answers, for `larr.text.encoder.compute`."""
    return SentenceTransformer(modules=[Predictor(lm, answers.select("keyword", "text").rows())])


def load_predictor(config: Config) -> SentenceTransformer:
    """Returns the predictor that `instruct` trained."""
    folder = artifacts.folder(config, "instruct")
    return as_predictor(load_language_model(folder, config), read_answers(config))


def read_answers(config: Config) -> pl.DataFrame:
    """Returns the table of `distinct_answers`."""
    return pl.read_parquet(artifacts.folder(config, "instruct") / ANSWERS)


def accuracies(
    config: Config, model: SentenceTransformer, answers: pl.DataFrame, orders: pl.DataFrame
) -> dict[str, dict[str, float]]:
    """Returns for each keyword of `instruct.answers` how often the next order is predicted.

    Evaluates a random sample of the orders, so that those trained on show how much was remembered.
    `model` takes the most probable answer, `popular` the most frequent one of all training orders,
    `own` that of the user's orders on earlier days (`popular` for a user without one). `loss` is
    the mean negative log-probability in nats, of the model and of the shares of training orders
    (`popular_loss`). An order with an unknown answer counts as wrong, and is not in the losses.
    """
    if not len(orders):
        return {}
    settings = config.instruct
    orders = orders.sample(min(len(orders), EVALUATED), seed=config.seed)
    prompts = [[(settings.knowledge, text)] for text in orders[settings.knowledge]]
    log_NA = compute(model, prompts, config.embed.batch_tokens)
    figures = {}
    for name in settings.answers:
        texts = answers.filter(keyword=name)
        score_NA = log_NA[:, (answers["keyword"] == name).to_numpy()]
        answer_N, is_answered_N = orders[name].to_numpy(), orders[name].is_not_null().to_numpy()
        row_of = {text: row for row, text in enumerate(texts["text"])}
        row_N = np.array([row_of.get(answer, -1) for answer in answer_N])
        is_known_N = row_N >= 0
        if not is_known_N.any():
            continue
        share_A = (texts["orders"] / texts["orders"].sum()).to_numpy()
        usual_N = usual(config, name, orders).fill_null(texts["text"][0]).to_numpy()
        hits = {
            "model": score_NA.argmax(axis=1) == row_N,
            "popular": row_N == 0,
            "own": usual_N == answer_N,
        }
        losses = {
            "loss": score_NA[is_known_N, row_N[is_known_N]],
            "popular_loss": np.log(share_A[row_N[is_known_N]]),
        }
        figures[name] = {
            "orders": int(is_answered_N.sum()),
            **{key: round(float(hit_N[is_answered_N].mean()), 4) for key, hit_N in hits.items()},
            **{key: round(-float(log_N.mean()), 4) for key, log_N in losses.items()},
        }
    return figures


def usual(config: Config, name: str, orders: pl.DataFrame) -> pl.Series:
    """Returns each user's most frequent answer on the days before each order, or null."""
    path = artifacts.folder(config, "prepare") / "orders.parquet"
    day = pl.col("time").dt.date()
    events = pl.scan_parquet(path).select("user_id", day=day, answer=name).drop_nulls().collect()
    asked = orders.select("user_id", day=day).with_row_index("order")
    counts = (
        asked.join(events, on="user_id")
        .filter(pl.col("day_right") < pl.col("day"))
        .group_by("order", "answer")
        .len()
        .sort("order", "len", "answer", descending=[False, True, False])
        .group_by("order", maintain_order=True)
        .first()
    )
    return asked.join(counts, on="order", how="left", maintain_order="left")["answer"]
