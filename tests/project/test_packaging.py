"""What lies in the checkout is what gets installed: packages, data files, entry points."""

from __future__ import annotations

import ast
import tomllib
from importlib.machinery import PathFinder
from importlib.metadata import entry_points
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
SETUPTOOLS = PROJECT["tool"]["setuptools"]
PARTS_OF_METHODS = {"moda_tokens"}
METHODS: dict[str, str] = PROJECT["project"]["entry-points"]["cosam_bench.methods"]
MOVED: dict[str, str] = SETUPTOOLS["package-dir"]


def folder_of(package: str) -> Path:
    return ROOT / MOVED.get(package, package.replace(".", "/"))


def package_folders() -> dict[Path, str]:
    return {folder_of(package): package for package in SETUPTOOLS["packages"]}


def files_on_disk() -> list[Path]:
    """Everything below the package, each file once: the two links lead to folders that are walked themselves."""
    links = {ROOT / package.replace(".", "/") for package in MOVED}
    tops = [ROOT / "cosam_bench", *(ROOT / folder for folder in MOVED.values())]
    found = [path for top in tops for path in sorted(top.rglob("*")) if path.is_file()]
    return [path for path in found if links.isdisjoint(path.parents) and "__pycache__" not in path.parts]


def test_every_module_lies_in_a_listed_package() -> None:
    listed = package_folders()
    assert [path for path in files_on_disk() if path.suffix == ".py" and path.parent not in listed] == []


def test_every_listed_package_exists_and_none_is_listed_twice() -> None:
    packages = SETUPTOOLS["packages"]
    assert len(packages) == len(set(packages))
    assert [package for package in packages if not folder_of(package).is_dir()] == []


def test_every_data_file_is_taken_along() -> None:
    patterns: dict[str, list[str]] = SETUPTOOLS["package-data"]
    taken = {path for package, globs in patterns.items() for glob in globs for path in folder_of(package).glob(glob)}
    assert [path for path in files_on_disk() if path.suffix not in (".py", ".md") and path not in taken] == []


@pytest.mark.parametrize("package", sorted(MOVED))
def test_a_moved_package_is_linked_and_is_no_package_by_itself(package: str) -> None:
    link = ROOT / package.replace(".", "/")
    assert link.is_symlink()
    assert link.resolve() == folder_of(package)
    assert not (folder_of(package) / "__init__.py").exists()


@pytest.mark.parametrize("name", sorted(MOVED.values()))
def test_a_top_level_folder_shadows_no_installed_package(name: str, tmp_path: Path) -> None:
    installed = tmp_path / name / "__init__.py"
    installed.parent.mkdir()
    installed.touch()
    spec = PathFinder.find_spec(name, [str(ROOT), str(tmp_path)])
    assert spec is not None
    assert spec.origin == str(installed)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_a_built_in_method_is_where_its_entry_point_says(name: str) -> None:
    module, _, class_name = METHODS[name].partition(":")
    package, _, stem = module.rpartition(".")
    assert stem == name
    tree = ast.parse((folder_of(package) / f"{stem}.py").read_text(encoding="utf-8"))
    assert class_name in {node.name for node in tree.body if isinstance(node, ast.ClassDef)}


def test_every_method_file_has_an_entry_point_and_is_installed() -> None:
    assert {path.stem for path in (ROOT / "methods").glob("*.py")} == {*METHODS, *PARTS_OF_METHODS}
    installed = {point.name: point.value for point in entry_points(group="cosam_bench.methods")}
    assert METHODS.items() <= installed.items(), "pyproject.toml has changed since: pip install -e ."


def test_the_command_is_where_its_entry_point_says() -> None:
    module, _, function = PROJECT["project"]["scripts"]["cosam-bench"].partition(":")
    tree = ast.parse((ROOT / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8"))
    assert function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("resource", ["datasets/streams/mini.toml", "experiments/protocols/mini.toml"])
def test_the_embedded_files_are_found_as_resources(resource: str) -> None:
    folder, _, path = resource.partition("/")
    assert tomllib.loads(files(f"cosam_bench.{folder}").joinpath(path).read_text(encoding="utf-8"))["name"] == "mini"
