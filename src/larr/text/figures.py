"""Text figures: plain numbers of an impression, computed from stored text vectors.

They tell how close the texts of request and place are, and how close the place is to those that
the user took, clicked and left (`larr.data.histories`). Being few and comparable they hold for
places and users that training never met, and trees can read them, too.

Vectors are centred, since the texts of a keyword share most of theirs: products are cosines of what
is particular to a text. Serving reads this file, so it works without torch.

Shapes: N rows of the log, B of a chunk, R scene texts (Q of the request, S of the place), V texts,
P places (row 0 for an unknown one), H histories, K kinds of them, L places of each, X = K * L, D
dimension of the vectors, F figures of a kind of history, G figures.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import polars as pl

from larr import artifacts
from larr.config import Config
from larr.data.histories import HISTORIES, KINDS, PLACE_TEXTS
from larr.data.log import SPLITS
from larr.data.parts import HELD_BACK
from larr.data.transforms import Array, Scales
from larr.data.within import within_names, within_request
from larr.progress import track

FIGURES = "figures"
"""The folder of a source's figures, within that of its vectors."""
SETTINGS, TEXTS, PLACES, CENTRES = "figures.json", "texts.npy", "places.npy", "centres.npy"
ARRAYS = (TEXTS, PLACES, CENTRES)
OF_KIND = ("largest", "mean")
"""Similarities to a kind of history."""
KERNELS = (3.0, 10.0, 20.0)
"""An earlier place counts with the weight exp(kernel * (similarity - 1)): a histogram of the
similarities with soft edges, as SimTier's has hard ones (arXiv 2407.19467)."""
PRIOR_WEIGHT, PRIOR_SHARE = 0.5, 0.2
"""Added to the weights of places, and the share of it that counts as accepted."""
OF_ALL = tuple(f"{name}_{kernel:g}" for kernel in KERNELS for name in ("accepted", "similar"))
"""Figures of all kinds: the share of the weight that was not left, and log(1 + weight)."""
AFFINITIES = (
    *(f"taken_{figure}" for figure in OF_KIND),
    *(name for name in OF_ALL if name.startswith("accepted")),
)
"""Compared within requests, as cosines are. On canteen purchases the LogLoss of rankers' mean is
.4892 without, .4864 with ranks and differences of these, .488 with those of all figures, with
differences alone, or with those of cosines, too."""
DIFFERENT_TEXTS = 30
"""A text of the request is compared with the place's if its keyword has at least this many. Cosines
of fewer hardly depend on the request, and trees learn by them which place was taken: with those of
six such texts the LogLoss on canteen purchases is .518 instead of .505."""
ROWS = 8_192
"""Rows that are computed at a time: memory is bounded by them."""
DECIMALS = 4
"""Of a figure as computed."""
SLOTS = ("request_slots", "place_slots", "static_slots")
"""Of the settings: the scene keywords of the request that are compared, those of the place, and of
these the ones whose texts do not change."""
COMPARED = "compared"
"""The positions of the figures that are compared within requests."""
SMALLEST = 1e-9
Floats = npt.NDArray[np.float32]


@dataclass(eq=False)
class TextFigures:
    """The figures of one vector source: `of_rows` computes them, offline as online."""

    text_VD: Floats
    """Centred unit vectors of the texts; a last row of zeros stands for a missing one."""
    place_PD: Floats
    """Those of the places: unit vectors of the sum of their texts that do not change."""
    centre_RD: Floats
    """The mean vector of each scene keyword's texts."""
    settings: Mapping[str, Any]
    """The content of `figures.json`."""

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Returns the figures of a folder; their vectors stay on the disk."""
        arrays = (np.load(folder / name, mmap_mode="r").view(np.ndarray) for name in ARRAYS)
        text_VD, place_PD, centre_RD = arrays
        return cls(text_VD, place_PD, centre_RD, artifacts.read_json(folder / SETTINGS))

    def of_rows(
        self, text_BR: Array, history_B: Array, histories_HKL: Array, request_B: Array
    ) -> Floats:
        """Returns the standardised figures of rows, [B, G]; 0 for what is missing.

        It takes `texts.npy`, histories with each row's number, and the number of its request, from
        0 without gaps. The rows are those of complete requests.
        """
        raw_BG = self.raw(text_BR, history_B, histories_HKL)
        within_BG = _within(raw_BG[:, self.settings[COMPARED]], request_B)
        return self.scales.value(np.concatenate([raw_BG, within_BG], axis=1))

    def raw(self, text_BR: Array, history_B: Array, histories_HKL: Array) -> Floats:
        """Returns the figures of rows on their own, [B, F]; NaN where something is missing."""
        vectors_BRD = self.text_VD[text_BR]
        request, place, static = (self.settings[name] for name in SLOTS)
        cosine_BQS = vectors_BRD[:, request] @ vectors_BRD[:, place].transpose(0, 2, 1)
        cosine_BQS[cosine_BQS == 0] = np.nan  # exactly 0 only with the vector of a missing text
        parts = [cosine_BQS]
        if static:
            candidate_BD = unit(vectors_BRD[:, static].sum(axis=1))
            similarity_BKL = self.similarities(candidate_BD, history_B, histories_HKL)
            parts += history_figures(similarity_BKL)
        flat = [part.reshape(len(text_BR), math.prod(part.shape[1:])) for part in parts]
        # The last bits of a product depend on how many rows are computed at a time; rounded, trees
        # take the same branch for a request as for the log.
        return np.concatenate(flat, axis=1).round(DECIMALS)

    def similarities(self, candidate_BD: Floats, history_B: Array, histories_HKL: Array) -> Floats:
        """Returns those of each candidate to the places of its history, [B, K, L].

        They are -inf where a place or its text is missing.
        """
        numbers, history_B = np.unique(history_B, return_inverse=True)
        similarity_BX = np.full((len(candidate_BD), histories_HKL[0].size), -np.inf, np.float32)
        ends = np.cumsum(np.bincount(history_B, minlength=len(numbers)))
        rows_of_each = np.split(np.argsort(history_B, kind="stable"), ends)
        for number, rows in zip(numbers, rows_of_each, strict=False):
            place_X = histories_HKL[number].ravel()
            known_X = np.flatnonzero(self.has_text[place_X])
            product_BX = candidate_BD[rows] @ self.place_PD[place_X[known_X]].T
            similarity_BX[rows[:, None], known_X] = product_BX
        similarity_BX[~candidate_BD.any(axis=1)] = -np.inf
        return similarity_BX.reshape(-1, *histories_HKL.shape[1:])

    def add_texts(self, slot_N: Array, vectors_ND: Array | None) -> None:
        """Adds texts with the next numbers: their keywords' slots, and their vectors if any."""
        new_ND = np.zeros((len(slot_N), self.text_VD.shape[1]), np.float32)
        if vectors_ND is not None:
            new_ND[:] = unit(vectors_ND - self.centre_RD[slot_N])
        self.text_VD = np.concatenate([self.text_VD[:-1], new_ND, self.text_VD[-1:]])

    @cached_property
    def has_text(self) -> Array:
        """Which places have a text, bool [P]."""
        return np.asarray(self.place_PD.any(axis=1))

    @cached_property
    def scales(self) -> Scales:
        """The means and deviations of the training rows."""
        mean_G, deviation_G = (np.array(self.settings[name]) for name in ("means", "deviations"))
        return Scales(tuple(self.settings["names"]), mean_G, deviation_G)


def history_figures(similarity_BKL: Floats) -> tuple[Floats, Floats]:
    """Returns `OF_KIND` of each kind, [B, K, F], NaN for one without places, and `OF_ALL`, [B, F].

    On canteen purchases PLE's GAUC rises from .601 to .629 with those of a kind, to .647 with
    `OF_ALL` (letters, two held-back days). SimTier's counts and softly largest similarities beside
    them change nothing, and main axes of the place's texts lower it to .626 by overfitting.
    """
    known_BKL = np.isfinite(similarity_BKL)
    count_BK = known_BKL.sum(axis=2)
    mean_BK = np.where(known_BKL, similarity_BKL, 0).sum(axis=2) / np.maximum(count_BK, 1)
    of_kind_BKF: Floats = np.stack([similarity_BKL.max(axis=2), mean_BK], axis=2)
    of_kind_BKF[count_BK == 0] = np.nan
    of_all = []
    for kernel in KERNELS:
        weight_BK = np.exp(kernel * (similarity_BKL - 1)).sum(axis=2)
        total_B = weight_BK.sum(axis=1)
        accepted_B = total_B - weight_BK[:, KINDS.index("left")] + PRIOR_SHARE * PRIOR_WEIGHT
        of_all += [accepted_B / (total_B + PRIOR_WEIGHT), np.log1p(total_B)]
    return of_kind_BKF, np.stack(of_all, axis=1, dtype=np.float32)


def _within(figure_BC: Floats, request_B: Array) -> Floats:
    """Returns the ranks and differences of figures within requests, [B, 2 C]."""
    within: Floats = within_request(figure_BC, request_B)[:, : 2 * figure_BC.shape[1]]
    return within.astype(np.float32).round(DECIMALS)


def copy_figures(source: Path, target: Path) -> None:
    """Copies what `TextFigures.open` reads."""
    target.mkdir(parents=True)
    for name in (*ARRAYS, SETTINGS):
        shutil.copy(source / name, target)


def write_figures(config: Config, vectors: Path, folder: Path) -> None:
    """Writes the figures of both splits from a source's vectors, and what computes them online.

    `train.npy` and `test.npy` (float32 [N, G]) are standardised by the training rows, and so are
    those of the parts in `held_back/`; `figures.json` has the names, means and deviations.
    """
    data = artifacts.folder(config, "prepare")
    figures = _unscaled(config, vectors, folder)
    arrays: dict[str, np.memmap] = {}
    for part in (data, *sorted((data / HELD_BACK).glob("*"))):
        histories_HKL = np.load(part / HISTORIES, mmap_mode="r")
        for split in SPLITS:
            names = ("texts", "history")
            read = [np.load(part / split / f"{name}.npy", mmap_mode="r") for name in names]
            shape = (len(read[0]), len(figures.settings["names"]))
            name = (part / split).relative_to(data).as_posix()
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            arrays[name] = artifacts.new_array(folder / f"{name}.npy", np.float32, shape)
            with track(f"figures of {vectors.parent.name}, {name}", shape[0], "rows") as advance:
                for start in range(0, shape[0], ROWS):
                    text_BR, history_B1 = (array[start : start + ROWS] for array in read)
                    raw_BG = figures.raw(text_BR, history_B1[:, 0], histories_HKL)
                    arrays[name][start : start + ROWS, : raw_BG.shape[1]] = raw_BG
                    advance(len(raw_BG))
            if compared := figures.settings[COMPARED]:
                _compare(arrays[name], compared, np.load(part / split / "requests.npy")[:, 0])
    scales = _scales(figures.settings["names"], arrays["train"])
    for array_NG in arrays.values():
        for start in range(0, len(array_NG), ROWS):
            array_NG[start : start + ROWS] = scales.value(array_NG[start : start + ROWS])
        array_NG.flush()
    found = {"means": scales.mean_M.tolist(), "deviations": scales.deviation_M.tolist()}
    artifacts.write_json(folder / SETTINGS, {**figures.settings, **found})


def _compare(array_NG: Array, compared: list[int], request_N: Array) -> None:
    """Fills in the ranks and differences of the compared figures, some requests at a time."""
    order_N = np.argsort(request_N, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(request_N[order_N])) + 1, len(order_N))
    cuts = ends[np.searchsorted(ends, np.arange(ROWS, len(order_N), ROWS))]
    for rows in np.split(order_N, np.unique(cuts)):
        number_B = np.unique(request_N[rows], return_inverse=True)[1]
        figure_BC = array_NG[rows][:, compared]
        array_NG[rows, array_NG.shape[1] - 2 * len(compared) :] = _within(figure_BC, number_B)


def _unscaled(config: Config, vectors: Path, folder: Path) -> TextFigures:
    """Returns the figures without means and deviations; writes the vectors that they read."""
    data = artifacts.folder(config, "prepare")
    keywords = [keyword.name for keyword in config.scene_keywords]
    owners = [keyword.owner for keyword in config.scene_keywords]
    text_VD, centre_RD = _write_texts(data, keywords, np.load(vectors, mmap_mode="r"), folder)
    place_texts = pl.read_parquet(data / PLACE_TEXTS)
    place_PD = _write_places(place_texts.to_numpy(), text_VD, folder)
    texts = dict(pl.read_parquet(data / "texts.parquet")["keyword"].value_counts().iter_rows())
    request = [
        slot
        for slot, (name, owner) in enumerate(zip(keywords, owners, strict=True))
        if owner != "poi" and texts.get(name, 0) >= DIFFERENT_TEXTS
    ]
    place = [slot for slot, owner in enumerate(owners) if owner == "poi"]
    static = [keywords.index(name) for name in place_texts.columns]
    names = [f"{keywords[q]}_x_{keywords[s]}" for q in request for s in place]
    if static:
        names += [*(f"{kind}_{figure}" for kind in KINDS for figure in OF_KIND), *OF_ALL]
    cosines, wanted = len(request) * len(place), config.features.within_request
    compared = [f for f, n in enumerate(names) if wanted and (f < cosines or n in AFFINITIES)]
    names += within_names([names[figure] for figure in compared])[: 2 * len(compared)]
    slots = dict(zip(SLOTS, (request, place, static), strict=True))
    settings = {**slots, COMPARED: compared, "names": names}
    return TextFigures(text_VD, place_PD, centre_RD, settings)


def _write_texts(
    data: Path, keywords: list[str], vector_VD: Array, folder: Path
) -> tuple[Floats, Floats]:
    """Writes the texts' centred unit vectors and the keywords' centres, [R, D]."""
    keyword_V = pl.read_parquet(data / "texts.parquet")["keyword"]
    rows, dimension = vector_VD.shape
    text_VD = artifacts.new_array(folder / TEXTS, np.float32, (rows + 1, dimension))
    centre_RD = np.zeros((len(keywords), dimension), np.float32)
    for slot, keyword in enumerate(keywords):
        number_N = (keyword_V == keyword).arg_true().to_numpy()
        parts = [number_N[start : start + ROWS] for start in range(0, len(number_N), ROWS)]
        sums = [vector_VD[part].sum(axis=0, dtype=np.float64) for part in parts]
        centre_RD[slot] = sum(sums) / max(len(number_N), 1)
        for part in parts:
            text_VD[part] = unit(vector_VD[part] - centre_RD[slot])
    text_VD.flush()
    np.save(folder / CENTRES, centre_RD)
    return text_VD, centre_RD


def _write_places(text_PS: Array, text_VD: Floats, folder: Path) -> Floats:
    """Writes the unit vectors of places, from the numbers of their texts that do not change."""
    shape = (max(len(text_PS), 1), text_VD.shape[1])
    place_PD = artifacts.new_array(folder / PLACES, np.float32, shape)
    for start in range(0, len(text_PS), ROWS):
        text_BS = text_PS[start : start + ROWS]
        place_PD[start : start + ROWS] = unit(text_VD[text_BS].sum(axis=1))
    place_PD.flush()
    return place_PD


def unit(vector_ND: Array) -> Array:
    """Returns vectors of the length 1; a vector of zeros stays as it is."""
    length_N1 = np.linalg.norm(vector_ND, axis=1, keepdims=True)
    return np.asarray(vector_ND / np.maximum(length_N1, SMALLEST))


def _scales(names: list[str], train_NG: Array) -> Scales:
    """Returns means and deviations of the training rows' figures."""
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
