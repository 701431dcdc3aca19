"""The language model: its tokenizer, the keywords' special tokens, its LoRA adapters.

A keyword's two special tokens, `<k>` and `</k>`, are called its markers.
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
"""Added to a tokenizer without a token for padding."""

KeywordText = tuple[str, str]
"""A keyword and its text: one piece t_i^k of a description. Paper: Eq. (2)."""


def markers(keyword: str) -> tuple[str, str]:
    """Returns sp^bos and sp^eos of a keyword. Paper: Eq. (4), (8)."""
    return f"<{keyword}>", f"</{keyword}>"


class KeywordTokenizer:
    """Turns keyword texts into token ids, with markers that no text can forge.

    Paper: Eq. (3)-(6), (8)-(9). Texts come from users, so a menu may contain "</poi_menu>". Each
    text is therefore tokenized alone and the markers are put around it by id, never as a string.
    Around a description comes what the tokenizer puts around a text, such as [CLS] and [SEP].
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, keywords: Sequence[str], max_length: int
    ) -> None:
        alone, around = (
            tokenizer("a", add_special_tokens=added)["input_ids"] for added in (False, True)
        )
        start = next(at for at in range(len(around)) if around[at : at + len(alone)] == alone)
        self.first: list[int] = around[:start]
        self.last: list[int] = around[start + len(alone) :]
        least = 3 * len(keywords) + len(around) - len(alone)
        if max_length < least:
            raise ConfigError(
                f"backbone.max_length is {max_length}: {len(keywords)} keywords need at least "
                f"{least} tokens, two special tokens and one of text each"
            )
        self.tokenizer = tokenizer
        self.keywords = tuple(keywords)
        self.max_length = max_length
        ids = tokenizer.get_vocab()
        if missing := [pair for pair in map(markers, keywords) if not ids.keys() >= set(pair)]:
            raise LarrError(f"the tokenizer lacks {missing[0][0]}; run `larr pretrain` again")
        self.starts: dict[str, int] = {name: ids[markers(name)[0]] for name in keywords}
        self.ends: dict[str, int] = {name: ids[markers(name)[1]] for name in keywords}
        self._special = frozenset(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
        self.marker_ids = sorted([*self.starts.values(), *self.ends.values()])
        self._special |= frozenset(self.marker_ids)
        self._ids_of: dict[str, list[int]] = {}
        self.shortened = 0
        """How many descriptions lost the ends of their longest texts."""

    def text_ids(self, texts: Iterable[str]) -> list[list[int]]:
        """Returns the ids of plain texts, each tokenized alone, without any special token.

        They are cached: training reads the same texts again and again, in other orders.
        """
        texts = list(texts)
        new = [text for text in dict.fromkeys(texts) if text not in self._ids_of]
        if new and len(self._ids_of) > CACHED_TEXTS:
            self._ids_of, new = {}, list(dict.fromkeys(texts))
        if new:
            encoded = self.tokenizer(
                new, add_special_tokens=False, split_special_tokens=True, verbose=False
            )
            for text, ids in zip(new, encoded["input_ids"], strict=True):
                # not every tokenizer respects `split_special_tokens`
                self._ids_of[text] = [id_ for id_ in ids if id_ not in self._special]
        return [self._ids_of[text] for text in texts]

    def encode(self, parts: Sequence[KeywordText]) -> list[int]:
        """Returns the ids of one description: `<k> text </k>` for each part. Paper: Eq. (3).

        One that exceeds `max_length` loses the ends of its longest texts, but no marker. Raises
        LarrError for a description without parts or with an unknown keyword.
        """
        if not parts:
            raise LarrError("a description without any keyword has no vector; leave its row out")
        if unknown := [keyword for keyword, _ in parts if keyword not in self.starts]:
            raise LarrError(
                f"unknown keyword {unknown[0]!r}; this model knows {', '.join(self.keywords)}"
            )
        texts = self.text_ids(text for _, text in parts)
        budget = self.max_length - 2 * len(parts) - len(self.first) - len(self.last)
        if sum(map(len, texts)) > budget:
            self.shortened += 1
            longest = budget // len(texts)
            while sum(min(len(text), longest + 1) for text in texts) <= budget:
                longest += 1
            texts = [text[:longest] for text in texts]
        ids = list(self.first)
        for (keyword, _), text in zip(parts, texts, strict=True):
            ids += [self.starts[keyword], *text, self.ends[keyword]]
        return ids + self.last

    def encode_batch(self, descriptions: Sequence[Sequence[KeywordText]]) -> list[list[int]]:
        """Returns `encode` of each description, with one call of the tokenizer."""
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
    """A causal language model or an encoder, and the tokenizer of its keyword texts."""

    model: PreTrainedModel
    tokens: KeywordTokenizer

    @property
    def predicts(self) -> Literal["next", "masked"] | None:
        """Which tokens its head predicts; None for an encoder without a head."""
        kind, config = type(self.model), self.model.config
        if kind is MODEL_FOR_MASKED_LM_MAPPING.get(type(config), None):
            return "masked"
        # some sentence encoders are decoders that see a text in both directions
        both_ways = getattr(config.get_text_config(), "use_bidirectional_attention", False)
        is_causal = kind is MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None) and not both_ways
        return "next" if is_causal else None


def load_base(config: Config, *, weights: bool = True) -> LanguageModel:
    """Returns the model that `config.backbone` names, with the keywords' markers added.

    Without `weights` it is on torch's meta device: its sizes are known, and it takes no memory.
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
    """Returns LoRA on all linear layers, or on those of so many upper layers of the model.

    The markers' embeddings are new, so a low-rank update of them would not do: their rows, and
    those of an untied output layer, are trained in full (decision 4). With upper layers alone they
    stay as they are, so that nothing below is computed backwards.
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


def stack_of(model: PreTrainedModel) -> str:
    """Returns the name of the module that holds a model's layers."""
    count = model.config.get_text_config().num_hidden_layers
    modules = model.named_modules()
    stack: str = next(
        name for name, part in modules if isinstance(part, ModuleList) and len(part) == count
    )
    return stack


def _upper(model: PreTrainedModel, layers: int) -> list[str]:
    """Returns the names of the linear modules in the upper layers of a model.

    Raises ConfigError if it has fewer layers.
    """
    count = model.config.get_text_config().num_hidden_layers
    if layers > count:
        raise ConfigError(f"backbone.lora_layers is {layers}: the model has {count} layers")
    stack = stack_of(model)
    upper = tuple(f"{stack}.{number}." for number in range(count - layers, count))
    return [
        name
        for name, module in model.named_modules()
        if name.startswith(upper) and isinstance(module, (Linear, Conv1D))
    ]


def _add_markers(
    tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel, keywords: Sequence[str]
) -> None:
    """Adds the markers; their embeddings start at the mean of the keyword's words (decision 4)."""
    vocabulary, new = tokenizer.get_vocab(), [token for name in keywords for token in markers(name)]
    if clash := [token for token in new if token in vocabulary]:
        raise ConfigError(
            f"keywords: the tokenizer of the backbone already has {', '.join(clash)}; give the "
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
        # by id: with tied weights both layers hold one matrix
        for weight in {id(layer.weight): layer.weight for layer in layers if layer}.values():
            for name in keywords:
                weight[[ids[token] for token in markers(name)]] = weight[words[name]].mean(dim=0)


def _add_tokens(
    tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel, tokens: Sequence[str]
) -> None:
    """Adds special tokens, and rows to the model's embeddings where it has too few.

    Raises ConfigError if two tokens have the same id.
    """
    _fill_holes(tokenizer)
    added = [AddedToken(token, special=True, normalized=False) for token in tokens]
    tokenizer.add_tokens(added, special_tokens=True)
    names: dict[int, str] = {}
    for token, id_ in tokenizer.get_vocab().items():
        if (other := names.setdefault(id_, token)) != token:
            raise ConfigError(
                f"backbone.model: its tokenizer gives {other!r} and {token!r} the same id, {id_}; "
                "number its vocabulary without holes, special tokens included"
            )
    rows = max(names) + 1
    if rows > model.get_input_embeddings().num_embeddings:
        model.resize_token_embeddings(rows, mean_resizing=False, pad_to_multiple_of=64)


def _fill_holes(tokenizer: PreTrainedTokenizerBase) -> None:
    """Gives the ids without a word, below the largest one, to words that no text contains.

    The library numbers new tokens from the count of words on: with holes these are ids of words.
    """
    if not tokenizer.is_fast:
        return
    words = tokenizer.backend_tokenizer.model
    state = json.loads(words.__getstate__())
    vocabulary = state["vocab"]
    if isinstance(vocabulary, dict):  # a list has no holes
        holes = set(range(max(vocabulary.values()))) - set(vocabulary.values())
        named = {id_: token for token, id_ in tokenizer.get_vocab().items()}
        vocabulary |= {named.get(id_, f"<unused {id_}>"): id_ for id_ in holes}
        words.__setstate__(json.dumps(state).encode())
        tokenizer.backend_tokenizer.model = words
