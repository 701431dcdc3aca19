"""Imports within larr_lab point one way, in the order of the simulation."""

import ast
from pathlib import Path

import pytest

import larr_lab

ROOT = Path(larr_lab.__file__).parent
LAB = (
    *("knowledge", "settings", "encyclopedia", "city", "p5"),
    *("page", "studies", "commands"),
)
CITY = (
    *("effects", "draws", "geography", "days", "kitchen", "places", "people", "world"),
    *("requests", "exposure", "choice", "texts", "tables", "market"),
)


def imported(path: Path, package: str) -> set[str]:
    """Returns the modules of a package that a file imports from."""
    tree = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    names = set()
    for node in tree:
        if isinstance(node, ast.ImportFrom) and node.module:
            modules = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            names |= {name.removeprefix(f"{package}.").split(".")[0] for name in modules}
    return names


@pytest.mark.parametrize(
    ("folder", "package", "order"),
    [(ROOT, "larr_lab", LAB), (ROOT / "city", "larr_lab.city", CITY)],
)
def test_a_module_imports_earlier_ones_only(
    folder: Path, package: str, order: tuple[str, ...]
) -> None:
    names = {path.stem for path in folder.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert names - {"__init__", "__pycache__", "tables"} == set(order) - {"tables"}
    for number, name in enumerate(order):
        module = folder / name
        files = module.rglob("*.py") if module.is_dir() else [module.with_suffix(".py")]
        for path in files:
            later = imported(path, package) & set(order[number + 1 :])
            assert not later, f"{path.relative_to(folder)} imports {later}"
