"""Text figures: numeric features of an impression, computed from stored text vectors.

They measure the similarity of the texts of request and place, and that of the place and the places
that the user took, clicked and left (`larr.data.histories`). As they are few and comparable, they
generalise to new places and users, and tree models can read them.

The texts of a keyword have similar vectors, so vectors are centred first, and cosines compare what
is specific to a text. Serving imports this file, so it must not import torch.

Shapes: N rows of the log, B rows of a chunk, R scene texts (Q of the request, S of the place), V
texts, P places (row 0 for unknown), H histories, K kinds of history, L places of each, X = K * L, D
vector length, F figures of a kind of history, G figures.
"""

from __future__ import annotations

import math
import shutil
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt
import polars as pl

from larr import artifacts
from larr.config import Config
from larr.data.folds import HELD_BACK
from larr.data.histories import ALIKE, HISTORIES, KINDS, PLACE_TEXTS
from larr.data.log import SPLITS
from larr.data.transforms import Array, Scales
from larr.data.within import within_names, within_request
from larr.progress import track
from larr.text.fitted import normalised

FIGURES = "figures"
"""The folder of a source's figures, within that of its vectors."""
SETTINGS, TEXTS, PLACES, CENTRES = "figures.json", "texts.npy", "places.npy", "centres.npy"
ARRAYS = (TEXTS, PLACES, CENTRES)
PER_KIND = ("largest", "mean")
"""Figures of each kind of history: its largest and mean similarity."""
KERNELS = (3.0, 10.0, 20.0)
"""An earlier place has the weight exp(kernel * (similarity - 1)): a soft version of SimTier's
histogram of similarities (arXiv 2407.19467)."""
PRIOR_WEIGHT, PRIOR_SHARE = 0.5, 0.2
"""Weight added to that of the places, and the share of it that counts as accepted."""
OVER_KINDS = tuple(f"{name}_{kernel:g}" for kernel in KERNELS for name in ("accepted", "similar"))
"""Figures of all kinds together: the share of the weight that was not left, log(1 + weight)."""
AFFINITIES = (
    *(f"{kind}_{figure}" for kind in ("taken", ALIKE) for figure in PER_KIND),
    *(name for name in OVER_KINDS if name.startswith("accepted")),
)
"""Figures compared within requests, as cosines are. On canteen purchases the LogLoss of the
rankers' mean is .4892 without comparisons, .4864 with ranks and differences of these, and .488 with
those of all figures, with differences only, or with those of cosines as well."""
MIN_TEXTS = 30
"""Distinct texts that a request keyword needs for cosines with the texts of places. With fewer
texts the cosines mostly identify the place, and tree models overfit to them: with cosines of six
such texts the LogLoss on canteen purchases is .518 instead of .505."""
ROWS = 8_192
"""Rows computed at a time, which limits the memory."""
DECIMALS = 4
"""Decimals to which figures are rounded before standardisation."""
SMALLEST = 1e-9
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Layout:
    """The figures of a source in their order, the content of `figures.json`.

    A slot is the index of a scene keyword.
    """

    request_slots: list[int]
    """Keywords of the request, whose texts are compared with those of the place."""
    place_slots: list[int]
    static_slots: list[int]
    """Keywords of the place whose texts do not change."""
    compared: list[int]
    """Indices of the figures that are compared within requests."""
    names: list[str]
    means: list[float]
    """Means and deviations of the training rows; empty before they are known."""
    deviations: list[float]


@dataclass(eq=False)
class TextFigures:
    """Computes the figures of a vector source with `compute`, offline and online."""

    text_VD: Floats
    """Centred unit vectors of the texts; the last row, of zeros, represents a missing text."""
    place_PD: Floats
    """Unit vectors of the places: the normalised sums of their static texts' vectors."""
    centre_RD: Floats
    """The mean vector of each scene keyword."""
    layout: Layout

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Opens the figures of a folder; their vectors are memory-mapped."""
        arrays = (np.load(folder / name, mmap_mode="r").view(np.ndarray) for name in ARRAYS)
        text_VD, place_PD, centre_RD = arrays
        return cls(text_VD, place_PD, centre_RD, Layout(**artifacts.read_json(folder / SETTINGS)))

    def compute(
        self, text_BR: Array, history_B: Array, histories_HKL: Array, request_B: Array
    ) -> Floats:
        """Returns the standardised figures of rows, [B, G]; missing values are 0.

        Takes rows of `texts.npy`, the history index of each row, the histories, and the request
        index of each row, from 0 without gaps. The rows must form complete requests.
        """
        raw_BG = self.raw(text_BR, history_B, histories_HKL)
        within_BG = _within(raw_BG[:, self.layout.compared], request_B)
        return self.scales.value(np.concatenate([raw_BG, within_BG], axis=1))

    def raw(self, text_BR: Array, history_B: Array, histories_HKL: Array) -> Floats:
        """Returns the figures without comparisons or scaling, [B, F]; missing values are NaN."""
        vectors_BRD = self.text_VD[text_BR]
        request_BQD = vectors_BRD[:, self.layout.request_slots]
        cosine_BQS = request_BQD @ vectors_BRD[:, self.layout.place_slots].transpose(0, 2, 1)
        cosine_BQS[cosine_BQS == 0] = np.nan  # only a missing text gives exactly 0
        parts = [cosine_BQS]
        if static := self.layout.static_slots:
            candidate_BD = normalised(vectors_BRD[:, static].sum(axis=1))
            similarity_BKL = self.similarities(candidate_BD, history_B, histories_HKL)
            parts += history_figures(similarity_BKL)
        flat = [part.reshape(len(text_BR), math.prod(part.shape[1:])) for part in parts]
        # The last bits of a product depend on the number of rows in a batch. Rounding makes trees
        # take the same branches online as offline.
        return np.concatenate(flat, axis=1).round(DECIMALS)

    def similarities(self, candidate_BD: Floats, history_B: Array, histories_HKL: Array) -> Floats:
        """Returns the similarity of each candidate to the places of its history, [B, K, L].

        It is -inf where a place or its text is missing.
        """
        histories, history_B = np.unique(history_B, return_inverse=True)
        similarity_BX = np.full((len(candidate_BD), histories_HKL[0].size), -np.inf, np.float32)
        ends = np.cumsum(np.bincount(history_B, minlength=len(histories)))
        rows_of_each = np.split(np.argsort(history_B, kind="stable"), ends)
        for history, rows in zip(histories, rows_of_each, strict=False):
            place_X = histories_HKL[history].ravel()
            known_X = np.flatnonzero(self.has_text[place_X])
            product_BX = candidate_BD[rows] @ self.place_PD[place_X[known_X]].T
            similarity_BX[rows[:, None], known_X] = product_BX
        similarity_BX[~candidate_BD.any(axis=1)] = -np.inf
        return similarity_BX.reshape(-1, *histories_HKL.shape[1:])

    def add_texts(self, slot_N: Array, vectors_ND: Array | None) -> None:
        """Appends texts, given the slots of their keywords and their vectors if available."""
        new_ND = np.zeros((len(slot_N), self.text_VD.shape[1]), np.float32)
        if vectors_ND is not None:
            new_ND[:] = normalised(vectors_ND - self.centre_RD[slot_N])
        self.text_VD = np.concatenate([self.text_VD[:-1], new_ND, self.text_VD[-1:]])

    @cached_property
    def has_text(self) -> Array:
        """Whether each place has a text, bool [P]."""
        return np.asarray(self.place_PD.any(axis=1))

    @cached_property
    def scales(self) -> Scales:
        """The means and deviations of the training rows."""
        means, deviations = np.array(self.layout.means), np.array(self.layout.deviations)
        return Scales(tuple(self.layout.names), means, deviations)


def history_figures(similarity_BKL: Floats) -> tuple[Floats, Floats]:
    """Returns `PER_KIND` of each kind, [B, K, F], NaN without places, and `OVER_KINDS`, [B, F].

    `OVER_KINDS` leaves out the places taken in the row's situation, which are among those taken.

    On canteen purchases PLE's GAUC rises from .601 to .629 with `PER_KIND` and to .647 with both
    (letters, two held-back days). Adding SimTier's counts and soft maxima of similarities has no
    effect, and adding main axes of the place's texts overfits and lowers it to .626.
    """
    known_BKL = np.isfinite(similarity_BKL)
    count_BK = known_BKL.sum(axis=2)
    mean_BK = np.where(known_BKL, similarity_BKL, 0).sum(axis=2) / np.maximum(count_BK, 1)
    per_kind_BKF: Floats = np.stack([similarity_BKL.max(axis=2), mean_BK], axis=2)
    per_kind_BKF[count_BK == 0] = np.nan
    over_kinds = []
    for kernel in KERNELS:
        weight_BK = np.exp(kernel * (similarity_BKL[:, : len(KINDS)] - 1)).sum(axis=2)
        total_B = weight_BK.sum(axis=1)
        accepted_B = total_B - weight_BK[:, KINDS.index("left")] + PRIOR_SHARE * PRIOR_WEIGHT
        over_kinds += [accepted_B / (total_B + PRIOR_WEIGHT), np.log1p(total_B)]
    return per_kind_BKF, np.stack(over_kinds, axis=1, dtype=np.float32)


def _within(figure_BC: Floats, request_B: Array) -> Floats:
    """Returns the ranks and differences of figures within requests, [B, 2 C]."""
    within: Floats = within_request(figure_BC, request_B)[:, : 2 * figure_BC.shape[1]]
    return within.astype(np.float32).round(DECIMALS)


def copy_figures(source: Path, target: Path) -> None:
    """Copies the files that `TextFigures.open` reads."""
    target.mkdir(parents=True)
    for name in (*ARRAYS, SETTINGS):
        shutil.copy(source / name, target)


def write_figures(
    config: Config, vectors: Path, folder: Path, compares_places: bool = True
) -> None:
    """Writes the figures of both splits from a source's vectors, and the files to compute more.

    Without `compares_places` these are only the cosines of texts of the request and of the place.
    `train.npy` and `test.npy` (float32 [N, G]), also in the folders of `held_back/`, are
    standardised with the training rows; `figures.json` contains the names, means and deviations.
    """
    data = artifacts.folder(config, "prepare")
    figures = _unscaled(config, vectors, folder, compares_places)
    layout = figures.layout
    arrays: dict[str, np.memmap] = {}
    for part in (data, *sorted((data / HELD_BACK).glob("*"))):
        histories_HKL = np.load(part / HISTORIES, mmap_mode="r")
        for split in SPLITS:
            names = ("texts", "history")
            read = [np.load(part / split / f"{name}.npy", mmap_mode="r") for name in names]
            shape = (len(read[0]), len(layout.names))
            name = (part / split).relative_to(data).as_posix()
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            arrays[name] = artifacts.new_array(folder / f"{name}.npy", np.float32, shape)
            with track(f"figures of {vectors.parent.name}, {name}", shape[0], "rows") as advance:
                for start in range(0, shape[0], ROWS):
                    text_BR, history_B1 = (array[start : start + ROWS] for array in read)
                    raw_BG = figures.raw(text_BR, history_B1[:, 0], histories_HKL)
                    arrays[name][start : start + ROWS, : raw_BG.shape[1]] = raw_BG
                    advance(len(raw_BG))
            if layout.compared:
                request_N = np.load(part / split / "requests.npy")[:, 0]
                _compare(arrays[name], layout.compared, request_N)
    scales = _scales(layout.names, arrays["train"])
    for array_NG in arrays.values():
        for start in range(0, len(array_NG), ROWS):
            array_NG[start : start + ROWS] = scales.value(array_NG[start : start + ROWS])
        array_NG.flush()
    means, deviations = scales.mean_M.tolist(), scales.deviation_M.tolist()
    scaled = replace(layout, means=means, deviations=deviations)
    artifacts.write_json(folder / SETTINGS, asdict(scaled))


def _compare(array_NG: Array, compared: list[int], request_N: Array) -> None:
    """Fills in the ranks and differences of the compared figures, in chunks of requests."""
    order_N = np.argsort(request_N, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(request_N[order_N])) + 1, len(order_N))
    cuts = ends[np.searchsorted(ends, np.arange(ROWS, len(order_N), ROWS))]
    for rows in np.split(order_N, np.unique(cuts)):
        request_B = np.unique(request_N[rows], return_inverse=True)[1]
        figure_BC = array_NG[rows][:, compared]
        array_NG[rows, array_NG.shape[1] - 2 * len(compared) :] = _within(figure_BC, request_B)


def _unscaled(config: Config, vectors: Path, folder: Path, compares_places: bool) -> TextFigures:
    """Writes the vectors that figures are computed from; returns figures without scales."""
    data = artifacts.folder(config, "prepare")
    keywords = [keyword.name for keyword in config.scene_keywords]
    owners = [keyword.owner for keyword in config.scene_keywords]
    text_VD, centre_RD = _write_texts(data, keywords, np.load(vectors, mmap_mode="r"), folder)
    # some sources have vectors for the texts of some keywords only
    embedded = np.flatnonzero(centre_RD.any(axis=1)).tolist()
    place_texts = pl.read_parquet(data / PLACE_TEXTS)
    place_texts = place_texts.select(
        name for name in place_texts.columns if compares_places and keywords.index(name) in embedded
    )
    place_PD = _write_places(place_texts.to_numpy(), text_VD, folder)
    texts = dict(pl.read_parquet(data / "texts.parquet")["keyword"].value_counts().iter_rows())
    request = [
        slot
        for slot in embedded
        if owners[slot] != "poi" and texts.get(keywords[slot], 0) >= MIN_TEXTS
    ]
    place = [slot for slot in embedded if owners[slot] == "poi"]
    static = [keywords.index(name) for name in place_texts.columns]
    names = [f"{keywords[q]}_x_{keywords[s]}" for q in request for s in place]
    if static:
        kinds = (*KINDS, ALIKE) if config.features.situation else KINDS
        names += [*(f"{kind}_{figure}" for kind in kinds for figure in PER_KIND), *OVER_KINDS]
    compared: list[int] = []
    if config.features.within_request:
        cosines = len(request) * len(place)
        compared = [f for f, name in enumerate(names) if f < cosines or name in AFFINITIES]
    names += within_names([names[f] for f in compared])[: 2 * len(compared)]
    layout = Layout(request, place, static, compared, names, means=[], deviations=[])
    return TextFigures(text_VD, place_PD, centre_RD, layout)


def _write_texts(
    data: Path, keywords: list[str], vector_VD: Array, folder: Path
) -> tuple[Floats, Floats]:
    """Writes and returns the centred unit vectors of the texts and the keywords' mean vectors."""
    keyword_V = pl.read_parquet(data / "texts.parquet")["keyword"]
    rows, dimension = vector_VD.shape
    text_VD = artifacts.new_array(folder / TEXTS, np.float32, (rows + 1, dimension))
    centre_RD = np.zeros((len(keywords), dimension), np.float32)
    for slot, keyword in enumerate(keywords):
        text_N = (keyword_V == keyword).arg_true().to_numpy()
        parts = [text_N[start : start + ROWS] for start in range(0, len(text_N), ROWS)]
        sums = [vector_VD[part].sum(axis=0, dtype=np.float64) for part in parts]
        centre_RD[slot] = sum(sums) / max(len(text_N), 1)
        for part in parts:
            text_VD[part] = normalised(vector_VD[part] - centre_RD[slot])
    text_VD.flush()
    np.save(folder / CENTRES, centre_RD)
    return text_VD, centre_RD


def _write_places(text_PS: Array, text_VD: Floats, folder: Path) -> Floats:
    """Writes and returns the unit vectors of places, given the indices of their static texts."""
    shape = (max(len(text_PS), 1), text_VD.shape[1])
    place_PD = artifacts.new_array(folder / PLACES, np.float32, shape)
    for start in range(0, len(text_PS), ROWS):
        text_BS = text_PS[start : start + ROWS]
        place_PD[start : start + ROWS] = normalised(text_VD[text_BS].sum(axis=1))
    place_PD.flush()
    return place_PD


def _scales(names: list[str], train_NG: Array) -> Scales:
    """Returns the means and deviations of the figures of the training rows."""
    count_G, sum_G, square_G = np.zeros((3, len(names)))
    for start in range(0, len(train_NG), ROWS):
        part_BG = train_NG[start : start + ROWS].astype(np.float64)
        count_G += np.isfinite(part_BG).sum(axis=0)
        sum_G += np.nansum(part_BG, axis=0)
        square_G += np.nansum(part_BG**2, axis=0)
    mean_G = sum_G / np.maximum(count_G, 1)
    variance_G = square_G / np.maximum(count_G, 1) - mean_G**2
    deviation_G = np.sqrt(np.where(variance_G > SMALLEST, variance_G, 1.0))
    return Scales(tuple(names), mean_G, deviation_G)
