"""Stage 3: the settings of a ranker, which rankers to train, and the search for their settings."""

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
    """PLE (Tang et al., RecSys'20), the base of LARR; the other rankers take its sizes."""

    levels: Positive = 2
    """Extraction levels."""
    shared_experts: Positive = 2
    """Shared experts of a level."""
    task_experts: Positive = 2
    """Experts of each task of a level."""
    expert_units: list[Positive] = Field([128, 64], min_length=1)
    """Layers of an expert."""
    tower_units: list[Positive] = [64]
    """Layers of a task's tower."""
    cross_layers: Annotated[int, Field(ge=0)] = 0
    """DCN-v2's cross layers over the inputs, which the towers of PLE and LARR read beside what the
    experts give. Two add 1 to 3 ms to a request of 200 candidates. Paper: 0."""


class SceneConfig(Section):
    """The scene encoder. Paper: Eq. (23); decision 16 for the sizes that it does not give."""

    layers: Positive = 1
    """Transformer layers. Paper: 1."""
    heads: Positive = 4
    """Attention heads; they must divide `embed.dimension`."""
    feedforward: Positive = 256
    """Units of the feed-forward part."""
    dropout: Fraction = 0.1
    """Dropout within the encoder's layers."""
    whitened: bool = False
    """Rescales text vectors to the same variance in all directions before LARR reads them. Those of
    a language model mostly differ in a few; where stage 2 learned which count, this is worse."""
    text_dropout: Fraction = 0.0
    """Chance that LARR reads a text of a row as missing in training, so that it does not rely on
    single texts."""
    pooling: Literal["agg", "mean"] = "agg"
    """Output at `<agg>`, or the mean of all outputs. Decision 15."""
    pre_norm: bool = True
    """Layer norm before (pre-LN) or after (post-LN) each part."""
    matching: bool = True
    """Gives the ranker products of request and place vectors beside e_s; False is the paper's."""
    learning_rate: AboveZero = 2e-3
    """Of the scene encoder and all else that reads text vectors before the ranker does. Paper:
    8e-4."""
    weight_decay: NotNegative = 2.0
    """AdamW's, of the same parts: keeps them from memorising which text is whose."""


class TreesConfig(Section):
    """LightGBM, a rival of another kind."""

    rounds: Positive = 300
    """Trees of a task."""
    learning_rate: AboveZero = 0.05
    """Factor of each tree's contribution."""
    leaves: AtLeastTwo = 31
    """Leaves of a tree."""
    leaf_rows: Positive = 100
    """Fewest training rows of a leaf."""
    l2: NotNegative = 1.0
    """L2 penalty of the leaves' values."""
    category_l2: NotNegative = 10.0
    """The same for splits by a category's values."""


class RankerConfig(Section):
    """The settings of one ranker and of its training. Paper: section 3.3, Eq. (22)-(26)."""

    batch_size: Annotated[int, Field(ge=0)] = 0
    """Impressions in a step; 0 makes 1,500 steps of what is trained on, with steps of 60 to 2,400.
    Paper: 2,400, for hundreds of millions a day."""
    epochs: Positive = 1
    """Passes over the training days. Paper: 1."""
    rows: Annotated[int, Field(ge=0)] = 0
    """Trains on this many of the latest impressions; 0 for all."""
    hidden: list[str] = []
    """Categories that a ranker does not see; to one with embeddings each is as if unknown."""
    figures: list[str] = []
    """Sources of text vectors, such as `letters`, whose text figures a ranker reads as numbers."""
    learning_rate: AboveZero = 4e-3
    """At its peak: it rises for a twentieth of the training, then falls linearly to 0. Paper: 8e-4,
    for a thousand times as many steps."""
    embedding: Positive = 16
    """Length of a category's embedding."""
    embedding_l2: NotNegative = 1e-5
    """L2 penalty's factor, in the gradient of the embedding rows that a batch touches."""
    dropout: Fraction = 0.0
    """Dropout in the layers of experts, towers and deep networks."""
    id_dropout: Fraction = 0.1
    """Chance that a network reads the ID of a row's user, and of its place, as unknown in training,
    so that it learns what to do with new ones."""
    temperature: AboveZero = 0.1
    """tau of Eq. (24). Paper: 0.1."""
    beta_ctr: NotNegative = 1.0
    """beta_1 of Eq. (26)."""
    beta_alignment: NotNegative = 0.01
    """beta_2 of Eq. (26). Paper: 0.05."""
    negatives: Annotated[int, Field(ge=0)] = 0
    """Extra negatives sampled for an anchor, in addition to those in the batch. Decision 20."""
    stop_gradient: Literal["none", "semantic", "collaborative"] = "none"
    """The side of the alignment that gets no gradient. Decision 18."""
    alignment_epochs: Annotated[int, Field(ge=0)] = 0
    """Epochs of alignment alone before the joint training. Decision 23."""
    ctcvr: Literal["tower", "product"] = "tower"
    """A separate tower for click-and-order, or ESMM's product. Decision 26."""
    ple: PleConfig = PleConfig()
    scene: SceneConfig = SceneConfig()
    trees: TreesConfig = TreesConfig()

    def with_settings(self, settings: dict[str, Any]) -> RankerConfig:
        """Returns these settings with others at the dotted paths given."""
        tree = self.model_dump(include=set(RankerConfig.model_fields))
        return RankerConfig.model_validate(changed(tree, settings))


class VariantConfig(Section):
    """A ranker under another name, with settings or vectors that differ."""

    of: str
    """An entry of `larr.rankers.RANKERS`; its tuned settings hold here too."""
    settings: dict[str, Any] = {}
    """Paths below `align`, such as {"scene.layers": 2}."""
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
"""Variants without a declaration: LARR with vectors that know less of the texts' meaning. Decision
24."""


BEST = "best"
"""A name in `align.models` for what `larr choose` decides: the weighted mean of some rankers."""


class AlignConfig(RankerConfig):
    """Stage 3: the rankers to train, and the settings that they share."""

    models: list[str] = Field(["wide_deep", "dcn", "lightgbm", "ple", "larr", "best"], min_length=1)
    """Entries of `larr.rankers.RANKERS` to train, of `CONTROLS`, names of `variants`, or `best`:
    what `larr choose` decides."""
    variants: dict[Name, VariantConfig] = {}
    """Further rankers for ablations: [align.variants.two_layers] of = "larr" ..."""
    tuned: dict[str, dict[str, float | list[str]]] = {}
    """What differs for single rankers, such as {"scene.dropout": 0.2}; `larr tune` writes it."""

    @field_validator("variants")
    @classmethod
    def _best_is_no_variant(cls, variants: dict[str, VariantConfig]) -> dict[str, VariantConfig]:
        if BEST in variants:
            raise ValueError(f"{BEST!r} is what `larr choose` decides; give another name")
        return variants

    @model_validator(mode="after")
    def _tuned_settings_exist(self) -> Self:
        for name in (*self.tuned, *self.variants):
            self.of(name)
        return self

    def variant(self, name: str) -> VariantConfig:
        """Returns what a name means; an entry of `larr.rankers.RANKERS` means itself."""
        return (CONTROLS | self.variants).get(name, VariantConfig(of=name))

    def of(self, name: str) -> RankerConfig:
        """Returns the settings of one ranker: the shared ones, its tuned ones, its variant's."""
        variant = self.variant(name)
        tuned = self.tuned.get(variant.of, {}) | self.tuned.get(name, {})
        return self.with_settings(tuned | variant.settings)


class ChooseConfig(Section):
    """What `larr choose` decides on held-back days: the members of `best`."""

    kinds: list[str] = Field(["lightgbm", "wide_deep", "dcn", "ple", "larr"], min_length=1)
    """Entries of `larr.rankers.RANKERS`."""
    sources: list[str] = ["encoder", "letters", "tfidf", "sentence_encoder"]
    """Sources of text vectors: rankers are tried with their figures, LARR with the vectors of each.
    Leave out `sentence_encoder` if embedding every text with it takes too long."""
    trials: Positive = 30
    """Candidates at most."""
    rows: Positive = 150_000
    """The latest training rows that a trial is trained on, at most."""
    members: Positive = 3
    """Rankers at most whose mean `best` is; each costs time at every request."""


class TuneConfig(Section):
    """The search for settings of stage 3, of the same length for every ranker.

    What is searched, and in which range, is each ranker's `search_space`.
    """

    trials: Positive = 12
    """Trainings of each ranker; the first has the settings as configured."""
    random: Positive = 6
    """Trials before the sampler (TPE) uses the results of earlier ones."""
