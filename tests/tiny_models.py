"""Tiny causal language models of several kinds, with random weights, made on the spot."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

CORPUS = [
    "a small shop in Chengdu sells noodles, dumplings and roast goose for lunch and dinner",
    "likes spicy food, lives in Guangzhou, orders often; mapo tofu, claypot rice, milk tea",
    "the user base and taste, the scene time, the poi name, menu and tags",
]
KINDS = ("qwen2", "llama", "gpt2")


def make_model(
    folder: Path,
    kind: str,
    pad: bool = True,
    padding_side: str = "right",
    dtype: torch.dtype = torch.float32,
) -> Path:
    """Writes a model folder; `pad` False leaves the tokenizer without a padding token."""
    tokenizer = make_tokenizer(pad, padding_side)
    torch.manual_seed(1)
    model = _MODELS[kind](len(tokenizer)).to(dtype)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_tokenizer(pad: bool = True, padding_side: str = "right") -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with an NFKC normaliser, which folds full-width brackets."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<|end|>", "<|pad|>"] if pad else ["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|end|>",  # noqa: S106
        pad_token="<|pad|>" if pad else None,
        padding_side=padding_side,
    )


def make_holes(folder: Path, first: int, last: int) -> None:
    """Takes words out of a model's tokenizer, by their ids, but none that others consist of."""
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    vocabulary, merges = content["model"]["vocab"], content["model"]["merges"]
    parts = {part for merge in merges for part in merge}
    gone = {word for word, id_ in vocabulary.items() if first <= id_ <= last and word not in parts}
    content["model"]["vocab"] = {word: vocabulary[word] for word in vocabulary.keys() - gone}
    content["model"]["merges"] = [merge for merge in merges if "".join(merge) not in gone]
    path.write_text(json.dumps(content))


def _qwen2(vocabulary: int) -> PreTrainedModel:
    return Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=vocabulary,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            tie_word_embeddings=True,
        )
    )


def _llama(vocabulary: int) -> PreTrainedModel:
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            tie_word_embeddings=False,
            bos_token_id=None,
            eos_token_id=0,
        )
    )


def _gpt2(vocabulary: int) -> PreTrainedModel:
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=vocabulary,
            n_embd=32,
            n_layer=2,
            n_head=4,
            n_positions=128,
            bos_token_id=0,
            eos_token_id=0,
        )
    )


_MODELS = {"qwen2": _qwen2, "llama": _llama, "gpt2": _gpt2}
