"""All settings of larr, with units and sources; defaults < TOML file < `--set a.b=v`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, get_args

from pydantic import Field, create_model, model_validator

from larr.config.data import (
    RESERVED_KEYWORDS,
    BucketConfig,
    DatasetConfig,
    FeatureConfig,
    KeywordConfig,
    ProfileConfig,
    StatisticConfig,
    TableName,
    is_query,
)
from larr.config.rankers import CONTROLS, AlignConfig, ChooseConfig, TuneConfig
from larr.config.text import (
    BackboneConfig,
    ContrastConfig,
    DistillConfig,
    EmbedConfig,
    InstructConfig,
    PretrainConfig,
)
from larr.plugins import plugins
from larr.sections import Name, Positive, Section, changed


class EvaluateConfig(Section):
    """Metrics on the test days, with confidence intervals."""

    bootstrap: Positive = 500
    """Resamples of the users for paired intervals."""
    slices: list[str] = []
    """Columns for whose values the CTR AUC is reported separately."""
    gains: list[tuple[str, str]] = [("larr", "ple")]
    """Pairs of models to compare: the gain of the first over the second."""


class ClusterConfig(Section):
    """Parallel processing; it does not change the results (stages 1 and 2: up to rounding)."""

    engine: Literal["local", "ray"] = "local"
    """`local`: processes on this machine; `ray`: tasks on the machines of a Ray cluster. Needs the
    extra `ray`."""
    workers: Positive = 1
    """Processes that prepare the log, train the language model together, embed, or train rankers
    (one process on a GPU). They share the threads of the CPU."""
    divide_rankers: bool = False
    """Whether all workers train each ranker together, one ranker after another, on parts of every
    batch, and divide its embedding table. By default each worker trains another ranker."""
    divide_model: bool = False
    """Whether the workers that train the language model together divide its weights, gradients and
    optimizer state among them, for a model that does not fit into the memory of one."""
    address: str = ""
    """Address of a Ray cluster, such as `auto`; its machines need larr and the folder `output`
    under the same path. If empty, a local Ray is started for the stage."""


class Config(Section):
    """The complete configuration of a run."""

    seed: Annotated[int, Field(ge=0, lt=2**32)] = 1
    """Seed of the simulated world and of the models."""
    output: Path = Path("runs/larr")
    """Folder of the stages; by default `runs/` and the name of the configuration file."""
    keep_trained: bool = False
    """Whether the language models and the choice of `best` are kept when the tables change, for a
    daily refresh: it embeds the new texts and trains the rankers. The tables must only go forward
    in time, as the kept models may know the days before."""
    dataset: DatasetConfig = DatasetConfig()
    keywords: list[KeywordConfig] = []
    buckets: list[BucketConfig] = []
    profiles: list[ProfileConfig] = []
    statistics: list[StatisticConfig] | None = None
    """Cross statistics that rankers read; chosen from the features if not set, [] for none."""
    features: FeatureConfig = FeatureConfig()
    backbone: BackboneConfig = BackboneConfig()
    pretrain: PretrainConfig = PretrainConfig()
    contrast: ContrastConfig = ContrastConfig()
    distill: DistillConfig = DistillConfig()
    instruct: InstructConfig = InstructConfig()
    embed: EmbedConfig = EmbedConfig()
    sentence_encoder: str = "minilm"
    """The pretrained model of rankers with `vectors = "sentence_encoder"`: `minilm`, a folder, or a
    Hugging Face name."""
    encoders: dict[Name, dict[str, Any]] = {}
    """Further text embedding models: name -> changed settings below `backbone`, `pretrain` and
    `contrast`, such as {"contrast.shuffle_keywords": false}. A variant of a ranker reads the
    vectors of one if `vectors` is its name."""
    align: AlignConfig = AlignConfig()
    choose: ChooseConfig = ChooseConfig()
    tune: TuneConfig = TuneConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    cluster: ClusterConfig = ClusterConfig()

    @model_validator(mode="after")
    def _names_are_unique(self) -> Self:
        keywords = [keyword.name for keyword in self.keywords]
        for what, names in (
            ("keyword names", keywords),
            ("profile names", [profile.name for profile in self.profiles]),
            ("columns of buckets", [bucket.column for bucket in self.buckets]),
            ("pairs of statistics", [sorted(pair.columns) for pair in self.statistics or []]),
        ):
            if any(name in names[:n] for n, name in enumerate(names)):
                raise ValueError(f"{what} must be unique, got {names}")
        if taken := RESERVED_KEYWORDS.intersection(keywords):
            raise ValueError(f"reserved keyword names: {', '.join(sorted(taken))}; rename them")
        return self

    @model_validator(mode="after")
    def _encoders_change_only_the_language_model(self) -> Self:
        for name, settings in self.encoders.items():
            for path in settings:
                if path.split(".")[0] not in ("backbone", "pretrain", "contrast"):
                    raise ValueError(
                        f"encoders.{name}: {path} is not below backbone, pretrain or contrast"
                    )
            self.for_encoder(name)  # validates their values
        return self

    @model_validator(mode="after")
    def _heads_divide_dimension(self) -> Self:
        for name in ("larr", *CONTROLS, *self.align.variants):
            heads = self.align.of(name).scene.heads
            if self.embed.dimension % heads:
                raise ValueError(
                    f"align.scene.heads ({name}) must divide embed.dimension, got {heads} and "
                    f"{self.embed.dimension}"
                )
        return self

    def with_settings(self, settings: dict[str, Any]) -> Config:
        """Returns a copy with settings replaced at dotted paths."""
        return Config.model_validate(changed(self.model_dump(), settings))

    def for_encoder(self, name: str) -> Config:
        """Returns the configuration of one of `encoders`, with its own output folder."""
        tree = changed(self.model_dump(exclude={"encoders"}), self.encoders[name])
        return Config.model_validate(tree | {"output": self.output / "encoders" / name})

    def source(self, path: Path | str) -> Path:
        """Returns the path of a file of the data set, with the folder and the seed inserted."""
        return self.dataset.folder / str(path).replace("{seed}", str(self.seed))

    @property
    def sources(self) -> list[Path]:
        """The files and folders that the data set reads."""
        tables = dict(self.dataset.tables)
        paths = [tables[name] for name in get_args(TableName)]
        named = [file.path for file in self.dataset.files.values()]
        own = [path for path in paths if path and not is_query(path)]
        section = getattr(self.dataset, self.dataset.kind, None)
        values = dict(section).values() if isinstance(section, Section) else ()
        of_plugin = [value for value in values if isinstance(value, Path)]
        return [self.source(path) for path in (*own, *filter(None, named), *of_plugin)]

    @property
    def scene_keywords(self) -> list[KeywordConfig]:
        """The r keywords that the scene encoder reads, in slot order. Paper: Eq. (22)."""
        return [keyword for keyword in self.keywords if keyword.scene]


def _extended(section: type[Section], above: str, **fields: Any) -> Any:
    """Returns a section extended by those of other packages; see `larr.plugins`."""
    for path, point in plugins("settings").items():
        parent, _, name = path.rpartition(".")
        if parent == above:
            added = point.load()
            fields[name] = (added, added())
    return create_model(section.__name__, __base__=section, __doc__=section.__doc__, **fields)


if not TYPE_CHECKING:
    # Worker processes unpickle sections by name, so each must replace the class that it extends.
    DatasetConfig = _extended(DatasetConfig, "dataset")
    Config = _extended(Config, "", dataset=(DatasetConfig, DatasetConfig()))
