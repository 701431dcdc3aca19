"""Imports point one way: from the command line down to the settings."""

import ast
from pathlib import Path

import larr

ROOT = Path(larr.__file__).parent
LAYERS = [
    {"errors", "hardware", "memory"},
    {"config", "progress"},
    {"artifacts", "settings", "buckets", "losses", "metrics", "workers"},
    {"datasets"},
    {"data"},
    {"models"},
    {"text", "ranking"},
    {"evaluation", "serve"},
    {"stages"},
    {"studies"},
    {"cli"},
]
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
        assert not above, f"{path.relative_to(ROOT)} imports {above}"
