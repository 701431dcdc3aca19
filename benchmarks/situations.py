"""Which earlier orders a place is compared with: the last, similar ones, or those of the situation.

    python benchmarks/situations.py configs/city_long.toml --seeds 2,3,4,5,6 [--set ...]

Trains PLE and LARR, both with the text figures of TF-IDF vectors, in three versions: without those
of the orders in the request's situation (`last`); with them (`situation`); and with the largest and
the mean similarity of the 50 orders that are most similar to the candidate, as in MUSE (`search`,
arXiv 2512.07216). Prints the gains in AUC over `last` for users with many orders, with intervals
over users and seeds. Runs that are complete are not repeated.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import polars as pl
from measure import config_parser

from larr import artifacts
from larr.cli import for_seeds
from larr.config import Config
from larr.data.batches import LogRows
from larr.data.histories import ALIKE, LENGTH
from larr.data.log import SPLITS
from larr.data.prepare import prepare
from larr.evaluation.bootstrap import bootstrap, interval, pooled_draws
from larr.metrics import TASKS, Auc
from larr.progress import track
from larr.rankers.align import train
from larr.rankers.predict import predict_log
from larr.settings import load_config
from larr.text.embed import SOURCES, VECTORS, Job
from larr.text.figures import FIGURES, SETTINGS, TextFigures, write_figures

SOURCE, ARMS = "tfidf", ("last", "situation", "search")
RANKERS = ("ple", f"larr_{SOURCE}")
LEAST_ORDERS = (0, 100, 300, 1_000)
RESAMPLES = 300
Array = np.ndarray


def prepared(config: Config) -> Path:
    """Returns the folder of the prepared log, after writing the text figures of all versions."""
    folder = artifacts.folder(config, "prepare")
    if not (folder / artifacts.MANIFEST).exists():
        prepare(config)
    source = artifacts.folder(config, "embed") / SOURCE
    if not (source / FIGURES / SETTINGS).exists():
        (source / FIGURES).mkdir(parents=True, exist_ok=True)
        texts = pl.read_parquet(folder / "texts.parquet")
        shape = (len(texts), config.embed.dimension)
        vectors_ND = artifacts.new_array(source / VECTORS, np.float32, shape)
        SOURCES[SOURCE].compute(Job(config, texts, source), vectors_ND)
        vectors_ND.flush()
        write_figures(config, source / VECTORS, source / FIGURES)
    for arm in ARMS:
        if not (source.parent / arm / FIGURES / SETTINGS).exists():
            write_arm(folder, source / FIGURES, source.parent / arm / FIGURES, arm)
    return folder


def write_arm(data: Path, source: Path, target: Path, arm: str) -> None:
    """Writes the figures of one version from those of the source."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    settings = artifacts.read_json(source / SETTINGS)
    names = settings["names"]
    kept = [n for n, name in enumerate(names) if arm == "situation" or ALIKE not in name]
    more = {split: np.empty((0, 0)) for split in SPLITS}
    if arm == "search":
        place_PD = TextFigures.open(source).place_PD
        more = {split: searched(data, split, place_PD) for split in SPLITS}
        mean, deviation = more["train"].mean(axis=0), more["train"].std(axis=0)
        more = {split: (array - mean) / deviation for split, array in more.items()}
    for split in SPLITS:
        parts = [np.load(source / f"{split}.npy")[:, kept]]
        parts += [more[split].astype(np.float32)] if arm == "search" else []
        np.save(target / f"{split}.npy", np.concatenate(parts, axis=1))
    found = [names[n] for n in kept] + [f"search_{n}" for n in range(more["train"].shape[1])]
    artifacts.write_json(target / SETTINGS, settings | {"names": found})


def searched(data: Path, split: str, place_PD: Array) -> Array:
    """Returns the largest and the mean similarity of each row's 50 most similar orders, [N, 2].

    These are among all orders of the user before the row's day; 0 without any.
    """
    users, places = (
        {name: number for number, name in enumerate(pl.read_parquet(data / file)[column], 1)}
        for file, column in (("users.parquet", "user_id"), ("places.parquet", "poi_id"))
    )
    orders = pl.read_parquet(data / "orders.parquet", columns=["user_id", "poi_id", "time"])
    orders = orders.select(
        user=pl.col("user_id").replace_strict(users, return_dtype=pl.Int64),
        place=pl.col("poi_id").replace_strict(places, return_dtype=pl.Int64),
        day=pl.col("time").dt.epoch("d").cast(pl.Int64),
    ).sort("user", "day")
    key_O = (orders["user"] * 2**32 + orders["day"]).to_numpy()
    place_O = orders["place"].to_numpy()
    user_N, place_N = np.load(data / split / "keys.npy").T.astype(np.int64)
    key_N = user_N * 2**32 + np.load(data / split / "days.npy")[:, 0]
    found_N2 = np.zeros((len(key_N), 2))
    by_key = np.argsort(key_N, kind="stable")
    groups = np.split(by_key, np.flatnonzero(np.diff(key_N[by_key])) + 1)
    with track(f"search, {split}", len(groups), "user days") as advance:
        for rows in groups:
            key = key_N[rows[0]]
            first, stop = np.searchsorted(key_O, [key >> 32 << 32, key])
            if stop > first:
                similarity_BO = place_PD[place_N[rows]] @ place_PD[place_O[first:stop]].T
                nearest = min(LENGTH, stop - first)
                top_BL = np.partition(similarity_BO, -nearest, axis=1)[:, -nearest:]
                found_N2[rows] = np.stack([top_BL.max(axis=1), top_BL.mean(axis=1)], axis=1)
            advance(1)
    return found_N2


def scores(config: Config, ranker: str, arm: str) -> Array:
    """Returns the probabilities of the test rows, [N, T], from a file if they exist."""
    data = prepared(config)
    path = config.output / "scores" / f"{ranker}-{arm}.npy"
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        settings = config.align.of(ranker).with_settings({"figures": [arm]})
        trained, _ = train(config, ranker, settings, LogRows(data / "train"))
        test = LogRows(data / "test").with_figures(trained.figures)
        np.save(path, predict_log(trained, test))
    found: Array = np.load(path)
    return found


def gains(config: Config, ranker: str, arm: str) -> Array:
    """Returns gains in AUC over `last` in %, [tasks x LEAST_ORDERS, 1 + resamples]."""
    data = prepared(config)
    labels_NT, user_N = (np.load(data / "test" / f"{n}.npy") for n in ("labels", "keys"))
    user_N = user_N[:, 0].astype(np.int64)
    orders = pl.read_parquet(data / "orders.parquet", columns=["user_id"])["user_id"]
    count = dict(orders.value_counts().iter_rows())
    users = pl.read_parquet(data / "users.parquet")["user_id"]
    orders_U = np.array([0, *(count.get(user, 0) for user in users)])
    rows = []
    for task in range(len(TASKS)):
        for least in LEAST_ORDERS:
            is_in_N = orders_U[user_N] >= least
            statistics = [
                Auc.of(labels_NT[is_in_N, task], score_NT[is_in_N, task], user_N[is_in_N])
                for score_NT in (scores(config, ranker, "last"), scores(config, ranker, arm))
            ]
            estimate_2, draws_2B = bootstrap(statistics, len(orders_U), RESAMPLES, config.seed)
            without_B, with_B = np.concatenate([estimate_2[:, None], draws_2B], axis=1)
            rows.append(100 * (with_B / without_B - 1))
    return np.stack(rows)


def main() -> None:
    """Prints a row for each ranker, version, task and least number of orders."""
    parser = config_parser(__doc__)
    parser.add_argument("--seeds", required=True)
    arguments = parser.parse_args()
    config = load_config(arguments.config, arguments.overrides)
    configs = for_seeds(config, arguments.seeds)
    for ranker in RANKERS:
        for arm in ARMS[1:]:
            by_seed = np.stack([gains(each, ranker, arm) for each in configs])
            low_K, high_K = interval(pooled_draws(by_seed[:, :, 1:]))
            keys = [(task, least) for task in TASKS.values() for least in LEAST_ORDERS]
            for number, (task, least) in enumerate(keys):
                mean = by_seed[:, number, 0].mean()
                single = ", ".join(f"{gain:+.2f}" for gain in by_seed[:, number, 0])
                print(
                    f"{ranker}, {arm}, {task.upper()} AUC, {least} orders or more: {mean:+.2f} % "
                    f"[{low_K[number]:+.2f}, {high_K[number]:+.2f}] ({single})"
                )


if __name__ == "__main__":
    main()
