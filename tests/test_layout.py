"""Rules of the layout: direction of imports, larr without larr_lab, length of files."""

import ast
from pathlib import Path

import larr

ROOT = Path(larr.__file__).parent
LAYERS = [
    {"errors", "machine"},
    {"plugins"},
    {"sections", "progress", "html"},
    {"config"},
    {"stages"},
    {"artifacts", "settings", "losses", "metrics", "workers"},
    {"data"},
    {"text"},
    {"rankers"},
    {"evaluation", "serve", "plan"},
    {"run"},
    {"cli"},
]
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}


def imported(path: Path) -> set[str]:
    """Returns the modules of larr that a file imports, by their first name, and `larr_lab`."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        modules += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        for module in modules:
            parts = module.split(".")
            if parts == ["larr"]:
                names |= {alias.name for alias in node.names}
            elif parts[0] == "larr":
                names.add(parts[1])
            elif parts[0] == "larr_lab":
                names.add("larr_lab")
    return names


def test_imports_point_down() -> None:
    for path in ROOT.rglob("*.py"):
        name = path.relative_to(ROOT).parts[0].removesuffix(".py")
        if name == "__init__":
            continue
        above = {other for other in imported(path) - {name} if RANK.get(other, 99) >= RANK[name]}
        assert not above, f"{path.relative_to(ROOT)} imports {above}"


def test_the_product_never_imports_the_laboratory() -> None:
    for path in ROOT.rglob("*.py"):
        assert "larr_lab" not in imported(path), path


def test_no_file_has_more_than_400_lines() -> None:
    for path in ROOT.parent.rglob("*.py"):
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 400, path
