"""Quality, size and speed of distilled text embedding models, in one table and one plot.

    .venv/bin/python benchmarks/distilling.py CONFIG layers:.5 width:.5 [--plot FILE.svg]

Requires a run up to `larr contrast`. Distils each WAY:KEEP to `OUTPUT/distilling/`, unless it is up
to date there. The models alternate in embedding the same held-out texts, so that noise of the
machine affects all of them. Times are CPU seconds on one core.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from measure import config_parser, cpu_seconds
from sentence_transformers import SentenceTransformer

from larr import artifacts
from larr.config import Config
from larr.run import run_stage
from larr.settings import load_config
from larr.text.backbone import Parts
from larr.text.distill import sample_texts
from larr.text.encoder import compute, load_encoder
from larr.text.pairs import held_out

ROUNDS = 3
AREA = 250
"""Of the point of the largest model, in square points."""
COLOURS = {"large": "#444444", "layers": "#2266aa", "width": "#cc6622"}


def distilled(config: Config, way: str, keep: float) -> Config:
    """Distils into a separate folder, and returns the configuration of that run."""
    tree = config.model_dump() | {"output": config.output / "distilling" / f"{way}_{keep}"}
    tree["distill"] |= {"way": way, "keep": keep}
    other = Config.model_validate(tree)
    for verb in ("prepare", "pretrain", "contrast"):
        artifacts.share(config, other, verb)
    run_stage(other, "distill")
    return other


def texts_per_second(
    models: dict[str, SentenceTransformer], sample: list[Parts], batch_tokens: int
) -> dict[str, float]:
    """Returns the maximum rate of each model."""
    best = dict.fromkeys(models, float("inf"))
    for _ in range(ROUNDS):
        for name, model in models.items():
            embed = partial(compute, model, sample, batch_tokens)
            best[name] = min(best[name], cpu_seconds(embed))
    return {name: len(sample) / seconds for name, seconds in best.items()}


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Writes the plot: neighbours kept by texts per second; the area of a point shows its MB."""
    figure = Figure((6, 4), layout="constrained")
    axes = figure.add_subplot()
    largest = max(row["megabytes"] for row in rows)
    for row in rows:
        kind = row["name"].partition(":")[0]
        point = (row["rate"], row["neighbours"])
        area = AREA * row["megabytes"] / largest
        axes.scatter(*point, s=area, color=COLOURS[kind], alpha=0.7)
        label = f"{row['name']}, {row['megabytes']:.3g} MB"
        axes.annotate(label, point, (10, 8), textcoords="offset points", fontsize=8)
    axes.set_xlabel("held-out texts per second, one core")
    axes.set_ylabel("share of the ten nearest texts kept")
    axes.margins(0.2)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)


def main() -> None:
    """Prints a row for the large and each distilled model, and writes the plot."""
    parser = config_parser(__doc__)
    parser.add_argument("ways", nargs="+", metavar="WAY:KEEP")
    parser.add_argument("--texts", type=int, default=500)
    parser.add_argument("--plot", type=Path, default=Path("distilling.svg"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    config = load_config(arguments.config, arguments.overrides)
    sample = sample_texts(config, ~held_out(config).is_trained)[: arguments.texts]
    large = artifacts.folder(config, "contrast")
    folders = {"large": large}
    recall = (artifacts.manifest(large) or {})["figures"]["recall_at_10"]["whole"]
    figures: dict[str, Any] = {"large": {"recall_at_10": recall}}
    figures["large"] |= dict.fromkeys(("cosine", "centred_cosine", "neighbours"), 1.0)
    for name in arguments.ways:
        way, _, keep = name.partition(":")
        folders[name] = artifacts.folder(distilled(config, way, float(keep)), "distill")
        figures[name] = (artifacts.manifest(folders[name]) or {})["figures"]
    models = {name: load_encoder(folder) for name, folder in folders.items()}
    rates = texts_per_second(models, sample, config.embed.batch_tokens)
    print(
        "model | parameters | MB | texts/s | cosine | centred | neighbours | U to P | one keyword"
    )
    rows = []
    for name, found in figures.items():
        weights = sum(path.stat().st_size for path in folders[name].rglob("*.safetensors"))
        parameters = sum(weight.numel() for weight in models[name].parameters())
        rows.append({"name": name, "megabytes": weights / 1e6, "rate": rates[name], **found})
        recalls = (found["recall_at_10"][task] for task in ("user_to_place", "single_keyword"))
        quality = (found[key] for key in ("cosine", "centred_cosine", "neighbours"))
        shares = ["-" if share is None else f"{share:.3f}" for share in (*quality, *recalls)]
        sizes = [f"{parameters / 1e6:.2f} M", f"{weights / 1e6:.1f}", f"{rates[name]:.0f}"]
        print(" | ".join([name, *sizes, *shares]))
    draw(rows, arguments.plot)


if __name__ == "__main__":
    main()
