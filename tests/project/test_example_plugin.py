"""A third party's packages, the example and a generated one: installed, found by their entry points, and run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cosam_bench.core.errors import CosamError
from cosam_bench.method.package_template import write_method_package

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "third-party-method"
CommandLine = Callable[..., str]


@pytest.fixture(scope="module", params=["ema", "gentle_step"])
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def source(name: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package's folder."""
    folder = tmp_path_factory.mktemp("plugin") / "source"
    if name == "ema":
        shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("build", "*.egg-info", "__pycache__"))
    else:
        write_method_package(name, folder)
    return folder


@pytest.fixture(scope="module")
def command_line(source: Path) -> CommandLine:
    """Runs ``python -m`` in a new process that has the package installed, and returns its standard output."""
    target = source.parent / "installed"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    _output([*pip, "--target", str(target), str(source)], source.parent, dict(os.environ))
    # Options in PYTEST_ADDOPTS, such as a threshold of coverage, are meant for the tests of this project alone.
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(target), str(ROOT)]), "PYTEST_ADDOPTS": ""}

    def run(*arguments: str, module: str = "cosam_bench.cli.main", cwd: Path = source.parent) -> str:
        return _output([sys.executable, "-m", module, *arguments], cwd, environment)

    return run


def _output(command: list[str], cwd: Path, environment: dict[str, str]) -> str:
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, f"{command} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_it_is_listed_with_the_built_in_methods(command_line: CommandLine, name: str) -> None:
    names = [line.split()[0] for line in command_line("methods").splitlines() if line.strip()]
    assert "regcl" in names
    assert name in names


def test_its_own_tests_pass_the_contract_check_among_them(command_line: CommandLine, source: Path) -> None:
    assert "2 passed" in command_line("-p", "no:cacheprovider", "-q", str(source / "tests"), module="pytest")


def test_it_runs(command_line: CommandLine, name: str, quick_protocol: Path, tmp_path: Path) -> None:
    asked = ("run", "--method", name, "--protocol", str(quick_protocol), "--set", "method.weight=0.25")
    command_line(*asked, cwd=tmp_path)
    results = tmp_path / "results"
    assert [path.parent.parent.name for path in results.glob("quick/*/*/run.json")] == [name]
    assert '""weight"": 0.25' in (results / "leaderboard.csv").read_text(encoding="utf-8")


@pytest.mark.parametrize("bad", ["regcl", "My-Method", "2nd", "", "../up", "mine_"])
def test_a_name_that_cannot_be_used_is_refused(bad: str, tmp_path: Path) -> None:
    with pytest.raises(CosamError, match="already registered" if bad == "regcl" else "cannot be called"):
        write_method_package(bad, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_nothing_is_written_over(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(CosamError, match="not empty"):
        write_method_package("mine", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
