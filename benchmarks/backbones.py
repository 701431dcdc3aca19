"""Language models side by side: untuned, after stage 1, after both, distilled.

    python benchmarks/backbones.py CONFIG --seeds 51,52,53 [--models builtin minilm]
        [--states untuned distilled] [--set ...]

For each model and state: perplexity of held-out descriptions, recall@10 of held-out orders and of
single keywords, for the city R^2 of a place's attributes from the vector of its menu, and
the rankers with these vectors over PLE. The runs, in `OUTPUT/MODEL/seed-N`, continue where they
were interrupted.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
from measure import config_parser
from sklearn.linear_model import RidgeCV
from sklearn.metrics import r2_score
from sklearn.model_selection import GroupKFold, cross_val_predict

from larr import artifacts
from larr.cli import for_seeds
from larr.config import Config
from larr.progress import console
from larr.run import run_seeds
from larr.settings import load_config
from larr.text.embed import VECTORS, vectors_artifact
from larr_lab.city.world import World
from larr_lab.settings import city_settings

MODELS: dict[str, list[str]] = {
    "builtin": [],
    "minilm": ["contrast.batch_size=64"],
    "smollm2": ["contrast.batch_size=64", "backbone.lora_rank=16", "backbone.lora_layers=6"],
}
"""The settings of each model."""
RECALLS = {"untuned": "untuned", "pretrained": "cpt_only", "encoder": "whole"}
"""State, a source of vectors -> its name among the recalls of stage 2."""
FOLDS = 5
METRICS = ("ctr_auc", "ctr_gauc", "ctcvr_auc")
Json = dict[str, Any]


def settings_of(model: str, states: list[str]) -> list[str]:
    """Returns overrides: the model, and LARR with the vectors of each of its states."""
    variants = [f'align.variants.{state}={{of="larr",vectors="{state}"}}' for state in states]
    pairs = "".join(f'["{state}","ple"],' for state in states)
    compared = [f"align.models={['ple', *states]}", f"evaluate.gains=[{pairs}]"]
    return [f'backbone.model="{model}"', *MODELS[model], *variants, *compared]


def r_squared(config: Config, state: str) -> float:
    """Returns the share of the variance of the places' attributes that ridge regression predicts.

    Out of fold; places with the same menu are in the same fold.
    """
    prepared = artifacts.folder(config, "prepare")
    texts = pl.read_parquet(prepared / "texts.parquet").filter(keyword="poi_menu")
    places = pl.read_parquet(prepared / "descriptions.parquet", columns=["poi_id", "poi_menu"])
    places = places.join(texts, left_on="poi_menu", right_on="text")
    world = World(city_settings(config), config.seed)
    numbers = {name: number for number, name in enumerate(world.place_ids)}
    attributes = world.places.attributes_PA[[numbers[name] for name in places["poi_id"]]]
    vectors_ND = np.load(vectors_artifact(config, state).folder / VECTORS, mmap_mode="r")
    vectors_PD = vectors_ND[places["text_id"].to_numpy()]
    ridge = RidgeCV(alphas=np.logspace(-3, 3, 13))
    folds = GroupKFold(FOLDS)
    predicted = cross_val_predict(
        ridge, vectors_PD, attributes, groups=places["text_id"].to_numpy(), cv=folds
    )
    return float(r2_score(attributes, predicted))


def figures(config: Config, verb: str) -> Json:
    """Returns what a finished stage measured."""
    manifest: Json = artifacts.read_json(artifacts.folder(config, verb) / artifacts.MANIFEST)
    found: Json = manifest["figures"]
    return found


def figures_of(config: Config, state: str) -> list[float | None]:
    """Returns perplexity, recalls and R^2 of one state of the model."""
    if state == "distilled":
        recalls = figures(config, "distill")["recall_at_10"]
    else:
        recalls = figures(config, "contrast")["recall_at_10"][RECALLS[state]]
    when = {"untuned": "before", "pretrained": "after"}.get(state)
    return [
        figures(config, "pretrain")[f"perplexity_y_{when}"] if when else None,
        recalls["user_to_place"],
        recalls["single_keyword"],
        r_squared(config, state) if config.dataset.kind == "city" else None,
    ]


def row(report: Json, configs: list[Config], state: str) -> list[str]:
    """Returns the cells of one state: means over seeds, gains over PLE with intervals."""
    by_seed = [figures_of(config, state) for config in configs]
    means = [
        "-" if None in values else f"{np.mean(np.array(values)):.3g}"
        for values in zip(*by_seed, strict=True)
    ]
    for metric in METRICS:
        gain = report["gains"][f"{state}_over_ple"].get(metric)
        if gain is None:  # no orders
            means.append("-")
            continue
        ends = f"[{gain['low']:+.2f}, {gain['high']:+.2f}]"
        mean = report["models"][state][metric]["mean"]
        means.append(f"{mean:.4f}, {gain['percent']:+.2f} {ends}")
    return means


def main() -> None:
    """Prints a table with a row for each model and state."""
    parser = config_parser(__doc__)
    parser.add_argument("--seeds", required=True)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=[*MODELS])
    parser.add_argument("--states", nargs="+", choices=[*RECALLS, "distilled"], default=[*RECALLS])
    arguments = parser.parse_args()
    columns = ["model, state", "perplexity", "user to place", "one keyword", "R²", *METRICS]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for model in arguments.models:
        config = load_config(
            arguments.config, [*settings_of(model, arguments.states), *arguments.overrides]
        )
        config = config.model_copy(update={"output": config.output / model})
        configs = for_seeds(config, arguments.seeds)
        console.rule(model)
        report = run_seeds(configs, config.output)
        lines += [
            f"| {' | '.join([f'{model}, {state}', *row(report, configs, state)])} |"
            for state in arguments.states
        ]
    print("\n".join(lines))


if __name__ == "__main__":
    main()
