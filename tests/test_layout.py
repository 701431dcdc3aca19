"""Imports point one way: from the command line down to the settings."""

import ast
from pathlib import Path

import larr

ROOT = Path(larr.__file__).parent
LAYERS = [
    {"errors"},
    {"config", "progress"},
    {"artifacts", "schema", "scenes", "statistics", "losses", "metrics", "workers"},
    {"buckets", "datasets", "keywords", "profiles", "features", "batches", "bootstrap", "backbone"},
    {"checked", "corpus", "models", "vectors", "encoder", "findings"},
    {"enrich", "pairs", "predict", "plots"},
    {"retrieval", "report", "featurise"},
    {"prepare", "pretrain", "contrast", "embed", "align", "evaluate", "base_lm"},
    {"export", "serve", "tune"},
    {"stages", "case_study", "ab_test", "down_sampling"},
    {"experiments"},
    {"cli"},
]
STAGES = LAYERS[-5]
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "larr":
            parts = (node.module or "").split(".")
            names |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
    return names


def test_imports_point_down() -> None:
    for path in ROOT.rglob("*.py"):
        own = path.relative_to(ROOT).parts[0].removesuffix(".py")
        if own == "__init__":
            continue
        above = {name for name in imported(path) - {own} if RANK[name] >= RANK[own]}
        beside = {name for name in above if RANK[name] == RANK[own] and name not in STAGES}
        assert above <= beside, f"{path.relative_to(ROOT)} imports {above - beside}"
