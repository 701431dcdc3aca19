"""Sections for stages 1 and 2: the language model, its training, the text vectors."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from larr.sections import AboveZero, AtLeastTwo, Fraction, NotNegative, Positive, Section

BUILTIN_MODEL = "builtin"


class BackboneConfig(Section):
    """The language model: a causal LM or an encoder. Paper: Baichuan2-7B."""

    model: str = BUILTIN_MODEL
    """`builtin` (the small decoder of larr), `smollm2`, `minilm` (see the extras of larr), a GGUF
    file, or the folder or Hugging Face name of a causal language model or an encoder."""
    revision: str | None = None
    """A branch, tag or commit of a Hugging Face model."""
    lora_rank: Annotated[int, Field(ge=0)] = 0
    """Rank of LoRA adapters, trained with the embeddings of the special tokens; 0 trains all
    weights."""
    lora_layers: Annotated[int, Field(ge=0)] = 0
    """Number of upper layers that stage 2 tunes if `lora_rank` is set; 0 for all. The other layers
    and the special tokens are then frozen, which saves time and memory."""
    max_length: Positive = 128
    """Maximum number of tokens of a text or description, with special tokens."""


class PretrainConfig(Section):
    """Stage 1, continual pretraining. Paper: section 3.1, Eq. (1)-(7)."""

    epochs: Annotated[float, Field(ge=0.0)] = 1.0
    """Passes over the place descriptions; 0 skips training. Paper: 1."""
    batch_size: Positive = 32
    """Sequences per step."""
    learning_rate: NotNegative = 0.0
    """Peak learning rate; 0 selects 1e-3 for the built-in model and 1e-4, the paper's, for others.
    """
    general_ratio: Annotated[float, Field(ge=0.0)] = 1.0
    """Tokens of general text per token of place descriptions. Paper: 9."""
    general_text: Literal["builtin"] | Path | None = None
    """A text file with one document per line, or `builtin`: the training text of the built-in
    model. If not set, the built-in model uses this text, and other models none."""
    max_steps: Annotated[int, Field(ge=0)] = 0
    """Maximum number of steps; 0 for no limit."""


class ContrastConfig(Section):
    """Stage 2, contrastive tuning. Paper: section 3.2, Eq. (10)-(21)."""

    triples: AtLeastTwo = 16_000
    """Training examples, each a user-user, a place-place and a user-place pair."""
    batch_size: AtLeastTwo = 128
    """Triples per step: each has batch_size - 1 in-batch negatives."""
    learning_rate: NotNegative = 0.0
    """Peak learning rate; 0 selects 1e-3 for the built-in model and 1e-4 for others. With batches
    of 32, 1e-3 makes the built-in model collapse to one vector."""
    temperature: AboveZero = 0.05
    """tau of Eq. (12)-(19). Decision 8."""
    lambda_user_user: NotNegative = 0.2
    """lambda_1 of Eq. (21). Decision 8."""
    lambda_place_place: NotNegative = 0.2
    """lambda_2 of Eq. (21). Decision 8."""
    lambda_user_place: NotNegative = 1.0
    """lambda_3 of Eq. (21)."""
    pooling: Literal["end", "mean"] = "mean"
    """Pooling of a text: its last end token (the paper's), or the mean over its tokens, which
    contains more of the text in a small LM. Decision 15b."""
    shuffle_keywords: bool = True
    """Whether keywords are shuffled, so that each end token learns to summarise. Decision 5."""
    drop_keyword: Fraction = 0.5
    """Probability of dropping a keyword from a text. Decision 5."""
    single_keyword: Fraction = 0.4
    """Probability of keeping only one keyword. Decision 5."""
    shown: Annotated[int, Field(ge=0)] = 4
    """Number of negatives per order from the unclicked places that competed with it, chosen at
    random. Paper: 0. Decision 9a."""
    correct_popularity: bool = True
    """Whether scores are corrected for popularity (logQ), as popular places are in-batch negatives
    more often. Paper: no. Decision 9a."""
    near: str = ""
    """A column of places, such as `poi_city`: batches contain groups of orders with the same value,
    as negatives from one city teach taste rather than geography; empty for none."""
    mask_false_negatives: bool = True
    """Whether pairs with the same user, place, chain or text are excluded as negatives. Decisions
    9, 10."""
    held_out: Fraction = 0.1
    """Share of users and of places held out for the retrieval metrics."""


class DistillConfig(Section):
    """`larr distill`: a smaller text embedding model that imitates the one of stage 2."""

    way: Literal["layers", "width"] = "layers"
    """`layers` drops evenly spaced layers and trains the rest; `width` prunes hidden units, heads
    and feed-forward units during training, the least important for the loss first (HomoDistil; for
    BERT, XLM-R, Llama, Mistral and Qwen)."""
    keep: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.5
    """Share to keep of the layers, or of the hidden units, heads and feed-forward units."""
    texts: Positive = 20_000
    """Maximum number of distinct texts of training orders to train on."""
    epochs: AboveZero = 4.0
    """Passes over the texts."""
    batch_size: Positive = 64
    """Texts per step."""
    learning_rate: AboveZero = 5e-4
    """Peak learning rate."""


class InstructConfig(Section):
    """`larr instruct`: the LM learns to predict what a user orders next (HKFR, arXiv 2308.03333).

    Rankers read the model's vectors as the source `instructed`, and its predictions as figures of
    the source `predictions`.
    """

    knowledge: str = ""
    """A scene keyword of users or scenes: one text with the knowledge about a user."""
    answers: list[str] = []
    """Scene keywords of places to predict from the knowledge, such as the category and the price in
    words. Together they have at most `embed.dimension` distinct texts."""
    summariser: str = ""
    """A causal language model, named as in `backbone.model`, that rewrites each knowledge text as a
    sentence before the LM reads it; empty to leave the text as its template wrote it."""
    orders: Positive = 50_000
    """Maximum number of orders to train on."""
    epochs: AboveZero = 1.0
    """Passes over the orders. With more passes the model remembers orders that rankers train on."""
    batch_size: Positive = 64
    """Sequences per step: an order and an answer each."""
    learning_rate: NotNegative = 0.0
    """Peak learning rate; 0 selects 1e-3 for the built-in model and 1e-4 for others."""


class EmbedConfig(Section):
    """The embedding of each distinct text. Paper: Eq. (22)."""

    batch_tokens: Positive = 16_384
    """Tokens per batch, with padding."""
    dimension: Positive = 128
    """Dimension of a text vector. Paper: 128."""
