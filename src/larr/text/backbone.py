"""The language model: its tokenizer, the special tokens of keywords, its LoRA adapters.

The two special tokens of a keyword, `<k>` and `</k>`, are its markers.
Shapes: B texts, T tokens.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from peft import LoraConfig
from tokenizers import AddedToken
from torch.nn import Linear, ModuleList
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.pytorch_utils import Conv1D

from larr.config import Config
from larr.errors import ConfigError, LarrError
from larr.text import checkpoint

CACHED_TEXTS = 200_000
PAD = "<|pad|>"
"""Added to tokenizers without a padding token."""

KeywordText = tuple[str, str]
"""A keyword and its text, one piece t_i^k of a description. Paper: Eq. (2)."""
Parts = tuple[KeywordText, ...]
"""The pieces of a description."""


def markers(keyword: str) -> tuple[str, str]:
    """Returns sp^bos and sp^eos of a keyword. Paper: Eq. (4), (8)."""
    return f"<{keyword}>", f"</{keyword}>"


def tokenized(
    tokenizer: PreTrainedTokenizerBase, texts: list[str], markers: Iterable[int] = ()
) -> list[list[int]]:
    """Returns the ids of texts, which contain neither special tokens nor `markers`."""
    encoded = tokenizer(texts, add_special_tokens=False, split_special_tokens=True, verbose=False)
    # not every tokenizer respects `split_special_tokens`
    special = {*tokenizer.all_special_ids, *markers} - {tokenizer.unk_token_id}
    return [[id_ for id_ in ids if id_ not in special] for ids in encoded["input_ids"]]


class KeywordTokenizer:
    """Turns keyword texts into token ids, with markers that no text can forge.

    Paper: Eq. (3)-(6), (8)-(9). Texts come from users, so a menu may contain "</poi_menu>". The
    tokenizer therefore reads each text alone, and the markers are added as ids, never as strings.
    A description starts and ends with the tokenizer's own delimiters, such as [CLS] and [SEP].
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, keywords: Sequence[str], max_length: int
    ) -> None:
        plain, complete = (
            tokenizer("a", add_special_tokens=added)["input_ids"] for added in (False, True)
        )
        start = next(at for at in range(len(complete)) if complete[at : at + len(plain)] == plain)
        self.prefix: list[int] = complete[:start]
        self.suffix: list[int] = complete[start + len(plain) :]
        required = 3 * len(keywords) + len(complete) - len(plain)
        if max_length < required:
            raise ConfigError(
                f"backbone.max_length is {max_length}, but {len(keywords)} keywords need at least "
                f"{required} tokens: two special tokens and one text token each"
            )
        self.tokenizer = tokenizer
        self.keywords = tuple(keywords)
        self.max_length = max_length
        ids = tokenizer.get_vocab()
        if missing := [pair for pair in map(markers, keywords) if not ids.keys() >= set(pair)]:
            raise LarrError(f"the tokenizer lacks {missing[0][0]}; run `larr pretrain` again")
        self.starts: dict[str, int] = {name: ids[markers(name)[0]] for name in keywords}
        self.ends: dict[str, int] = {name: ids[markers(name)[1]] for name in keywords}
        self.marker_ids = sorted([*self.starts.values(), *self.ends.values()])
        self._ids_of: dict[str, list[int]] = {}
        self.shortened = 0
        """The number of descriptions whose longest texts were truncated."""

    def text_ids(self, texts: Iterable[str]) -> list[list[int]]:
        """Returns the ids of texts, each tokenized alone and without special tokens.

        Caches them, since training reads the same texts repeatedly, in different orders.
        """
        texts = list(texts)
        new = [text for text in dict.fromkeys(texts) if text not in self._ids_of]
        if new and len(self._ids_of) > CACHED_TEXTS:
            self._ids_of, new = {}, list(dict.fromkeys(texts))
        if new:
            ids = tokenized(self.tokenizer, new, self.marker_ids)
            self._ids_of |= zip(new, ids, strict=True)
        return [self._ids_of[text] for text in texts]

    def encode(self, parts: Sequence[KeywordText]) -> list[int]:
        """Returns the ids of a description: `<k> text </k>` for each part. Paper: Eq. (3).

        If they exceed `max_length`, truncates the longest texts and keeps all markers. Raises
        LarrError for a description without parts or with an unknown keyword.
        """
        if not parts:
            raise LarrError("a description without keywords has no vector; remove its row")
        if unknown := [keyword for keyword, _ in parts if keyword not in self.starts]:
            raise LarrError(
                f"unknown keyword {unknown[0]!r}; expected one of {', '.join(self.keywords)}"
            )
        texts = self.text_ids(text for _, text in parts)
        budget = self.max_length - 2 * len(parts) - len(self.prefix) - len(self.suffix)
        if sum(map(len, texts)) > budget:
            self.shortened += 1
            limit = budget // len(texts)
            while sum(min(len(text), limit + 1) for text in texts) <= budget:
                limit += 1
            texts = [text[:limit] for text in texts]
        ids = list(self.prefix)
        for (keyword, _), text in zip(parts, texts, strict=True):
            ids += [self.starts[keyword], *text, self.ends[keyword]]
        return ids + self.suffix

    def encode_batch(self, descriptions: Sequence[Sequence[KeywordText]]) -> list[list[int]]:
        """Encodes several descriptions with one call of the tokenizer."""
        self.text_ids(text for parts in descriptions for _, text in parts)
        return [self.encode(parts) for parts in descriptions]

    def pad(self, rows: Sequence[Sequence[int]]) -> dict[str, torch.Tensor]:
        """Returns `input_ids` and `attention_mask` (int64 [B, T]), padded on the right."""
        ids = [torch.tensor(row) for row in rows]
        masks = [torch.ones_like(row) for row in ids]
        ids_BT = pad_sequence(ids, batch_first=True, padding_value=self.tokenizer.pad_token_id)
        return {"input_ids": ids_BT, "attention_mask": pad_sequence(masks, batch_first=True)}


@dataclass(frozen=True)
class LanguageModel:
    """A causal language model or an encoder, with its tokenizer for keyword texts."""

    model: PreTrainedModel
    tokens: KeywordTokenizer

    @property
    def predicts(self) -> Literal["next", "masked"] | None:
        """The tokens that the head predicts; None for an encoder without a head."""
        kind, config = type(self.model), self.model.config
        if kind is MODEL_FOR_MASKED_LM_MAPPING.get(type(config), None):
            return "masked"
        # some sentence encoders are decoders with bidirectional attention
        bidirectional = getattr(config.get_text_config(), "use_bidirectional_attention", False)
        has_causal_head = kind is MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
        return "next" if has_causal_head and not bidirectional else None


def load_base(config: Config, *, weights: bool = True) -> LanguageModel:
    """Returns the model of `config.backbone`, extended by the markers of the keywords.

    Without `weights` it is on torch's meta device, where it has sizes but uses no memory.
    """
    read = checkpoint.read if weights else checkpoint.skeleton
    tokenizer, model = read(config.backbone)
    keywords = [keyword.name for keyword in config.keywords]
    _add_markers(tokenizer, model, keywords)
    return LanguageModel(model, KeywordTokenizer(tokenizer, keywords, config.backbone.max_length))


def load_language_model(folder: Path, config: Config) -> LanguageModel:
    """Returns a model that stage 1 wrote."""
    backbone = config.backbone.model_copy(update={"model": str(folder), "revision": None})
    tokenizer, model = checkpoint.read(backbone)
    keywords = [keyword.name for keyword in config.keywords]
    return LanguageModel(model, KeywordTokenizer(tokenizer, keywords, config.backbone.max_length))


def lora(
    tokens: KeywordTokenizer, model: PreTrainedModel, rank: int, layers: int = 0
) -> LoraConfig:
    """Returns LoRA on all linear modules, or only on those in the upper `layers` of the model.

    The embeddings of the markers are new, and a low-rank update would not suffice: their rows, and
    those of an untied output layer, are trained in full (decision 4). With `layers` they are
    frozen, so that backpropagation stops below the adapted layers.
    """
    if layers:
        return LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=_upper(model, layers))
    names = {id(module): name for name, module in model.named_modules()}
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    rows = {names[id(embedding)]: tokens.marker_ids}
    if head is not None and head.weight is not embedding.weight:
        rows[names[id(head)]] = tokens.marker_ids
    return LoraConfig(
        r=rank, lora_alpha=2 * rank, target_modules="all-linear", trainable_token_indices=rows
    )


def layer_stack(model: PreTrainedModel) -> str:
    """Returns the name of the module that contains the layers of a model."""
    count = model.config.get_text_config().num_hidden_layers
    modules = model.named_modules()
    stack: str = next(
        name for name, part in modules if isinstance(part, ModuleList) and len(part) == count
    )
    return stack


def _upper(model: PreTrainedModel, layers: int) -> list[str]:
    """Returns the names of the linear modules in the upper `layers` of a model.

    Raises ConfigError if the model has fewer layers.
    """
    count = model.config.get_text_config().num_hidden_layers
    if layers > count:
        raise ConfigError(f"backbone.lora_layers is {layers}, but the model has {count} layers")
    stack = layer_stack(model)
    upper = tuple(f"{stack}.{number}." for number in range(count - layers, count))
    return [
        name
        for name, module in model.named_modules()
        if name.startswith(upper) and isinstance(module, (Linear, Conv1D))
    ]


def _add_markers(
    tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel, keywords: Sequence[str]
) -> None:
    """Adds the markers, initialised with the mean embedding of the keyword's words (decision 4)."""
    vocabulary, new = tokenizer.get_vocab(), [token for name in keywords for token in markers(name)]
    if clash := [token for token in new if token in vocabulary]:
        raise ConfigError(
            f"keywords: the backbone's tokenizer already contains {', '.join(clash)}; give the "
            "keyword another name"
        )
    words: dict[str, list[int]] = {
        name: tokenizer(name.replace("_", " ").strip(), add_special_tokens=False)["input_ids"]
        for name in keywords
    }
    _add_tokens(tokenizer, model, new if tokenizer.pad_token else [*new, PAD])
    tokenizer.pad_token = tokenizer.pad_token or PAD
    ids = tokenizer.get_vocab()
    layers = [model.get_input_embeddings(), model.get_output_embeddings()]
    with torch.no_grad():
        # by id, since tied layers share one matrix
        for weight in {id(layer.weight): layer.weight for layer in layers if layer}.values():
            for name in keywords:
                weight[[ids[token] for token in markers(name)]] = weight[words[name]].mean(dim=0)


def _add_tokens(
    tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel, tokens: Sequence[str]
) -> None:
    """Adds special tokens, and rows to the model's embeddings if needed.

    Raises ConfigError if two tokens have the same id.
    """
    _fill_gaps(tokenizer)
    added = [AddedToken(token, special=True, normalized=False) for token in tokens]
    tokenizer.add_tokens(added, special_tokens=True)
    names: dict[int, str] = {}
    for token, id_ in tokenizer.get_vocab().items():
        if (other := names.setdefault(id_, token)) != token:
            raise ConfigError(
                f"backbone.model: its tokenizer gives {other!r} and {token!r} the same id, {id_}; "
                "renumber its vocabulary without gaps, special tokens included"
            )
    rows = max(names) + 1
    if rows > model.get_input_embeddings().num_embeddings:
        model.resize_token_embeddings(rows, mean_resizing=False, pad_to_multiple_of=64)


def _fill_gaps(tokenizer: PreTrainedTokenizerBase) -> None:
    """Assigns unused ids below the largest one to placeholder tokens that no text contains.

    The library numbers new tokens from the vocabulary's size, so gaps would make them reuse ids.
    """
    if not tokenizer.is_fast:
        return
    model = tokenizer.backend_tokenizer.model
    state = json.loads(model.__getstate__())
    vocabulary = state["vocab"]
    if isinstance(vocabulary, dict):  # a list has no gaps
        gaps = set(range(max(vocabulary.values()))) - set(vocabulary.values())
        token_of = {id_: token for token, id_ in tokenizer.get_vocab().items()}
        vocabulary |= {token_of.get(id_, f"<unused {id_}>"): id_ for id_ in gaps}
        model.__setstate__(json.dumps(state).encode())
        tokenizer.backend_tokenizer.model = model
