"""Pretrains the small decoder that comes with larr, from scratch, on the city's encyclopedia.

`python -m larr_lab.base_lm FOLDER` writes the checkpoint, its tokenizer and `origin.json`, which
says what they were made from; options make another size of it. It stands in for a large model's
knowledge of the world where none can be had; with a real checkpoint (`backbone.model`) nothing
here is used.

Shapes: N blocks, B blocks of a batch, T tokens.
"""

from __future__ import annotations

import argparse
import hashlib
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, set_seed

from larr.artifacts import write_json
from larr.hardware import bf16_is_fast
from larr.progress import console, track
from larr.text.backbone import attention
from larr_lab.city import encyclopedia

SEED = 0
END = "<|end|>"
PAD = "<|pad|>"
RECIPE: dict[str, Any] = {
    "vocabulary": 4096,
    "hidden": 128,
    "layers": 2,
    "heads": 4,
    "feedforward": 384,
    "block": 128,
    "batch": 32,
    "epochs": 8,
    "learning_rate": 3e-3,
    "weight_decay": 0.1,
}


def text_hash(documents: Iterable[str]) -> str:
    """sha256 of the documents, one a line."""
    digest = hashlib.sha256()
    for document in documents:
        digest.update(document.encode() + b"\n")
    return digest.hexdigest()


def make(folder: Path, documents: list[str], recipe: dict[str, Any]) -> dict[str, Any]:
    """Trains tokenizer and decoder and returns what `origin.json` says."""
    set_seed(SEED)
    train, test = split(documents)
    tokenizer = make_tokenizer(train, recipe["vocabulary"])
    train_NT = _blocks(tokenizer, train, recipe["block"])
    test_NT = _blocks(tokenizer, test, recipe["block"])
    model = LlamaForCausalLM(_architecture(recipe, tokenizer))
    model.config._attn_implementation = attention()
    started = time.perf_counter()
    steps = _train(model, train_NT, recipe)
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    origin = {
        "text_sha256": text_hash(documents),
        "seed": SEED,
        "recipe": recipe,
        "parameters": model.num_parameters(),
        "training_tokens": train_NT.numel(),
        "steps": steps,
        "seconds": round(time.perf_counter() - started, 1),
        "held_out_perplexity": round(perplexity(model, test_NT), 3),
    }
    write_json(folder / "origin.json", origin)
    for path in folder.iterdir():
        path.chmod(0o644)  # the weights are written readable by their owner alone
    return origin


def split(documents: list[str]) -> tuple[list[str], list[str]]:
    """The documents to train on, and others kept for the perplexity."""
    numbered = list(enumerate(documents))
    train = [document for number, document in numbered if not encyclopedia.held_out(number)]
    known = set(train)
    kept = [document for number, document in numbered if encyclopedia.held_out(number)]
    return train, [document for document in kept if document not in known]


def make_tokenizer(documents: Iterable[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer without case; every string has ids, none is unknown."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[PAD, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(documents, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, pad_token=PAD)


def perplexity(model: LlamaForCausalLM, blocks_NT: torch.Tensor) -> float:
    """exp of the mean cross-entropy of each block's tokens after its first."""
    model.eval()
    with torch.no_grad():
        losses = [float(_loss(model, batch_BT)) * len(batch_BT) for batch_BT in blocks_NT.split(32)]
    return float(np.exp(sum(losses) / len(blocks_NT)))


def main() -> None:
    """Makes the checkpoint in the folder named on the command line."""
    parser = argparse.ArgumentParser(prog="python -m larr_lab.base_lm", description=main.__doc__)
    parser.add_argument("folder", type=Path)
    for name, value in RECIPE.items():
        parser.add_argument(
            f"--{name.replace('_', '-')}", type=type(value), default=value, help="%(default)s"
        )
    recipe = vars(parser.parse_args())
    folder = recipe.pop("folder")
    console.print(make(folder, list(encyclopedia.articles(SEED)), recipe))


def _architecture(recipe: dict[str, Any], tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=recipe["hidden"],
        intermediate_size=recipe["feedforward"],
        num_hidden_layers=recipe["layers"],
        num_attention_heads=recipe["heads"],
        num_key_value_heads=recipe["heads"],
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        use_cache=False,
    )


def _blocks(tokenizer: PreTrainedTokenizerFast, documents: list[str], block: int) -> torch.Tensor:
    end = tokenizer.eos_token_id
    rows = tokenizer(documents, add_special_tokens=False, verbose=False)["input_ids"]
    ids = np.concatenate([np.array([*row, end], dtype=np.int64) for row in rows])
    block = min(block, len(ids))
    return torch.from_numpy(ids[: len(ids) // block * block].reshape(-1, block))


def _train(model: LlamaForCausalLM, blocks_NT: torch.Tensor, recipe: dict[str, Any]) -> int:
    batch, epochs = recipe["batch"], recipe["epochs"]
    steps: int = max(1, epochs * len(blocks_NT) // batch)
    optimizer = torch.optim.AdamW(
        model.parameters(), betas=(0.9, 0.95), weight_decay=recipe["weight_decay"]
    )
    rate = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe["learning_rate"], total_steps=steps, pct_start=0.03, cycle_momentum=False
    )
    order = _endless_order(len(blocks_NT), steps * batch)
    model.train()
    with track("base LM", steps * batch * blocks_NT.shape[1], "tokens") as advance:
        for start in range(0, steps * batch, batch):
            batch_BT = blocks_NT[order[start : start + batch]]
            optimizer.zero_grad()
            _loss(model, batch_BT).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            rate.step()
            advance(batch_BT.numel())
    return steps


def _endless_order(rows: int, wanted: int) -> np.ndarray:
    random = np.random.default_rng(SEED)
    passes = -(-wanted // rows)
    return np.concatenate([random.permutation(rows) for _ in range(passes)])[:wanted]


def _loss(model: LlamaForCausalLM, ids_BT: torch.Tensor) -> torch.Tensor:
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16_is_fast()):
        logits_BTV = model(input_ids=ids_BT[:, :-1]).logits
        return functional.cross_entropy(logits_BTV.flatten(0, 1), ids_BT[:, 1:].flatten())


if __name__ == "__main__":
    main()
