"""Each module imports only from its own layer and those below; the core does not know the methods."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import cosam_bench

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "cosam_bench"

LAYERS: tuple[tuple[str, ...], ...] = (
    ("", "_moved"),
    ("core",),
    ("merging",),
    ("data",),
    ("sam",),
    ("training",),
    ("evaluation",),
    ("method",),
    ("results",),
    ("experiments",),
    ("cli",),
)
LAYER_OF = {name: number for number, names in enumerate(LAYERS) for name in names}
METHODS_LAYER = LAYER_OF["method"]


def modules() -> dict[str, Path]:
    """The core's modules by their name within the package, without those behind the two links."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if not (PACKAGE / parts[0]).is_symlink():
            found[".".join(part for part in parts if part != "__init__")] = path
    return found


def imports(path: Path) -> Iterator[str]:
    """The modules of this package that a file imports anywhere, by their name within it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: a relative import"
            names = [node.module or ""]
            if node.module == "cosam_bench":  # the names may be modules
                names = [f"cosam_bench.{a.name}" if a.name not in cosam_bench.__all__ else "" for a in node.names]
        for name in names:
            if name.partition(".")[0] == "cosam_bench":
                inner = name.partition(".")[2]
                yield "" if inner.startswith("__") else inner


def top(module: str) -> str:
    return module.partition(".")[0]


@pytest.mark.parametrize("module", sorted({*modules()} - {""}))
def test_a_module_imports_only_from_its_own_layer_and_those_below(module: str) -> None:
    assert top(module) in LAYER_OF, f"give {module} a layer"
    found = {name for name in imports(modules()[module]) if top(name) != top(module)}
    assert not {name for name in found if top(name) == "methods"}, "the core imports nothing from methods/"
    above = {name for name in found if LAYER_OF[top(name)] > LAYER_OF[top(module)]}
    assert not above


@pytest.mark.parametrize("path", sorted((ROOT / "methods").glob("*.py")), ids=lambda path: path.stem)
def test_a_method_uses_the_layers_up_to_the_interface(path: Path) -> None:
    found = {name for name in imports(path) if top(name) != "methods"}
    assert not {name for name in found if LAYER_OF[top(name)] > METHODS_LAYER}


def test_every_listed_module_exists() -> None:
    assert set(LAYER_OF) == {top(module) for module in modules()}


@pytest.mark.parametrize("folder", ["methods", "datasets"])
def test_a_folder_at_the_top_is_no_package_of_its_own(folder: str) -> None:
    assert not list((ROOT / folder).rglob("__init__.py"))
