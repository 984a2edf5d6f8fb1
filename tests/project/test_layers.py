"""Each room imports only from those before it, each module only from those listed before it in its room."""

from __future__ import annotations

import ast
import re
import tomllib
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "cosam_bench"
ROOMS: list[str] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["cosam_bench"]["rooms"]
OUTSIDE = {"", "__main__", "_moved"}  # the front door, `python -m cosam_bench`, and the old paths


def _modules() -> dict[str, Path]:
    """All modules and packages by their name within ``cosam_bench``, the package itself by an empty one."""
    found = {}
    for path in [*PACKAGE.rglob("*.py"), *(PACKAGE / "methods").glob("*.py")]:
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(part for part in parts if part != "__init__")] = path
    return dict(sorted(found.items()))


MODULES = _modules()


def imports(path: Path) -> set[str]:
    """The modules of this package that a file imports, also within functions and for types alone."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: a relative import"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            modules = {name for name in names if name.removeprefix("cosam_bench.") in MODULES}
            found |= modules or {node.module or ""}
    ours = {name for name in found if name.partition(".")[0] == "cosam_bench"}
    return {name.partition(".")[2] for name in ours}


IMPORTS = {module: imports(path) - {module} for module, path in MODULES.items()}


def room_of(module: str) -> str:
    return module.partition(".")[0]


def listed(package: str) -> list[str]:
    """The modules that a package's docstring lists, bottom to top: lines such as ``errors: what users can act on``."""
    docstring = ast.get_docstring(ast.parse(MODULES[package].read_text(encoding="utf-8"))) or ""
    return [
        f"{package}.{name}" for name in re.findall(r"^ *([a-z_]+(?:\.[a-z_]+)*): \S", docstring, flags=re.MULTILINE)
    ]


def entry_of(module: str, entries: list[str]) -> str | None:
    """The line of a list that stands for a module: its own, or that of the folder that holds it."""
    return max((entry for entry in entries if f"{module}.".startswith(f"{entry}.")), key=len, default=None)


def listing_packages() -> list[str]:
    """The rooms, and the folders in them that a room's list names as one."""
    packages = [module for module, path in MODULES.items() if module and path.name == "__init__.py"]
    return [name for name in packages if "." not in name or name in listed(room_of(name))]


def test_the_rooms_are_those_of_the_package() -> None:
    assert len(ROOMS) == len(set(ROOMS))
    assert set(ROOMS) | OUTSIDE == {room_of(module) for module in MODULES}


@pytest.mark.parametrize("module", [module for module in MODULES if room_of(module) not in OUTSIDE])
def test_a_module_imports_only_from_its_own_room_and_those_below(module: str) -> None:
    room = room_of(module)
    below = {name for name in ROOMS[: ROOMS.index(room)] if name != "methods"}  # nothing imports the methods
    assert {name for name in IMPORTS[module] if room_of(name) not in below | OUTSIDE | {room}} == set()


def test_no_modules_import_each_other_in_a_circle() -> None:
    try:
        TopologicalSorter(IMPORTS).prepare()
    except CycleError as found:
        pytest.fail(f"a circle of imports: {' <- '.join(found.args[1])}")


@pytest.mark.parametrize("package", listing_packages())
def test_a_room_lists_its_modules_in_the_order_of_their_imports(package: str) -> None:
    entries = listed(package)
    assert len(entries) == len(set(entries))
    assert set(entries) <= MODULES.keys(), "a line for a module that does not exist"
    inside = [name for name, path in MODULES.items() if name.startswith(f"{package}.")]
    modules = [name for name in inside if MODULES[name].name != "__init__.py" or name in entries]
    assert [name for name in modules if entry_of(name, entries) is None] == [], "modules that the list leaves out"
    for module in modules:
        own = entry_of(module, entries) or module
        near = {name for name in IMPORTS[module] if f"{name}.".startswith(f"{package}.")}
        later = {name for name in near if entry_of(name, entries) not in entries[: entries.index(own) + 1]}
        assert not later, f"{module} imports what is listed after it"


def test_the_table_of_rooms_names_each_in_its_order() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    [table] = re.findall(r"^\| room \|.*\n\|[-| ]+\|\n((?:\|.*\n)+)", text, flags=re.MULTILINE)
    assert re.findall(r"^\| `([\w.]+)` \| \S", table, flags=re.MULTILINE) == ROOMS


@pytest.mark.parametrize("folder", ["methods", "datasets"])
def test_a_folder_at_the_top_is_not_a_package_of_its_own(folder: str) -> None:
    assert not list((ROOT / folder).rglob("__init__.py"))
