"""The text embedding model: a language model, pooling, and a linear head.

Paper: Eq. (10), (22). Shapes: N texts, B texts of a batch, T tokens, H hidden units, D vector
length.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import InputModule, Module
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling
from transformers import AutoModel, AutoTokenizer, PreTrainedModel

from larr.errors import ConfigError, LarrError
from larr.group import ALONE, Group
from larr.machine import bf16_is_fast, device
from larr.text.backbone import KeywordText, KeywordTokenizer, LanguageModel, Parts
from larr.text.checkpoint import attention, model_path, weights_type

SMALL_PARAMETERS = 3_000_000
"""Smaller models compute vectors in float32 and are trained by one thread."""
CPU_BATCH_TOKENS = 4_096
"""Limit for large models; longer batches are no faster and take SmolLM2 more than five seconds."""
PLAIN_TEXTS = 256
"""Texts that `compute_plain` embeds between two progress updates."""


def as_input(parts: Sequence[KeywordText]) -> str:
    """Returns a description as the input string of the text embedding model.

    It is JSON, so that no text can be mistaken for a marker.
    """
    return json.dumps(parts, ensure_ascii=False)


def from_input(text: str) -> Parts:
    """Returns the description in a string from `as_input`; raises LarrError for other strings."""
    try:
        return tuple((str(keyword), str(part)) for keyword, part in json.loads(text))
    except (ValueError, TypeError) as error:
        raise LarrError(
            f"{text[:80]!r} is not a description: expected a JSON list of [keyword, text] pairs "
            "from `larr.text.encoder.as_input`"
        ) from error


class KeywordTransformer(InputModule):
    """Computes the hidden states of descriptions, given as strings from `as_input`.

    Paper: LLM of Eq. (10).
    """

    config_file_name = "keyword_transformer.json"
    config_keys = ["keywords", "max_length"]  # noqa: RUF012 - the library's own declaration
    save_in_root = True

    def __init__(self, model: PreTrainedModel, tokens: KeywordTokenizer) -> None:
        super().__init__()
        self.model = model
        self.tokens = tokens
        self.tokenizer = tokens.tokenizer
        self.keywords = list(tokens.keywords)
        self.max_length = tokens.max_length
        self.max_seq_length = tokens.max_length

    def preprocess(
        self, inputs: Sequence[str], prompt: str | None = None, **_: Any
    ) -> dict[str, torch.Tensor]:
        """Returns `input_ids` and `attention_mask` (int64 [B, T])."""
        if prompt:
            raise LarrError(f"prompt {prompt!r}: prompts are not supported")
        return self.tokens.pad(self.tokens.encode_batch([from_input(text) for text in inputs]))

    def forward(self, features: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Adds `token_embeddings`, the last hidden states (float [B, T, H])."""
        inputs = {name: features[name] for name in ("input_ids", "attention_mask")}
        features["token_embeddings"] = self.model(**inputs).last_hidden_state
        return features

    def save(self, output_path: str, *_: Any, **__: Any) -> None:
        """Writes the model, the tokenizer and the keywords."""
        self.model.save_pretrained(output_path)
        self.tokenizer.save_pretrained(output_path)
        self.save_config(output_path)

    @classmethod
    def load(cls, model_name_or_path: str, **_: Any) -> Self:
        """Returns what `save` wrote."""
        tokenizer = AutoTokenizer.from_pretrained(model_name_or_path, trust_remote_code=False)
        model = AutoModel.from_pretrained(
            model_name_or_path,
            trust_remote_code=False,
            use_safetensors=True,
            attn_implementation=attention(),
            # a CPU keeps the tuned weights in float32, which `mixed_precision` casts
            dtype=weights_type(frozen=device() == "cuda"),
        )
        return cls(model, KeywordTokenizer(tokenizer, **cls.load_config(model_name_or_path)))


class EndTokenPooling(Module):
    """Returns the hidden state at the end marker of the last keyword. Paper: m of Eq. (10).

    Finds it by its id, since padding or a token such as [SEP] may be the last (decision 6).
    """

    config_keys = ["end_ids"]  # noqa: RUF012 - the library's own declaration

    def __init__(self, end_ids: Sequence[int]) -> None:
        super().__init__()
        self.end_ids = sorted(end_ids)

    def forward(self, features: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Adds `sentence_embedding` (float [B, H]); raises LarrError without an end marker."""
        ids_BT, mask_BT = features["input_ids"], features["attention_mask"]
        ends = torch.tensor(self.end_ids, device=ids_BT.device)
        is_end_BT = torch.isin(ids_BT, ends) & mask_BT.bool()
        if not bool(is_end_BT.any(dim=1).all()):
            raise LarrError("a text without an end marker has no vector; build it with `as_input`")
        last_B = (is_end_BT * torch.arange(1, ids_BT.shape[1] + 1, device=ids_BT.device)).argmax(1)
        rows = torch.arange(len(ids_BT), device=ids_BT.device)
        features["sentence_embedding"] = features["token_embeddings"][rows, last_B]
        return features

    def save(self, output_path: str, *_: Any, **__: Any) -> None:
        """Writes the ids of the end markers."""
        self.save_config(output_path)


class Head(Module):
    """The linear layer MLP of Eq. (10), shared by stages 2 and 3 (decision 5).

    It always uses float32, because updates at its small learning rate would be lost in 16 bits.
    """

    config_keys = ["in_features", "out_features"]  # noqa: RUF012 - the library's own declaration

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.linear = torch.nn.Linear(in_features, out_features)

    def forward(self, features: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Projects `sentence_embedding` from [B, H] to [B, D]."""
        state_BH = features["sentence_embedding"]
        features["sentence_embedding"] = self.linear(state_BH.to(self.linear.weight.dtype))
        return features

    def save(self, output_path: str, *_: Any, **__: Any) -> None:
        """Writes the sizes and the weights."""
        self.save_config(output_path)
        self.save_torch_weights(output_path, safe_serialization=True)

    @classmethod
    def load(cls, model_name_or_path: str, subfolder: str = "", **_: Any) -> Self:
        """Returns what `save` wrote."""
        head = cls(**cls.load_config(model_name_or_path, subfolder=subfolder))
        cls.load_torch_weights(model_name_or_path, subfolder=subfolder, model=head)
        return head


def as_encoder(
    lm: LanguageModel, dimension: int | None, pooling: Literal["end", "mean"] = "mean"
) -> SentenceTransformer:
    """Returns the text embedding model around a language model. Paper: Eq. (10), (22).

    `dimension` is the length of the projected, normalised vector; None returns the pooled hidden
    state, for comparison with an untuned model. `pooling` is `contrast.pooling`, by default the
    mean of all tokens' states, because in a small LM the state at the end marker contains less
    about a menu than TF-IDF does (decision 15b).
    """
    body = getattr(lm.model, "base_model", lm.model)
    width = body.config.hidden_size
    pooled = EndTokenPooling(list(lm.tokens.ends.values())) if pooling == "end" else Pooling(width)
    head = None if dimension is None else Head(width, dimension)
    return _assembled(KeywordTransformer(body, lm.tokens), pooled, head)


def load_encoder(folder: Path) -> SentenceTransformer:
    """Returns the text embedding model of stage 2, without importing third-party code.

    Where larr is installed, `SentenceTransformer(folder, trust_remote_code=True)` returns the same
    model; the library requires that flag for every module class outside its own package.
    """
    kinds = {f"1_{kind.__name__}": kind for kind in (EndTokenPooling, Pooling)}
    name = next(name for name in kinds if (folder / name).is_dir())
    return _assembled(
        KeywordTransformer.load(str(folder)),
        kinds[name].load(str(folder), subfolder=name),
        Head.load(str(folder), subfolder="2_Head"),
    )


def load_sentence_encoder(model: str) -> SentenceTransformer:
    """Returns the pretrained encoder of the setting `sentence_encoder`."""
    try:
        source = model_path(model, "sentence_encoder")
        return SentenceTransformer(source, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"sentence_encoder {model!r} could not be read: {str(error)[:300]}; give "
            "`minilm`, a folder, or the Hugging Face name of a sentence-transformers model"
        ) from error


def compute(
    encoder: SentenceTransformer,
    descriptions: Sequence[Sequence[KeywordText]],
    batch_tokens: int,
    advance: Callable[[int], None] = lambda _: None,
    group: Group = ALONE,
) -> np.ndarray:
    """Returns a vector for each description (float32 [N, D]).

    Paper: Eq. (10), (22). Texts of similar length share a batch of at most `batch_tokens` tokens,
    padding included. Calls `advance` with the number of texts in each finished batch. Each process
    of a group computes a part of the batches. A pretrained sentence encoder knows no markers and
    reads the texts alone.
    """
    if not hasattr(encoder[0], "tokens"):
        texts = [" ".join(text for _, text in parts) for parts in descriptions]
        return compute_plain(encoder, texts, advance)
    if encoder.device.type == "cpu" and is_large(encoder):
        batch_tokens = min(batch_tokens, CPU_BATCH_TOKENS)
    tokens: KeywordTokenizer = encoder[0].tokens
    rows = tokens.encode_batch(descriptions)
    if not rows:
        return np.empty((0, 0), dtype=np.float32)
    encoder.eval()
    lengths = np.array([len(row) for row in rows])
    order = np.argsort(lengths, kind="stable")
    batches = [order[part] for part in similar_lengths(lengths[order].tolist(), batch_tokens)]
    batches += batches[-1:] * (-len(batches) % group.size)  # each process computes as many
    # training cannot use tensors of inference mode, and a divided model keeps some
    mode = torch.no_grad() if group.divides else torch.inference_mode()
    parts = []
    for batch in group.part(batches):
        padded = tokens.pad([rows[index] for index in batch])
        with mode, mixed_precision(encoder):
            output = encoder({key: value.to(encoder.device) for key, value in padded.items()})
        parts.append(output["sentence_embedding"].float().cpu())
        advance(len(batch))
    sorted_ND = group.gather_texts(parts, [len(batch) for batch in batches]).numpy()
    vectors_ND = np.empty((len(rows), sorted_ND.shape[1]), dtype=np.float32)
    vectors_ND[np.concatenate(batches)] = sorted_ND
    return vectors_ND


def similar_lengths(
    lengths: Sequence[int], most_tokens: int, spread: float = math.inf
) -> list[slice]:
    """Splits ascending lengths into slices of at most `most_tokens` tokens, padding included.

    The longest text of a slice is at most `spread` times as long as its shortest.
    """
    slices, start = [], 0
    for stop, length in enumerate(lengths):
        is_full = length * (stop + 1 - start) > most_tokens
        if stop > start and (is_full or length > spread * lengths[start]):
            slices.append(slice(start, stop))
            start = stop
    return [*slices, slice(start, len(lengths))]


def compute_plain(
    encoder: SentenceTransformer,
    texts: Sequence[str],
    advance: Callable[[int], None] = lambda _: None,
) -> np.ndarray:
    """Returns the vectors of a pretrained sentence encoder (float32 [N, H])."""
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
    parts = []
    for start in range(0, len(order), PLAIN_TEXTS):
        part = [texts[index] for index in order[start : start + PLAIN_TEXTS]]
        with mixed_precision(encoder):
            parts.append(encoder.encode(part))
        advance(len(part))
    return np.concatenate(parts)[np.argsort(order)]


def is_large(model: torch.nn.Module) -> bool:
    """Whether matrix products take most of a model's time."""
    return sum(parameter.numel() for parameter in model.parameters()) >= SMALL_PARAMETERS


def mixed_precision(encoder: SentenceTransformer) -> torch.autocast:
    """Returns a context that computes matrix products of a large model in bfloat16 if it is fast.

    On an EPYC MiniLM and SmolLM2 then process 3.3 and 3.7 times as many tokens per second.
    """
    enabled = is_large(encoder) and bf16_is_fast()
    return torch.autocast(encoder.device.type, torch.bfloat16, enabled=enabled)


def _assembled(
    first: KeywordTransformer, pooling: Module, head: Head | None
) -> SentenceTransformer:
    encoder = SentenceTransformer(modules=[first, pooling])
    if head is not None:  # appended, since the constructor casts all modules to one precision
        encoder.append(head.to(encoder.device))
        encoder.append(Normalize())
    return encoder
