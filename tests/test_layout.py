"""Rules of the layout: direction of imports, larr without larr_lab, length of files."""

import ast
from pathlib import Path

import pytest

import larr

ROOT = Path(larr.__file__).parents[1]
LARR = [
    {"errors", "machine"},
    {"plugins"},
    {"sections", "progress", "html"},
    {"config"},
    {"stages"},
    {"artifacts", "settings", "losses", "metrics", "workers"},
    {"group"},
    {"data"},
    {"text", "init"},
    {"rankers"},
    {"evaluation", "serve", "plan", "check"},
    {"run"},
    {"cli"},
]
LAB = ["knowledge", "settings", "encyclopedia", "city", "p5", "page", "studies", "commands"]
CITY = [
    *("effects", "draws", "geography", "days", "places", "people", "world"),
    *("requests", "choice", "texts", "tables"),
]


def imported(path: Path, package: str) -> set[str]:
    """Returns the modules of a package that a file imports, by their first name within it."""
    modules = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            modules |= {f"{node.module}.{alias.name}" for alias in node.names}
    inside = f"{package}."
    return {name.removeprefix(inside).split(".")[0] for name in modules if name.startswith(inside)}


@pytest.mark.parametrize(
    ("package", "layers"),
    [
        ("larr", LARR),
        ("larr_lab", [{name} for name in LAB]),
        ("larr_lab.city", [{name} for name in CITY]),
    ],
)
def test_imports_point_down(package: str, layers: list[set[str]]) -> None:
    folder = ROOT / package.replace(".", "/")
    rank = {name: number for number, layer in enumerate(layers) for name in layer}
    paths = {
        path for path in folder.rglob("*.py") if path.parent != folder or path.stem != "__init__"
    }
    name_of = {path: path.relative_to(folder).parts[0].removesuffix(".py") for path in paths}
    assert set(name_of.values()) == rank.keys()
    for path, name in name_of.items():
        above = {other for other in imported(path, package) - {name} if rank[other] >= rank[name]}
        assert not above, f"{path.relative_to(ROOT)} imports {above}"


def test_the_product_never_imports_the_laboratory() -> None:
    for path in (ROOT / "larr").rglob("*.py"):
        assert not imported(path, "larr_lab"), path


def test_no_file_has_more_than_400_lines() -> None:
    for path in ROOT.rglob("*.py"):
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 400, path
