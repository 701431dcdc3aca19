"""Training of PLE in larr and in other libraries on one core: samples/s, seconds, AUC.

    python benchmarks/training.py FOLDER [--rivals deepctr_torch torch_rechub torchrec] [--rounds 1]

Writes a synthetic log of a million training rows to FOLDER, with 20 categories of 10 to 200,000
values (Zipf) and 10 numbers, and makes a virtual environment for each other library in
FOLDER/venvs, once. Then all train PLE (2 levels, 2 + 2 experts [128, 64], towers [64], embeddings
of 16) on it for an epoch, in turn, on the same core. Seconds are from the Parquet file to the
trained model; in them larr also checks the tables and computes statistics. FuxiCTR is left out,
because its package has no PLE.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
from sklearn.metrics import roc_auc_score

from larr import artifacts
from larr.data.batches import LogRows
from larr.rankers.align import train
from larr.rankers.predict import predict_log
from larr.run import run_stage
from larr.settings import load_config

ROWS, TEST_ROWS, DAYS, START = 1_000_000, 100_000, 11, np.datetime64("2026-01-01", "us")
SIZES = dict(
    zip(
        [*(f"c{number}" for number in range(18)), "poi_id", "user_id"],
        np.geomspace(10, 200_000, 20).astype(int).tolist(),
        strict=True,
    )
)
NUMBERS = [f"n{number}" for number in range(10)]
COMMON = ["torch==2.13.0", "pandas", "pyarrow", "scikit-learn"]
INSTALLS = {
    "deepctr_torch": [[*COMMON, "deepctr-torch==0.3.0", "requests"]],
    "torch_rechub": [[*COMMON, "torch-rechub==0.9.0"]],
    "torchrec": [
        # the requirements of TorchRec, except for torch, of which it names an older version
        [*COMMON, "tensordict", "pyvers", "cloudpickle", "pyre_extensions", "typing_inspect"],
        ["mypy_extensions", "iopath", "torchmetrics==1.0.3", "tqdm", "psutil"],
        ["--no-deps", "torchrec==1.8.0", "fbgemm-gpu-cpu==1.8.0"],
    ],
}
"""The arguments of pip for each library; only release 1.8 of TorchRec loads with this torch."""
TOML = """
output = "{folder}/larr"
[dataset.tables]
places = "{folder}/poi_id.parquet"
users = "{folder}/user_id.parquet"
impressions = "{folder}/impressions.parquet"
[[keywords]]
name = "place"
owner = "poi"
view = "basic"
template = "{{poi_name}}"
[[keywords]]
name = "user"
owner = "user"
view = "profile"
template = "{{user_id}}"
[features]
categories = {categories}
numbers = {numbers}
recent = 0
[align]
models = ["ple"]
batch_size = 2400
learning_rate = 1.6e-3  # decays linearly, so its mean is that of the others
"""


def write_log(folder: Path) -> None:
    """Writes a log whose clicks follow from all columns, and larr's configuration."""
    random, rows = np.random.default_rng(1), ROWS + TEST_ROWS
    columns, logit_N = {}, np.full(rows, -2.6)
    for name, size in SIZES.items():
        share_V = 1 / np.arange(1, size + 1)
        columns[name] = random.choice(size, rows, p=share_V / share_V.sum())
        logit_N += random.normal(0, 0.25, size)[columns[name]]
    for name in NUMBERS:
        columns[name] = random.normal(size=rows).astype(np.float32)
        logit_N += 0.15 * columns[name]
    click_N = random.random(rows) < 1 / (1 + np.exp(-logit_N))
    order_N = click_N & (random.random(rows) < 1 / (1 + np.exp(-logit_N / 2)))
    minutes_N = np.arange(rows) * (DAYS * 24 * 60) // rows
    table = pl.DataFrame(columns | {"click": click_N, "order": order_N}).with_columns(
        request_id=pl.int_range(rows), time=pl.Series(START + minutes_N.astype("timedelta64[m]"))
    )
    table.write_parquet(folder / "impressions.parquet")
    ids = {key: pl.int_range(SIZES[key], eager=True).alias(key) for key in ("user_id", "poi_id")}
    ids["user_id"].to_frame().write_parquet(folder / "user_id.parquet")
    places = ids["poi_id"].to_frame().with_columns(name=pl.format("Place {}", "poi_id"))
    places.write_parquet(folder / "poi_id.parquet")
    (folder / "sizes.json").write_text(json.dumps(SIZES))
    toml = TOML.format(folder=folder, categories=[*SIZES], numbers=NUMBERS)
    (folder / "larr.toml").write_text(toml)


def python_of(name: str, folder: Path) -> Path:
    """Returns the Python of a library's virtual environment, which is made if it is missing."""
    venv = folder / "venvs" / name
    if not (venv / "complete").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", venv], check=True)
        for arguments in INSTALLS[name]:
            subprocess.run([venv / "bin" / "pip", "install", "--quiet", *arguments], check=True)
        (venv / "complete").touch()
    return venv / "bin" / "python"


def train_larr(folder: Path) -> None:
    """Prepares and trains; writes the same files as `benchmarks/rivals.py`."""
    config, started = load_config(folder / "larr.toml", []), time.perf_counter()
    run_stage(config, "prepare", force=True)
    data, prepared = artifacts.folder(config, "prepare"), time.perf_counter()
    ranker, _ = train(config, "ple", config.align.of("ple"), LogRows(data / "train"))
    ended = time.perf_counter()
    figures = {"training": ended - prepared, "seconds": ended - started}
    (folder / "larr.json").write_text(json.dumps(figures))
    np.save(folder / "larr.npy", predict_log(ranker, LogRows(data / "test")))


def main() -> None:
    """Trains all libraries in turn and prints a line for each run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rivals", nargs="*", choices=[*INSTALLS], default=[*INSTALLS])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--train-larr", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    folder = options.folder.absolute()
    if options.train_larr:
        train_larr(folder)
        return
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "larr.toml").exists():
        write_log(folder)
    commands = {"larr": [sys.executable, __file__, folder, "--train-larr"]}
    for name in options.rivals:
        script = Path(__file__).with_name("rivals.py")
        commands[name] = [python_of(name, folder), script, folder, name, str(TEST_ROWS)]
    # chosen here, because child processes inherit it
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    threads = dict.fromkeys(("OMP_NUM_THREADS", "POLARS_MAX_THREADS"), "1")
    labels = pl.read_parquet(folder / "impressions.parquet", columns=["click", "order"])
    labels_N2 = labels.tail(TEST_ROWS).to_numpy()
    for _ in range(options.rounds):
        larr = {}
        for name, command in commands.items():
            subprocess.run(command, check=True, env=os.environ | threads, stdout=subprocess.DEVNULL)
            figures = json.loads((folder / f"{name}.json").read_text())
            larr = larr or figures
            scores_N2 = np.load(folder / f"{name}.npy")
            auc = [roc_auc_score(labels_N2[:, task], scores_N2[:, task]) for task in (0, 1)]
            line = (
                f"{name}: {ROWS / figures['training']:,.0f} samples/s, {figures['seconds']:.1f} s, "
            )
            line += f"AUC {auc[0]:.4f} / {auc[1]:.4f}"
            if name != "larr":
                ratios = [figures[key] / larr[key] for key in ("training", "seconds")]
                line += f"; larr trains {ratios[0]:.2f} times as fast, {ratios[1]:.2f} in all"
            print(line, flush=True)


if __name__ == "__main__":
    main()
