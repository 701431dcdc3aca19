"""Stages 1 and 2: the language model, its training, its vectors."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from larr.sections import AboveZero, AtLeastTwo, Fraction, NotNegative, Positive, Section

BUILTIN_MODEL = "builtin"


class BackboneConfig(Section):
    """The language model: a causal one or an encoder. Paper: Baichuan2-7B."""

    model: str = BUILTIN_MODEL
    """`builtin` (the small decoder that comes with larr), `smollm2`, `minilm` (see the extras of
    larr), a GGUF file, or the folder or Hugging Face name of a causal language model or an
    encoder."""
    revision: str | None = None
    """A branch, tag or commit of a Hugging Face model."""
    lora_rank: Annotated[int, Field(ge=0)] = 0
    """Rank of LoRA adapters, trained with the rows of the special tokens; 0 trains all weights."""
    lora_layers: Annotated[int, Field(ge=0)] = 0
    """Upper layers of the model that stage 2 tunes if `lora_rank` is set; the others and the rows
    of the special tokens stay as stage 1 leaves them, which saves time and memory. 0 tunes all."""
    max_length: Positive = 128
    """Tokens of one text or description, special tokens included."""


class PretrainConfig(Section):
    """Stage 1, continual pretraining. Paper: section 3.1, Eq. (1)-(7)."""

    epochs: Annotated[float, Field(ge=0.0)] = 1.0
    """Passes over the place descriptions; 0 leaves the base model as it is. Paper: 1."""
    batch_size: Positive = 32
    """Sequences in a step."""
    learning_rate: AboveZero = 1e-3
    """Paper: 1e-4 for a 7B model."""
    general_ratio: Annotated[float, Field(ge=0.0)] = 1.0
    """Tokens of general text per token of the place descriptions. Paper: 9."""
    general_text: Literal["builtin"] | Path | None = None
    """A text file with one document per line, or `builtin`: the text that the built-in model was
    trained on. If absent, the built-in model reads that text, and another model none."""
    max_steps: Annotated[int, Field(ge=0)] = 0
    """Stops after this many steps; 0 for no limit."""


class ContrastConfig(Section):
    """Stage 2, contrastive tuning. Paper: section 3.2, Eq. (10)-(21)."""

    triples: AtLeastTwo = 16_000
    """Training examples, each a user-user, a place-place and a user-place pair."""
    batch_size: AtLeastTwo = 128
    """Triples in a step: each has batch_size - 1 in-batch negatives."""
    learning_rate: AboveZero = 1e-3
    """Peak learning rate; in batches of 32 the small decoder collapses to one vector at it."""
    temperature: AboveZero = 0.05
    """tau of Eq. (12)-(19). Decision 8."""
    lambda_user_user: NotNegative = 0.2
    """lambda_1 of Eq. (21). Decision 8."""
    lambda_place_place: NotNegative = 0.2
    """lambda_2 of Eq. (21). Decision 8."""
    lambda_user_place: NotNegative = 1.0
    """lambda_3 of Eq. (21)."""
    pooling: Literal["end", "mean"] = "mean"
    """A text's state: that of its last end token (the paper's), or the mean of all its tokens, in
    which a small LM holds more of the text. Decision 15b."""
    shuffle_keywords: bool = True
    """Keywords in random order, so that each end token learns to be a summary. Decision 5."""
    drop_keyword: Fraction = 0.5
    """Chance of leaving a keyword out of a text. Decision 5."""
    single_keyword: Fraction = 0.4
    """Chance of keeping one keyword alone. Decision 5."""
    shown: Annotated[int, Field(ge=0)] = 4
    """Places that were shown beside the ordered one and not clicked, chosen at random, which are
    negatives of this order. Paper: 0. Decision 9a."""
    correct_popularity: bool = True
    """Whether a place's scores are corrected for its share among the orders (logQ), by which it is
    an in-batch negative the more often the more popular it is. Paper: no. Decision 9a."""
    near: str = ""
    """A column of places, such as `poi_city`: orders at places with one value become each other's
    negatives, which teach taste, where those from elsewhere teach the map; empty for none."""
    mask_false_negatives: bool = True
    """Same user, same place, same chain and equal texts are no negatives. Decisions 9, 10."""
    held_out: Fraction = 0.1
    """Share of users and of places kept for the retrieval metrics."""


class DistillConfig(Section):
    """A smaller text embedding model that gives nearly the vectors of stage 2's: `larr distill`."""

    way: Literal["layers", "width"] = "layers"
    """`layers` leaves layers out, evenly, and trains the rest; `width` removes hidden units, heads
    and feed-forward units one after the other in the training, those first that matter least to
    the loss (HomoDistil; BERT, XLM-R, Llama, Mistral and Qwen)."""
    keep: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.5
    """Share that is kept: of the layers, or of hidden units, of heads and of feed-forward units."""
    texts: Positive = 20_000
    """Distinct texts of training orders, at most, whose vectors the smaller model learns."""
    epochs: AboveZero = 4.0
    """Passes over them."""
    batch_size: Positive = 64
    """Texts in a step."""
    learning_rate: AboveZero = 5e-4
    """Peak learning rate."""


class EmbedConfig(Section):
    """Embedding of each distinct text. Paper: Eq. (22)."""

    batch_tokens: Positive = 16_384
    """Tokens in a batch, padding included."""
    dimension: Positive = 128
    """Length of a text vector. Paper: 128."""
