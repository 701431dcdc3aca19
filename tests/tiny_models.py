"""Tiny language models of several kinds with random weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    PreTrainedTokenizerFast,
)

CORPUS = [
    "a small shop in Chengdu sells noodles, dumplings and roast goose for lunch and dinner",
    "likes spicy food, lives in Guangzhou, orders often; mapo tofu, claypot rice, milk tea",
    "the user base and taste, the scene time, the poi name, menu and tags",
]
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
SETTINGS = {
    "qwen2": {"num_key_value_heads": 2, "tie_word_embeddings": True},
    "qwen3": {"num_key_value_heads": 2, "head_dim": 8, "tie_word_embeddings": True},
    "llama": {"tie_word_embeddings": False, "bos_token_id": None, "eos_token_id": 0},
    "gemma3": {
        "num_key_value_heads": 1,
        "head_dim": 8,
        "sliding_window": 16,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "pad_token_id": 1,
    },
    "gpt2": {"intermediate_size": None, "n_positions": 128, "bos_token_id": 0, "eos_token_id": 0},
    "bert": {"max_position_embeddings": 128},
    "headless": {"max_position_embeddings": 128},
    "xlm-roberta": {"max_position_embeddings": 130},
    "modernbert": {
        "max_position_embeddings": 128,
        "local_attention": 16,
        "pad_token_id": 0,
        "bos_token_id": 2,
        "cls_token_id": 2,
        "eos_token_id": 3,
        "sep_token_id": 3,
    },
}
"""Kinds of models; `headless` has the layout of MiniLM and other sentence encoders."""
KINDS = tuple(SETTINGS)


def make_model(
    folder: Path,
    kind: str,
    pad: bool = True,
    padding_side: str = "right",
    dtype: torch.dtype = torch.float32,
) -> Path:
    """Writes a model folder; `pad` False leaves the tokenizer without a padding token."""
    tokenizer = _ENCODER_TOKENIZERS.get(kind, lambda: make_tokenizer(pad, padding_side))()
    if kind == "gemma3":
        tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single="<|end|> $A", special_tokens=[("<|end|>", 0)]
        )
    torch.manual_seed(1)
    name = {"gemma3": "gemma3_text", "headless": "bert"}.get(kind, kind)
    config = AutoConfig.for_model(name, vocab_size=len(tokenizer), **(SIZES | SETTINGS[kind]))
    auto = AutoModelForMaskedLM if kind in _ENCODER_TOKENIZERS else AutoModelForCausalLM
    model = (AutoModel if kind == "headless" else auto).from_config(config)
    model.to(dtype).save_pretrained(folder)
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


def _word_pieces() -> PreTrainedTokenizerFast:
    """BERT's tokenizer, in lower case."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))  # noqa: S106
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    return _trained(tokenizer, trainers.WordPieceTrainer, names, "[CLS] $A [SEP]")


def _unigrams() -> PreTrainedTokenizerFast:
    """The tokenizer of XLM-R."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    names = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    return _trained(tokenizer, trainers.UnigramTrainer, names, "<s> $A </s>", unk_token="<unk>")  # noqa: S106


def _modern() -> PreTrainedTokenizerFast:
    """The tokenizer of ModernBERT, byte-level as that of GPT-2."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel()
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    return _trained(tokenizer, trainers.BpeTrainer, names, "[CLS] $A [SEP]")


def _trained(
    tokenizer: Tokenizer,
    trainer: Callable[..., trainers.Trainer],
    names: list[str],
    around: str,
    **options: str,
) -> PreTrainedTokenizerFast:
    """Returns an encoder's tokenizer; `names` in its order, `around` are tokens around a text."""
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        CORPUS,
        trainer(
            vocab_size=320,
            special_tokens=names,
            initial_alphabet=alphabet,
            show_progress=False,
            **options,
        ),
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single=around, special_tokens=[(name, at) for at, name in enumerate(names)]
    )
    roles = {
        "pad_token": next(name for name in names if "pad" in name.lower()),
        "unk_token": next(name for name in names if "unk" in name.lower()),
        "mask_token": names[4],
        "cls_token": around.split(maxsplit=1)[0],
        "sep_token": around.rsplit(maxsplit=1)[-1],
    }
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **roles)


def make_holes(folder: Path, first: int, last: int) -> None:
    """Removes words from a model's tokenizer by ID, except those that are parts of others."""
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    vocabulary, merges = content["model"]["vocab"], content["model"]["merges"]
    parts = {part for merge in merges for part in merge}
    gone = {word for word, id_ in vocabulary.items() if first <= id_ <= last and word not in parts}
    content["model"]["vocab"] = {word: vocabulary[word] for word in vocabulary.keys() - gone}
    content["model"]["merges"] = [merge for merge in merges if "".join(merge) not in gone]
    path.write_text(json.dumps(content))


_ENCODER_TOKENIZERS = {
    "bert": _word_pieces,
    "headless": _word_pieces,
    "xlm-roberta": _unigrams,
    "modernbert": _modern,
}
