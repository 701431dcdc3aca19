"""Distils the text embedding model into a smaller one that embeds new texts at lower cost.

Shapes: N texts, B texts of a batch, D vector length.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator
from functools import partial

import numpy as np
import polars as pl
import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor
from torch.nn.functional import cosine_similarity
from torch.nn.utils import clip_grad_norm_
from torch.optim import AdamW
from transformers import get_cosine_schedule_with_warmup, set_seed

from larr import artifacts
from larr.config import Config
from larr.errors import LarrError
from larr.progress import console, track
from larr.text.backbone import LanguageModel, Parts
from larr.text.corpus import row_texts
from larr.text.encoder import as_encoder, compute, load_encoder, mixed_precision
from larr.text.fitted import normalised
from larr.text.narrow import Narrowing, without_layers
from larr.text.pairs import augmented, held_out, sample_orders, view_keywords
from larr.text.retrieval import recalls
from larr.text.shards import embed_shards
from larr.text.training import save_memory

TEACHER = "teacher"
"""The folder of the teacher's vectors until the end."""
MAX_HELD_OUT = 2_000
NEIGHBOURS = 10
WEIGHT_DECAY = 0.01
POOL = 16
"""Number of batches whose texts are sorted by length together."""
FIRST, LAST = 0.1, 0.7
"""Shares of the training at which the removal of columns starts and ends."""
REMOVALS = 50
"""Columns are removed at most this often."""


def distill(config: Config) -> None:
    """Trains a smaller model to reproduce the vectors of stage 2's model, and evaluates it.

    The evaluation uses texts of orders held out in stage 2 that do not occur in training.
    """
    with artifacts.building(config, "distill") as work:
        set_seed(config.seed)
        holdout = held_out(config)
        train = sample_texts(config, holdout.is_trained)
        trained = set(train)
        test = [text for text in sample_texts(config, ~holdout.is_trained) if text not in trained]
        test = test[:MAX_HELD_OUT]
        load_teacher = partial(load_encoder, artifacts.folder(config, "contrast"))
        stored = work.folder / TEACHER
        shards_BD = embed_shards([*train, *test], stored, load_teacher, config)
        teacher_ND = np.concatenate([vectors_BD for _, vectors_BD in shards_BD])
        train_ND, test_ND = np.split(teacher_ND, [len(train)])
        teacher = load_teacher()
        teacher_size = size(teacher)  # before training, which narrows the same object
        student, curve = _train(config, teacher, train, train_ND)
        student.save(str(work.folder), create_model_card=False)
        student_size = size(student)
        shutil.rmtree(stored)
        work.measured(round(config.distill.epochs * len(train)), "texts")
        work.figures |= {"teacher": teacher_size, "student": student_size, "loss": curve}
        work.figures["recall_at_10"] = recalls(config, holdout, student)
        counts = (model["parameters"] / 1e6 for model in (teacher_size, student_size))
        console.print("  {:.2f} -> {:.2f} million parameters".format(*counts))
        if len(test) > NEIGHBOURS:
            student_ND = compute(student, test, config.embed.batch_tokens)
            work.figures |= (figures := quality(student_ND, test_ND))
            console.print(
                f"  {len(test):,} held-out texts: cosine {figures['cosine']:.3f} with the large "
                f"model's vectors, {figures['centred_cosine']:.3f} after centring; "
                f"{figures['neighbours']:.0%} of the ten nearest texts agree"
            )


def sample_texts(config: Config, chosen: pl.Expr) -> list[Parts]:
    """Returns at most `distill.texts` distinct texts of `chosen` orders, in random order.

    These are descriptions of users and places, augmented as in stage 2, and single keywords.
    """
    random, limit = np.random.default_rng(config.seed), config.distill.texts
    distinct: dict[Parts, None] = {}
    for row in sample_orders(config, chosen, limit).iter_rows(named=True):
        for view in ("user", "place"):
            if parts := row_texts(row, view_keywords(config, view)):
                distinct[augmented(parts, config.contrast, random)] = None
                distinct |= {(part,): None for part in parts}
    ordered = list(distinct)
    return [ordered[index] for index in random.permutation(len(ordered))[:limit]]


def _train(
    config: Config, teacher: SentenceTransformer, texts: list[Parts], teacher_ND: np.ndarray
) -> tuple[SentenceTransformer, list[float]]:
    """Returns the smaller model and about twenty losses."""
    settings = config.distill
    student = teacher
    if settings.way == "layers":
        student = _with_model(config, teacher, without_layers(teacher[0].model, settings.keep))
    steps = max(1, round(settings.epochs * len(texts) / settings.batch_size))
    optimizer = AdamW(student.parameters(), settings.learning_rate, weight_decay=WEIGHT_DECAY)
    schedule = get_cosine_schedule_with_warmup(optimizer, max(1, steps // 20), steps)
    narrowing = Narrowing(student, settings.keep, optimizer) if settings.way == "width" else None
    save_memory(student)
    student.train()
    rows = student[0].tokens.encode_batch(texts)
    mean_D = torch.from_numpy(teacher_ND.mean(axis=0)).to(student.device)
    batches = _batches([len(row) for row in rows], settings.batch_size, config.seed)
    losses = []
    with track("distillation", steps, "steps") as advance:
        for step, batch in zip(range(1, steps + 1), batches, strict=False):
            optimizer.zero_grad()
            target_BD = torch.from_numpy(teacher_ND[batch]).to(student.device)
            losses.append(_gradients(student, [rows[row] for row in batch], target_BD, mean_D))
            if narrowing:
                narrowing.observe()
            clip_grad_norm_(student.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            if narrowing and (step == steps or step % max(1, steps // REMOVALS) == 0):
                progress = (step / steps - FIRST) / (LAST - FIRST)
                narrowing.narrow(min(max(progress, 0.0), 1.0))
            advance(1)
    if narrowing:
        student = _with_model(config, student, narrowing.model_of_this_size())
    parts = torch.stack(losses).tensor_split(min(20, steps))
    curve = [round(float(part.mean()), 4) for part in parts]
    if not all(map(math.isfinite, curve)):
        raise LarrError("distill: the loss is not finite; lower distill.learning_rate")
    return student, curve


def _gradients(
    student: SentenceTransformer, rows: list[list[int]], target_BD: Tensor, mean_D: Tensor
) -> Tensor:
    """Computes the gradients of a step and returns its loss, 1 - cosine with the teacher's vectors.

    Subtracts the teacher's mean vector from both, as the rankers do: the rest distinguishes texts,
    but is the smaller part of the vectors of a model with little tuning.
    """
    padded = student[0].tokens.pad(rows)
    with mixed_precision(student):
        output = student({name: tensor.to(student.device) for name, tensor in padded.items()})
    student_BD = output["sentence_embedding"].float()
    loss = 1 - cosine_similarity(student_BD - mean_D, target_BD - mean_D).mean()
    loss.backward()
    return loss.detach()


def _with_model(
    config: Config, encoder: SentenceTransformer, model: torch.nn.Module
) -> SentenceTransformer:
    """Returns a text embedding model with another language model and the same head."""
    weights = encoder[2].state_dict()
    width, tokens = len(weights["linear.weight"]), encoder[0].tokens
    rebuilt = as_encoder(LanguageModel(model, tokens), width, config.contrast.pooling)
    rebuilt[2].load_state_dict(weights)
    return rebuilt


def _batches(lengths: list[int], size: int, seed: int) -> Iterator[np.ndarray]:
    """Yields endless batches of texts of similar length; each pass contains every text once."""
    random, length_N = np.random.default_rng(seed), np.array(lengths)
    while True:
        order = random.permutation(len(lengths))
        pools = [order[start : start + POOL * size] for start in range(0, len(order), POOL * size)]
        batches = [
            pool[np.argsort(length_N[pool], kind="stable")][start : start + size]
            for pool in pools
            for start in range(0, len(pool), size)
        ]
        yield from (batches[index] for index in random.permutation(len(batches)))


def quality(student_ND: np.ndarray, teacher_ND: np.ndarray) -> dict[str, float]:
    """Compares vectors of more than ten texts with the teacher's.

    Returns the mean `cosine`; `centred_cosine`, after subtracting the teacher's mean vector from
    both; and `neighbours`, the share of each text's ten nearest texts on which both models agree.
    """
    mean_D = teacher_ND.mean(axis=0)
    centred_ND = [normalised(vectors_ND - mean_D) for vectors_ND in (student_ND, teacher_ND)]
    pairs = zip(*map(nearest, centred_ND), strict=True)
    shared = [len(np.intersect1d(own, other)) / NEIGHBOURS for own, other in pairs]
    means = {
        "cosine": (student_ND * teacher_ND).sum(axis=1).mean(),
        "centred_cosine": (centred_ND[0] * centred_ND[1]).sum(axis=1).mean(),
        "neighbours": np.mean(shared),
    }
    return {name: round(float(mean), 4) for name, mean in means.items()}


def nearest(vectors_ND: np.ndarray) -> np.ndarray:
    """Returns the indices of the ten nearest neighbours of each unit vector, int64 [N, 10]."""
    scores_NN = vectors_ND @ vectors_ND.T
    np.fill_diagonal(scores_NN, -np.inf)
    return np.argpartition(-scores_NN, NEIGHBOURS, axis=1)[:, :NEIGHBOURS]


def size(encoder: SentenceTransformer) -> dict[str, int]:
    """Returns the number of layers, hidden units and parameters of a text embedding model."""
    config = encoder[0].model.config
    return {
        "layers": config.num_hidden_layers,
        "width": config.hidden_size,
        "parameters": sum(parameter.numel() for parameter in encoder.parameters()),
    }
