"""What a report says: the content of report.json, from estimates with draws and plain facts."""

from __future__ import annotations

import math
from itertools import chain
from typing import Any

import numpy as np

from larr.config import Config
from larr.config.rankers import CONTROLS
from larr.evaluation.bootstrap import LEVEL, Estimates, Key, interval
from larr.metrics import TASKS, Floats, gain_percent, ratio, rela_impr_percent

METRICS = tuple(f"{task}_{kind}" for kind in ("auc", "gauc", "logloss") for task in TASKS.values())
AUCS = tuple(f"{task}_auc" for task in TASKS.values())
BASE, LARR, SHUFFLED, CEILING = "ple", "larr", "larr_shuffled", "ceiling"
COUNT_LABELS = ("0", "1 to 9", "10 to 49", "50 to 199", "200 to 999", "1,000 or more")
"""Values of a sliced column that counts something in the training days."""
FACTS = (
    "dataset",
    "tasks",
    "sampling_rate",
    "train_rows",
    "sizes",
    "gauc_coverage",
    "calibration",
    "data",
    "language_model",
    "stages",
)
"""Keys of the report that are told as they are; several seeds tell their mean."""
DIGITS = 8
ALL = Key("all", "", "", "", "")

Json = dict[str, Any]


def findings(config: Config, seeds: list[int], estimates: Estimates, facts: Json) -> Json:
    """The content of report.json; what does not exist is null, never NaN."""
    slices = facts["sizes"]["slices"]
    estimates = _with_means_of_slices(estimates, slices)
    models = list(dict.fromkeys(key.model for key in estimates.value))
    pairs = _pairs(config, models)
    cold = {
        name: {
            "models": _models(estimates, models, Key("cold", name, "", "", ""), AUCS),
            "gains": _gains(estimates, pairs, Key("cold", name, "", "", ""), AUCS),
        }
        for name in facts["sizes"]["cold"]
    }
    within = {
        column: {
            "models": _models(estimates, models, Key("within", column, "", "", ""), AUCS[:1]),
            "gains": _gains(estimates, pairs, Key("within", column, "", "", ""), AUCS[:1]),
        }
        for column in slices
    }
    found = {
        "seeds": seeds,
        "models": _models(estimates, models, ALL, METRICS),
        "gains": _gains(estimates, pairs, ALL, METRICS),
        "distance_closed": {
            "all": _distances(estimates, models, ALL),
            "cold_places": _distances(estimates, models, Key("cold", "places", "", "", "")),
        },
        "cold": cold,
        "within": within,
        **_by_slice(estimates, models, pairs, slices),
        "bootstrap": {"resamples": config.evaluate.bootstrap, "level": LEVEL},
        "settings": config.model_dump(mode="json", exclude={"seed", "output"}),
    }
    finite: Json = _finite(found | {name: facts[name] for name in FACTS})
    return finite


def mean_tree(trees: list[Any]) -> Any:
    """The mean of each number in trees of one shape; words that differ are listed."""
    present = [tree for tree in trees if tree is not None]
    if not present or all(tree == present[0] for tree in present):
        return present[0] if present else None
    if all(isinstance(tree, dict) for tree in present):
        names = dict.fromkeys(chain.from_iterable(present))
        return {name: mean_tree([tree.get(name) for tree in present]) for name in names}
    if all(isinstance(tree, list) for tree in present):
        return [mean_tree(list(items)) for items in zip(*present, strict=False)]
    if all(isinstance(tree, int | float) for tree in present):
        return sum(present) / len(present)
    return ", ".join(str(tree) for tree in present)


def _pairs(config: Config, models: list[str]) -> list[tuple[str, str]]:
    """The configured pairs, then LARR over each control, then each control over the base."""
    wanted = list(config.evaluate.gains)
    wanted += [(LARR, control) for control in CONTROLS] + [(control, BASE) for control in CONTROLS]
    return [pair for pair in dict.fromkeys(wanted) if set(pair) <= set(models)]


def _models(
    estimates: Estimates, models: list[str], where: Key, metrics: tuple[str, ...]
) -> dict[str, Json]:
    return {
        model: {
            metric: _estimate(estimates, where._replace(model=model, metric=metric))
            for metric in metrics
        }
        for model in models
    }


def _estimate(estimates: Estimates, key: Key) -> Json | None:
    if key not in estimates.value:
        return None
    low, high = interval(estimates.draws[key])
    by_seed = estimates.by_seed[key]
    return {"mean": estimates.value[key], "low": low, "high": high, "by_seed": by_seed}


def _gains(
    estimates: Estimates, pairs: list[tuple[str, str]], where: Key, metrics: tuple[str, ...]
) -> dict[str, Json]:
    return {
        f"{first}_over_{second}": {
            metric: _gain(
                estimates,
                where._replace(model=first, metric=metric),
                where._replace(model=second, metric=metric),
            )
            for metric in metrics
        }
        for first, second in pairs
    }


def _gain(estimates: Estimates, key: Key, base: Key) -> Json | None:
    """The gain of the mean over the mean; its interval is over paired draws."""
    if key not in estimates.value or base not in estimates.value:
        return None
    value, draws, by_seed = estimates.value, estimates.draws, estimates.by_seed
    low, high = interval(gain_percent(draws[key], draws[base]))
    gain = {
        "percent": gain_percent(value[key], value[base]),
        "low": low,
        "high": high,
        "by_seed": gain_percent(np.array(by_seed[key]), np.array(by_seed[base])),
    }
    if key.metric.endswith("auc"):
        low, high = interval(rela_impr_percent(draws[key], draws[base]))
        gain["relaimpr_percent"] = rela_impr_percent(value[key], value[base])
        gain |= {"relaimpr_low": low, "relaimpr_high": high}
    return gain


def _distances(estimates: Estimates, models: list[str], where: Key) -> dict[str, Json]:
    """The share of the distance from the base to the ceiling that each model closes."""
    if not {BASE, CEILING} <= set(models):
        return {}
    others = [model for model in models if model not in (BASE, CEILING)]
    return {
        model: {auc: _distance(estimates, where._replace(model=model, metric=auc)) for auc in AUCS}
        for model in others
    }


def _distance(estimates: Estimates, key: Key) -> Json | None:
    """None too where the base is not surely below the ceiling: the share would mean nothing."""
    base, ceiling = key._replace(model=BASE), key._replace(model=CEILING)
    value, draws = estimates.value, estimates.draws
    if not {key, base, ceiling} <= set(value):
        return None
    if not interval(draws[ceiling] - draws[base])[0] > 0:
        return None
    low, high = interval(_closed(draws[key], draws[base], draws[ceiling]))
    share = _closed(value[key], value[base], value[ceiling])
    return {"percent": share, "low": low, "high": high}


def _closed(value: Floats | float, base: Floats | float, ceiling: Floats | float) -> Floats:
    distance = np.asarray(ceiling) - base
    return 100 * ratio(np.asarray(value) - base, np.where(distance > 0, distance, np.nan))


def _by_slice(
    estimates: Estimates, models: list[str], pairs: list[tuple[str, str]], slices: Json
) -> dict[str, Json]:
    """The CTR AUC within each value of a column, and the gains there."""
    aucs: Json = {column: {} for column in slices}
    gains: Json = {column: {} for column in slices}
    for column, values in slices.items():
        for value in values:
            where = Key("slices", column, value, "", AUCS[0])
            gains[column][value] = _gains(estimates, pairs, where, AUCS[:1])
            aucs[column][value] = {
                model: {AUCS[0]: estimates.value.get(where._replace(model=model), math.nan)}
                for model in models
            }
    return {"slices": aucs, "slice_gains": gains}


def _with_means_of_slices(estimates: Estimates, slices: Json) -> Estimates:
    """Adds the mean CTR AUC over a column's values, weighted by their impressions."""
    value, draws = dict(estimates.value), dict(estimates.draws)
    by_seed = dict(estimates.by_seed)
    for column, sizes in slices.items():
        for model in dict.fromkeys(key.model for key in estimates.value):
            parts = {
                Key("slices", column, name, model, AUCS[0]): size["impressions"]
                for name, size in sizes.items()
            }
            told = [key for key in parts if key in estimates.value]
            if told:
                weight_K = np.array([parts[key] for key in told], np.float64)
                mean = Key("within", column, "", model, AUCS[0])
                draws[mean] = _weighted(np.array([draws[key] for key in told]), weight_K)
                seeds_KS = np.array([by_seed[key] for key in told])
                by_seed[mean] = _weighted(seeds_KS, weight_K).tolist()
                value[mean] = float(
                    _weighted(np.array([[value[key]] for key in told]), weight_K)[0]
                )
    return Estimates(value, draws, by_seed)


def _weighted(values_KB: Floats, weight_K: Floats) -> Floats:
    weight_KB = np.where(np.isfinite(values_KB), weight_K[:, None], 0)
    return ratio((np.nan_to_num(values_KB) * weight_KB).sum(axis=0), weight_KB.sum(axis=0))


def _finite(tree: Any) -> Any:
    """The tree as JSON can hold it: NaN and infinities are null, numbers are rounded."""
    if isinstance(tree, dict):
        return {name: _finite(item) for name, item in tree.items()}
    if isinstance(tree, list | tuple):
        return [_finite(item) for item in tree]
    if isinstance(tree, np.ndarray | np.generic):
        return _finite(tree.tolist())
    if isinstance(tree, float):
        return round(tree, DIGITS) if math.isfinite(tree) else None
    return tree
