"""The interface of a ranker: what training, tuning, scoring and serving ask of it.

A new ranker is a file with one class, and a line in `larr.rankers.RANKERS` (in another package: an
entry point of the group `larr.rankers`). The tests of `tests/rankers/test_contract.py` then run on
it, and `larr align`, `tune`, `evaluate` and the report know it.

Shapes: B rows of a batch, V texts, D dimension of their vectors, R scene keywords, T tasks.
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
from larr.rankers.graph import Logits, inputs_of, write_graph

IDS = ("user_id", "poi_id")
"""Categories by which a ranker can memorise who did what where."""
LossCurve = list[dict[str, float]]
"""Points along a training: `samples` so far, and since the point before the means of the `loss`
and of its two parts, `click` (L_ctr) and `alignment` (L_cl)."""


class Range(NamedTuple):
    """The values among which `larr tune` searches a setting."""

    low: float
    high: float
    log: bool = True
    """Whether the logarithm is drawn evenly, for settings that act by factors."""
    integer: bool = False


@dataclass(frozen=True)
class RankerInputs:
    """What a ranker is built from."""

    name: str
    """As in `align.models`; for messages."""
    features: Features
    settings: RankerConfig
    vectors: Tensor = field(default_factory=lambda: torch.empty(0, 0))
    """The stored vector of each text, [V, D]; empty for rankers that read none. Paper: Eq. (22)."""
    centres: Tensor = field(default_factory=lambda: torch.zeros(1, 1))
    """The mean vector of each scene keyword's texts, [R, D], to subtract before any use.

    Texts of one keyword share most of their vector, and the shared part carries no information.
    """
    scales: Tensor = field(default_factory=lambda: torch.ones(1, 1))
    """Factors that give each keyword's centred vectors the mean squared length 1, [R, 1]."""
    axes: Tensor = field(default_factory=lambda: torch.empty(0, 0))
    """What vectors are multiplied with before all else, [D, D]; empty for nothing."""
    poi_slots: tuple[int, ...] = ()
    """Which of the scene keywords describe the place."""
    recent_texts: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int32))
    """The text of each place of the `poi_id` vocabulary, [V of poi_id]; -1 = none."""
    recent_slot: int | None = None
    """The scene keyword of these texts; None if recent places have no text."""
    figures: int = 0
    """The number of text figures in a batch."""

    @property
    def numbers(self) -> int:
        """How many numbers a row has, its text figures among them."""
        return len(self.features.numbers) + self.figures


class Ranker(ABC):
    """A model that scores impressions; built from `RankerInputs`, then either fitted or loaded."""

    text_vectors: ClassVar[str | None] = None
    """The folder under `embed/` of the text vectors that it reads, unless a variant names another;
    None if it reads no texts."""
    figures: Mapping[Path, int] = {}
    """The folders of the text figures that it reads and their numbers of columns, in the order of
    a batch's; set by `larr.rankers.build`."""
    foldable = False
    """Whether `larr.serve.fold` can precompute what depends on the place or on a text alone. It
    does so by the algebra of PLE: only subclasses of `larr.rankers.ple.Ple` have this, others are
    served as a graph."""
    search_space: ClassVar[Mapping[str, Range]] = {}
    """The settings that `larr tune` searches, by their paths below `align`."""
    starts: ClassVar[Sequence[Mapping[str, Any]]] = ({},)
    """The settings with which `larr choose` tries this kind first, by their paths."""
    alternatives: ClassVar[Mapping[str, Sequence[Any]]] = {}
    """The values that `larr choose` tries instead of those of some settings, one at a time, in this
    order. Numbers rise; of these the next smaller and the next larger one are tried."""

    @abstractmethod
    def __init__(self, inputs: RankerInputs) -> None:
        """Builds the untrained ranker."""

    def initialise(self, seed: int) -> None:  # noqa: B027 - optional
        """Draws the initial parameters; by default they stay as the constructor left them."""

    @abstractmethod
    def fit(self, log: LogRows, seed: int) -> LossCurve:
        """Trains on a log and returns the losses; it is ready to score afterwards."""

    @abstractmethod
    def score(self, batch: Batch) -> Tensor:
        """Returns the logits of the labels, float32 [B, T] on the CPU; each row by itself."""

    @abstractmethod
    def save(self, path: Path) -> None:
        """Writes what training has set as safetensors."""

    @abstractmethod
    def load(self, path: Path) -> None:
        """Reads what `save` wrote; it is ready to score afterwards."""

    def write_graph(self, path: Path, example: Batch) -> None:
        """Writes it as a graph of ONNX from the arrays of a batch to `logits`, for serving.

        By default what `score` computes, which has to consist of torch's operations. `example` has
        two rows.
        """
        write_graph(Logits(self.score), inputs_of(example), path)
