"""Sections for stage 3: rankers, their training, their selection, and hyperparameter search."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from larr.sections import (
    AboveZero,
    AtLeastTwo,
    Fraction,
    Name,
    NotNegative,
    Positive,
    Section,
    changed,
    leaves,
)


class PleConfig(Section):
    """PLE (Tang et al., RecSys'20), the base of LARR; the other rankers use the same sizes."""

    levels: Positive = 2
    """Extraction levels."""
    shared_experts: Positive = 2
    """Shared experts per level."""
    task_experts: Positive = 2
    """Experts per task and level."""
    expert_units: list[Positive] = Field([128, 64], min_length=1)
    """Units of each layer of an expert."""
    tower_units: list[Positive] = [64]
    """Units of each layer of a task's tower."""
    cross_layers: Annotated[int, Field(ge=0)] = 0
    """DCN-v2 cross layers over the inputs, an additional input of the towers of PLE and LARR. Two
    add 1 to 3 ms to a request of 200 candidates. Paper: 0."""


class SceneConfig(Section):
    """The scene encoder. Paper: Eq. (23); decision 16 for unpublished sizes."""

    layers: Positive = 1
    """Transformer layers. Paper: 1."""
    heads: Positive = 4
    """Attention heads; `embed.dimension` must be divisible by them."""
    feedforward: Positive = 256
    """Units of the feed-forward layer."""
    dropout: Fraction = 0.1
    """Dropout within the encoder's layers."""
    whitened: bool = False
    """Whether text vectors are whitened for LARR. The vectors of a language model vary mostly in
    few directions; after stage 2, which learns the relevant ones, whitening is worse."""
    text_dropout: Fraction = 0.0
    """Probability of masking a text of a row in the training of LARR."""
    pooling: Literal["agg", "mean"] = "agg"
    """Output at `<agg>`, or the mean of all outputs. Decision 15."""
    pre_norm: bool = True
    """Layer norm before (pre-LN) or after (post-LN) each sublayer."""
    matching: bool = True
    """Whether the ranker also reads products of request and place vectors. Paper: False."""
    matching_sources: list[str] = ["tfidf"]
    """Sources of further vectors for these products. Vectors of a language model are close for
    texts of one meaning, those of TF-IDF for texts that share words. Paper: none."""
    learning_rate: AboveZero = 2e-3
    """Learning rate of the scene encoder and all other layers on text vectors. Paper: 8e-4."""
    weight_decay: NotNegative = 2.0
    """AdamW's weight decay of these layers; prevents memorising individual texts."""


class TreesConfig(Section):
    """LightGBM."""

    rounds: Positive = 300
    """Trees per task."""
    learning_rate: AboveZero = 0.05
    """Shrinkage of each tree."""
    leaves: AtLeastTwo = 31
    """Leaves per tree."""
    leaf_rows: Positive = 100
    """Minimum training rows per leaf."""
    l2: NotNegative = 1.0
    """L2 penalty of leaf values."""
    category_l2: NotNegative = 10.0
    """L2 penalty of categorical splits."""


class RankerConfig(Section):
    """The settings of one ranker and its training. Paper: section 3.3, Eq. (22)-(26)."""

    batch_size: Annotated[int, Field(ge=0)] = 0
    """Impressions per step; 0 for about 1,500 steps of 60 to 2,400 impressions. Paper: 2,400, for
    hundreds of millions of impressions a day."""
    epochs: Positive = 1
    """Passes over the training days. Paper: 1."""
    rows: Annotated[int, Field(ge=0)] = 0
    """Number of latest impressions to train on; 0 for all."""
    hidden: list[str] = []
    """Categories that a ranker must not read; for embeddings, their values are unknown."""
    figures: list[str] = []
    """Sources of text vectors, such as `letters`, whose text figures a ranker reads as numbers."""
    learning_rate: AboveZero = 4e-3
    """Peak learning rate, after a linear warm-up over a twentieth of the training; it then decays
    linearly to 0. Paper: 8e-4, for a thousand times as many steps."""
    embedding: Positive = 16
    """Dimension of category embeddings."""
    embedding_l2: NotNegative = 1e-5
    """Factor of the L2 penalty, applied to the embedding rows in a batch."""
    dropout: Fraction = 0.0
    """Dropout in the layers of experts, towers and deep networks."""
    id_dropout: Fraction = 0.1
    """Probability of masking a row's user ID, and its place ID, in training, so that networks learn
    to rank for new ones."""
    temperature: AboveZero = 0.1
    """tau of Eq. (24). Paper: 0.1."""
    beta_ctr: NotNegative = 1.0
    """beta_1 of Eq. (26)."""
    beta_alignment: NotNegative = 0.01
    """beta_2 of Eq. (26). Paper: 0.05."""
    negatives: Annotated[int, Field(ge=0)] = 0
    """Sampled negatives per anchor, in addition to the in-batch negatives. Decision 20."""
    stop_gradient: Literal["none", "semantic", "collaborative"] = "none"
    """The side of the alignment without gradient. Decision 18."""
    alignment_epochs: Annotated[int, Field(ge=0)] = 0
    """Epochs of alignment alone before the joint training. Decision 23."""
    ctcvr: Literal["tower", "product"] = "tower"
    """A separate tower for click-and-order, or ESMM's product. Decision 26."""
    ple: PleConfig = PleConfig()
    scene: SceneConfig = SceneConfig()
    trees: TreesConfig = TreesConfig()

    def with_settings(self, settings: dict[str, Any]) -> RankerConfig:
        """Returns a copy with settings replaced at dotted paths."""
        tree = self.model_dump(include=set(RankerConfig.model_fields))
        return RankerConfig.model_validate(changed(tree, settings))


class VariantConfig(Section):
    """A variant of a ranker, with other settings or vectors."""

    of: str
    """An entry of `larr.rankers.RANKERS`, whose tuned settings also apply to the variant."""
    settings: dict[str, Any] = {}
    """Dotted path below `align` -> value, such as {"scene.layers": 2}."""
    vectors: str | None = None
    """Another source of text vectors."""

    @field_validator("settings")
    @classmethod
    def _dotted(cls, settings: dict[str, Any]) -> dict[str, Any]:
        return dict(leaves(settings))


CONTROLS = {
    f"larr_{source}": VariantConfig(of="larr", vectors=source)
    for source in ("random", "tfidf", "untuned", "shuffled")
}
"""Predefined variants: LARR with vectors that hold less of the texts' meaning. Decision 24."""


BEST = "best"
"""The name in `align.models` of the weighted mean of rankers that `larr choose` selects."""


class AlignConfig(RankerConfig):
    """Stage 3: the rankers to train, and their shared settings."""

    models: list[str] = Field(["wide_deep", "dcn", "lightgbm", "ple", "larr", "best"], min_length=1)
    """Rankers to train: entries of `larr.rankers.RANKERS` or `CONTROLS`, names of `variants`, or
    `best`, which `larr choose` selects."""
    variants: dict[Name, VariantConfig] = {}
    """Further rankers, for ablations: [align.variants.two_layers] of = "larr" ..."""
    tuned: dict[str, dict[str, float | list[str]]] = {}
    """Settings of individual rankers, such as {"scene.dropout": 0.2}; written by `larr tune`."""

    @field_validator("variants")
    @classmethod
    def _best_is_reserved(cls, variants: dict[str, VariantConfig]) -> dict[str, VariantConfig]:
        if BEST in variants:
            raise ValueError(f"{BEST!r} is reserved for `larr choose`; give another name")
        return variants

    @model_validator(mode="after")
    def _tuned_settings_exist(self) -> Self:
        for name in (*self.tuned, *self.variants):
            self.of(name)
        return self

    def variant(self, name: str) -> VariantConfig:
        """Returns the variant of a name; an entry of `larr.rankers.RANKERS` is its own variant."""
        return (CONTROLS | self.variants).get(name, VariantConfig(of=name))

    def of(self, name: str) -> RankerConfig:
        """Returns the settings of a ranker: shared ones, then tuned ones, then its variant's."""
        variant = self.variant(name)
        tuned = self.tuned.get(variant.of, {}) | self.tuned.get(name, {})
        return self.with_settings(tuned | variant.settings)


class ChooseConfig(Section):
    """The selection of the members of `best` on held-back training rows."""

    kinds: list[str] = Field(["lightgbm", "wide_deep", "dcn", "ple", "larr"], min_length=1)
    """Entries of `larr.rankers.RANKERS`."""
    sources: list[str] = ["encoder", "letters", "tfidf", "sentence_encoder"]
    """Sources of text vectors: LARR is tried with the vectors of each, other rankers with their
    text figures. Remove `sentence_encoder` if embedding every text with it takes too long."""
    trials: Positive = 30
    """Maximum number of candidates."""
    rows: Positive = 500_000
    """Maximum number of training rows per trial, the latest. Few rows favour small models: on
    370,000 rows a choice on 150,000 preferred networks to trees, and the trees were better."""
    members: Positive | None = None
    """Maximum number of rankers in `best`; each adds time to every request. By default three, or
    six if at most 25,000 rows are held back: the mean of more rankers depends less on chance."""


class TuneConfig(Section):
    """The hyperparameter search of stage 3, of equal length for every ranker.

    The `search_space` of a ranker defines its hyperparameters and their ranges.
    """

    trials: Positive = 12
    """Trials per ranker; the first has the configured settings."""
    random: Positive = 6
    """Trials before the sampler (TPE) uses the results of earlier ones."""
