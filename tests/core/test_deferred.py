"""Packages whose own modules are imported without what the package imports at first."""

from __future__ import annotations

import importlib
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from cosam_bench.core.deferred import defer


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A package that notes each run of its ``__init__``, deferred."""
    name = "deferred_example"
    folder = tmp_path / name
    folder.mkdir()
    runs = tmp_path / "runs"
    (folder / "__init__.py").write_text(
        f"with open({str(runs)!r}, 'a') as file: file.write('x')\n"
        "from .part import number\nfrom . import part as again\ndoubled = 2 * number\n",
        encoding="utf-8",
    )
    (folder / "part.py").write_text("number = 21\nclass Kind: pass\n", encoding="utf-8")
    runs.touch()
    monkeypatch.syspath_prepend(tmp_path)
    defer(name)
    yield name
    for loaded in [module for module in sys.modules if module.partition(".")[0] == name]:
        del sys.modules[loaded]


def runs(tmp_path: Path) -> int:
    return len((tmp_path / "runs").read_text(encoding="utf-8"))


def test_a_module_of_a_deferred_package_does_not_run_its_init(package: str, tmp_path: Path) -> None:
    assert importlib.import_module(f"{package}.part").number == 21
    assert runs(tmp_path) == 0


def test_a_name_of_the_package_runs_its_init_once_with_the_same_modules(package: str, tmp_path: Path) -> None:
    part = importlib.import_module(f"{package}.part")
    found: list[int] = []
    threads = [threading.Thread(target=lambda: found.append(sys.modules[package].doubled)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    whole = importlib.import_module(package)
    assert found == [42] * 8
    assert runs(tmp_path) == 1
    assert type(whole) is ModuleType
    assert whole.part is whole.again is part
    assert whole.part.Kind is part.Kind


def test_what_programs_look_for_in_all_modules_does_not_run_it(package: str, tmp_path: Path) -> None:
    module = sys.modules[package]
    assert not hasattr(module, "__wrapped__")
    assert str(module.__file__).endswith("__init__.py")
    assert runs(tmp_path) == 0


def test_a_star_import_gives_all_names(package: str) -> None:
    names: dict[str, object] = {}
    exec(f"from {package} import *", names)
    assert names["doubled"] == 42


def test_a_name_that_is_not_there_is_an_attribute_error(package: str) -> None:
    with pytest.raises(AttributeError, match="tripled"):
        _ = sys.modules[package].tripled


def test_an_error_of_the_init_is_passed_on_each_time(package: str, tmp_path: Path) -> None:
    (tmp_path / package / "part.py").write_text("raise ImportError('no library')", encoding="utf-8")
    for _ in range(2):
        with pytest.raises(ImportError, match="no library"):
            _ = sys.modules[package].doubled


def test_a_package_that_is_loaded_or_not_there_is_left_alone() -> None:
    defer("json")
    assert type(sys.modules["json"]) is ModuleType
    defer("no_such_package_at_all")
    assert "no_such_package_at_all" not in sys.modules
