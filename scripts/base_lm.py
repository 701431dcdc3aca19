"""Pretrains the small decoder that comes with larr, from scratch, on the encyclopedia.

`python scripts/base_lm.py FOLDER` writes the checkpoint, its tokenizer, the text that it was
trained on and `origin.json`, which records how; options train another size. The model replaces
a large one where none is available. A copy of FOLDER is `larr/text/builtin_lm`.

Shapes: N blocks, B blocks of a batch, T tokens.
"""

from __future__ import annotations

import argparse
import hashlib
import lzma
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
from larr.machine import bf16_is_fast
from larr.progress import console, track
from larr.text.checkpoint import attention
from larr.text.corpus import BUILTIN_TEXT
from larr_lab import encyclopedia

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


def train_base_lm(folder: Path, documents: list[str], recipe: dict[str, Any]) -> dict[str, Any]:
    """Writes the tokenizer, the model and its text, and returns the content of `origin.json`."""
    set_seed(SEED)
    train, held_out = split(documents)
    tokenizer = train_tokenizer(train, recipe["vocabulary"])
    train_NT = token_blocks(tokenizer, train, recipe["block"])
    held_out_NT = token_blocks(tokenizer, held_out, recipe["block"])
    architecture = LlamaConfig(
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
    model = LlamaForCausalLM(architecture)
    model.config._attn_implementation = attention()
    started = time.perf_counter()
    steps = _train(model, train_NT, recipe)
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    text = "".join(f"{document}\n" for document in documents).encode()
    (folder / BUILTIN_TEXT.name).write_bytes(lzma.compress(text, preset=9))
    origin = {
        "text_sha256": hashlib.sha256(text).hexdigest(),
        "seed": SEED,
        "recipe": recipe,
        "parameters": model.num_parameters(),
        "training_tokens": train_NT.numel(),
        "steps": steps,
        "seconds": round(time.perf_counter() - started, 1),
        "held_out_perplexity": round(perplexity(model, held_out_NT), 3),
    }
    write_json(folder / "origin.json", origin)
    for path in folder.iterdir():
        path.chmod(0o644)  # safetensors writes the weights readable by their owner alone
    return origin


def split(documents: list[str]) -> tuple[list[str], list[str]]:
    """Returns the documents to train on, and those kept for the perplexity.

    A held-out document that is word for word a training document is in neither.
    """
    train: list[str] = []
    held_out: list[str] = []
    for number, document in enumerate(documents):
        (held_out if encyclopedia.held_out(number) else train).append(document)
    known = set(train)
    return train, [document for document in held_out if document not in known]


def train_tokenizer(documents: Iterable[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """Returns a byte-level BPE tokenizer that ignores case and needs no unknown token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    # a space in front, so that a word at the start of a text is the token that it is elsewhere
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


def token_blocks(
    tokenizer: PreTrainedTokenizerFast, documents: list[str], length: int
) -> torch.Tensor:
    """Returns the documents, each closed by END, joined and cut into blocks (int64 [N, length])."""
    rows = tokenizer(documents, add_special_tokens=False, verbose=False)["input_ids"]
    end = tokenizer.eos_token_id
    ids = np.concatenate([np.array([*row, end], dtype=np.int64) for row in rows])
    length = min(length, len(ids))
    return torch.from_numpy(ids[: len(ids) // length * length].reshape(-1, length))


def perplexity(model: LlamaForCausalLM, blocks_NT: torch.Tensor) -> float:
    """Returns exp of the mean cross-entropy of each block's tokens after its first."""
    model.eval()
    with torch.no_grad():
        losses = [float(_loss(model, batch_BT)) * len(batch_BT) for batch_BT in blocks_NT.split(32)]
    return float(np.exp(sum(losses) / len(blocks_NT)))


def main() -> None:
    """Trains the model that is shipped, or one of another size, and writes it into a folder."""
    parser = argparse.ArgumentParser(prog="python scripts/base_lm.py", description=main.__doc__)
    parser.add_argument("folder", type=Path)
    for name, value in RECIPE.items():
        parser.add_argument(
            f"--{name.replace('_', '-')}", type=type(value), default=value, help="%(default)s"
        )
    recipe = vars(parser.parse_args())
    folder = recipe.pop("folder")
    console.print(train_base_lm(folder, list(encyclopedia.articles(SEED)), recipe))


def _train(model: LlamaForCausalLM, blocks_NT: torch.Tensor, recipe: dict[str, Any]) -> int:
    """Trains in place, each epoch in another random order, and returns the number of steps."""
    batch = recipe["batch"]
    steps: int = max(1, recipe["epochs"] * len(blocks_NT) // batch)
    optimizer = torch.optim.AdamW(
        model.parameters(), betas=(0.9, 0.95), weight_decay=recipe["weight_decay"]
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe["learning_rate"], total_steps=steps, pct_start=0.03, cycle_momentum=False
    )
    random = np.random.default_rng(SEED)
    epochs = -(-steps * batch // len(blocks_NT))
    order = np.concatenate([random.permutation(len(blocks_NT)) for _ in range(epochs)])
    model.train()
    with track("base LM", steps * batch * blocks_NT.shape[1], "tokens") as advance:
        for start in range(0, steps * batch, batch):
            batch_BT = blocks_NT[order[start : start + batch]]
            optimizer.zero_grad()
            _loss(model, batch_BT).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            advance(batch_BT.numel())
    return steps


def _loss(model: LlamaForCausalLM, ids_BT: torch.Tensor) -> torch.Tensor:
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16_is_fast()):
        logits_BTV = model(input_ids=ids_BT[:, :-1]).logits
        return functional.cross_entropy(logits_BTV.flatten(0, 1), ids_BT[:, 1:].flatten())


if __name__ == "__main__":
    main()
