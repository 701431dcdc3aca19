"""The interface that training, tuning, scoring and serving use for every ranker.

To add a ranker, write a file with one class and add a line to `larr.rankers.RANKERS` (in another
package: an entry point of the group `larr.rankers`). `larr align`, `tune`, `evaluate` and the
report then support it, and the tests of `tests/rankers/test_contract.py` run on it.

Shapes: B rows of a batch, V texts, D dimension of their vectors, R scene keywords, F categories, T
tasks.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from larr.config.rankers import RankerConfig
from larr.data.batches import Batch, LogRows
from larr.data.features import Features
from larr.group import ALONE, Group
from larr.rankers.graph import Logits, graph_inputs, write_graph

IDS = ("user_id", "poi_id")
"""Categories that let a ranker memorise single users and places."""
LossCurve = list[dict[str, float]]
"""Points of a training: `samples` so far, and the means since the previous point of the `loss` and
its two parts, `click` (L_ctr) and `alignment` (L_cl)."""


class Range(NamedTuple):
    """The values of a setting that `larr tune` searches."""

    low: float
    high: float
    log: bool = True
    """Whether to sample the logarithm uniformly, for settings that act as factors."""
    integer: bool = False


@dataclass(frozen=True)
class RankerInputs:
    """The constructor arguments of a ranker."""

    name: str
    """The name in `align.models`, for messages."""
    features: Features
    settings: RankerConfig
    vectors: Tensor = field(default_factory=lambda: torch.empty(0, 0))
    """The stored vectors of each text, [V, D]; empty without text vectors. Paper: Eq. (22)."""
    sources: int = 1
    """The number of sources whose vectors, each of dimension D / `sources`, `vectors` joins. The
    scene encoder reads those of the first one."""
    slots: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    """The scene keyword of each text, [V]; -1 for other texts."""
    centres: Tensor = field(default_factory=lambda: torch.zeros(1, 1))
    """The mean vector of each scene keyword's texts, [R, D], to subtract before use.

    Texts of one keyword share most of their vector, and the shared part carries no information.
    """
    scales: Tensor = field(default_factory=lambda: torch.ones(1, 1))
    """Factors that scale each keyword's centred vectors to mean squared length 1, [R, D]; sources
    have equal shares of it."""
    axes: Tensor = field(default_factory=lambda: torch.empty(0, 0))
    """A matrix that multiplies the raw vectors of the first source; empty to leave them
    unchanged."""
    poi_slots: tuple[int, ...] = ()
    """The indices of the scene keywords that describe the place."""
    recent_texts: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int32))
    """The index of the text of each `poi_id`, [size of its vocabulary]; -1 = none."""
    recent_slot: int | None = None
    """The scene keyword of these texts; None if recent places have no text."""
    figures: int = 0
    """The number of text figures in a batch."""
    group: Group = ALONE
    """The processes that train it together."""

    @property
    def seen(self) -> Tensor:
        """1 for each category that the ranker may read, else 0, int32 [F]."""
        names = [category.name for category in self.features.categories]
        seen = [name not in self.settings.hidden for name in names]
        return torch.tensor(seen, dtype=torch.int32)

    @property
    def numbers(self) -> int:
        """The number of numeric features of a row, including text figures."""
        return len(self.features.numbers) + self.figures


class Ranker(ABC):
    """A model that scores impressions; construct it, then call `fit` or `load`."""

    text_vectors: ClassVar[str | None] = None
    """The folder under `embed/` with its text vectors, unless a variant names another one; None if
    it reads no texts."""
    figures: Mapping[Path, int] = {}
    """The folders of its text figures and their numbers of columns, in the order of a batch;
    `larr.rankers.build` sets it."""
    foldable = False
    """Whether `larr.serve.fold` can precompute the parts that depend on one place or one text.
    Requires a subclass of `larr.rankers.ple.Ple`; other rankers are served as a graph."""
    search_space: ClassVar[Mapping[str, Range]] = {}
    """The settings that `larr tune` searches, by their paths below `align`."""
    starts: ClassVar[Sequence[Mapping[str, Any]]] = ({},)
    """The settings that `larr choose` tries first, by their paths."""
    alternatives: ClassVar[Mapping[str, Sequence[Any]]] = {}
    """Other values that `larr choose` tries for a setting, one at a time, in this order. Numbers
    are ascending; only the next smaller and the next larger one are tried."""

    @abstractmethod
    def __init__(self, inputs: RankerInputs) -> None:
        """Builds the untrained ranker."""

    def initialise(self, seed: int) -> None:  # noqa: B027 - optional
        """Draws the initial parameters; by default keeps those of the constructor."""

    @abstractmethod
    def fit(self, log: LogRows, seed: int) -> LossCurve:
        """Trains on a log and returns the losses; the ranker can score afterwards."""

    @abstractmethod
    def score(self, batch: Batch) -> Tensor:
        """Returns the logits, float32 [B, T] on the CPU; rows do not affect each other."""

    @abstractmethod
    def save(self, path: Path) -> None:
        """Writes the trained state as safetensors."""

    @abstractmethod
    def load(self, path: Path) -> None:
        """Restores the state that `save` wrote; the ranker can score afterwards."""

    def write_graph(self, path: Path, example: Batch) -> None:
        """Writes an ONNX graph from the arrays of a batch to `logits`, for serving.

        Exports `score` by default, which must then use only torch operations. `example` has two
        rows.
        """
        write_graph(Logits(self.score), graph_inputs(example), path)
