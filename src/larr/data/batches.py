"""Reads the arrays of the log in batches, in order or shuffled.

Shapes: N rows of a log, B rows of a batch, F categories, M numbers, L recent places, R scene texts,
T tasks, G text figures.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

BLOCK_ROWS = 2**18  # rows shuffled together, which bounds memory


class Batch(NamedTuple):
    """A batch of rows; except `figures`, each field is named as its file."""

    categories: Tensor
    """int32 [B, F], 0 = unknown."""
    numbers: Tensor
    """float32 [B, M], standardised."""
    recent: Tensor
    """int32 [B, L], indices of `poi_id`, 0 = padding."""
    texts: Tensor
    """int32 [B, R], -1 = missing."""
    labels: Tensor
    """uint8 [B, T]."""
    keys: Tensor
    """int32 [B, 2], the numbers of user and place."""
    weights: Tensor
    """float32 [B, 1], the weight of each row in training; [B, 0] in a log without weights."""
    figures: Tensor
    """float32 [B, G], concatenated over the vector sources; see `larr.text.figures`."""

    @classmethod
    def without_labels(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> Self:
        """Returns a batch for prediction; `arrays` has the input fields, `figures` is optional."""
        rows = len(arrays["categories"])
        inputs = {"figures": torch.zeros((rows, 0)), "weights": torch.zeros((rows, 0))}
        inputs |= {name: torch.from_numpy(array) for name, array in arrays.items()}
        nothing = torch.zeros((rows, 0), dtype=torch.uint8)
        return cls(**inputs, labels=nothing, keys=torch.zeros((rows, 2), dtype=torch.int32))

    @property
    def rows(self) -> int:
        """The number of rows, B."""
        return self.categories.shape[0]

    def to(self, device: torch.device) -> Batch:
        return Batch(*(array.to(device, non_blocking=True) for array in self))

    def select(self, index_B: Tensor) -> Batch:
        return Batch(*(array.index_select(0, index_B) for array in self))


FILES = tuple(name for name in Batch._fields if name not in ("weights", "figures"))


@dataclass(frozen=True, eq=False)
class LogRows:
    """All or some rows of a log that `larr prepare` wrote.

    A subset holds row numbers, not copies; it reads the same memory-mapped arrays. Random draws
    depend only on the number of rows, so training on a subset equals training on a copy of it.
    """

    folder: Path
    """Holds one `.npy` file for each field of `Batch` except `figures`, `days.npy`, and
    `requests.npy`, a hash of each row's request; `weights.npy` only if the log has weights."""
    numbers_N: npt.NDArray[np.int64] | None = None
    """Ascending row numbers in the folder's arrays; None for all rows."""
    figures: tuple[Path, ...] = ()
    """The files with the figures of all rows, concatenated in `Batch.figures`."""
    part: str = ""
    """The folder of a fold within that of `larr prepare`, such as `held_back/0`."""

    def __len__(self) -> int:
        return len(self.array("labels") if self.numbers_N is None else self.numbers_N)

    def array(self, name: str) -> np.ndarray:
        """Returns one array, [N, ...]: memory-mapped for all rows, a copy for a subset."""
        mapped_N = np.load(self.folder / f"{name}.npy", mmap_mode="r")
        found: np.ndarray = mapped_N if self.numbers_N is None else mapped_N[self.numbers_N]
        return found

    def figure_arrays(self) -> list[np.ndarray]:
        """Returns the text figures of each source, [N, G], as `array` does."""
        mapped = [np.load(path, mmap_mode="r") for path in self.figures]
        return mapped if self.numbers_N is None else [array[self.numbers_N] for array in mapped]

    def weights(self) -> np.ndarray | None:
        """Returns the weight of each row in training, float32 [N], or None for equal weights."""
        exists = (self.folder / "weights.npy").exists()
        return self.array("weights")[:, 0] if exists else None

    def select(self, rows_N: npt.NDArray[np.int64]) -> LogRows:
        """Returns the rows at some positions, in ascending order."""
        numbers_N = rows_N if self.numbers_N is None else self.numbers_N[rows_N]
        return replace(self, numbers_N=numbers_N)

    def with_figures(self, folders: Iterable[Path]) -> LogRows:
        """Returns the same rows with the text figures in `folders`, one per source."""
        name = f"{self.folder.name}.npy"
        return replace(self, figures=tuple(path / self.part / name for path in folders))

    def latest(self, rows: int) -> LogRows:
        """Returns the last `rows` rows by day, in the order of the log."""
        latest_N = np.argsort(self.array("days")[:, 0], kind="stable")[-rows:]
        return self.select(np.sort(latest_N))

    def label_rates(self) -> np.ndarray:
        """Returns the share of rows with each label, float32 [T]."""
        found: np.ndarray = self.array("labels").mean(axis=0, dtype=np.float64).astype(np.float32)
        return found

    def in_order(self, size: int) -> Iterator[Batch]:
        """Yields all rows in order, in batches of `size`."""
        for start in range(0, len(self), size):
            yield self._read([start], size)

    def shuffled(
        self, size: int, random: np.random.Generator, negatives: int = 0
    ) -> Iterator[tuple[Batch, Batch]]:
        """Yields all rows once in random order; each batch comes with a batch of negatives.

        Random runs of `size` consecutive rows are read into a block of about `BLOCK_ROWS` rows,
        which is then shuffled; a log of one block is fully permuted. The second batch has
        `negatives * B` rows, drawn from the block.
        """
        starts = random.permutation(np.arange(0, len(self), size))
        runs = max(1, BLOCK_ROWS // size)
        # The last run may be short. It is moved to the last block, as it would shift the batches of
        # any other block.
        last = int(starts.argmax())
        starts[[last, -1]] = starts[[-1, last]]
        for first in range(0, len(starts), runs):
            block = self._read(starts[first : first + runs].tolist(), size)
            order_N = torch.from_numpy(random.permutation(block.rows))
            for index_B in order_N.split(size):
                drawn = random.integers(block.rows, size=negatives * len(index_B))
                yield block.select(index_B), block.select(torch.from_numpy(drawn))

    def _read(self, starts: list[int], size: int) -> Batch:
        """Returns copies of runs of `size` rows, as an open memory map would keep its pages."""
        runs: list[Any] = [slice(start, start + size) for start in starts]
        if self.numbers_N is not None:
            runs = [self.numbers_N[run] for run in runs]

        def read(path: Path) -> Tensor:
            mapped = np.load(path, mmap_mode="r")
            return torch.from_numpy(np.concatenate([mapped[run] for run in runs]))

        arrays = {name: read(self.folder / f"{name}.npy") for name in FILES}
        none = torch.zeros((len(arrays["keys"]), 0))
        path = self.folder / "weights.npy"
        weights = read(path) if path.exists() else none
        figures = torch.cat([none, *(read(path) for path in self.figures)], dim=1)
        return Batch(**arrays, weights=weights, figures=figures)
