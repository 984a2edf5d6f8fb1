"""The example of a third party's package: installed as anybody's would be, found by its entry point, and run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "third-party-method"
CommandLine = Callable[..., str]


@pytest.fixture(scope="module")
def command_line(tmp_path_factory: pytest.TempPathFactory) -> CommandLine:
    """Runs ``cosam-bench`` in a new process that has the example installed, and returns its standard output."""
    folder = tmp_path_factory.mktemp("plugin")
    source, target = folder / "source", folder / "installed"
    shutil.copytree(EXAMPLE, source, ignore=shutil.ignore_patterns("build", "*.egg-info", "__pycache__"))
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    _output([*pip, "--target", str(target), str(source)], folder, dict(os.environ))
    environment = os.environ | {"PYTHONPATH": str(target)}

    def run(*arguments: str, cwd: Path = folder) -> str:
        return _output([sys.executable, "-m", "cosam_bench.cli.main", *arguments], cwd, environment)

    return run


def _output(command: list[str], cwd: Path, environment: dict[str, str]) -> str:
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, f"{command} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_it_is_listed_with_the_built_in_methods(command_line: CommandLine) -> None:
    names = [line.split()[0] for line in command_line("methods").splitlines() if line.strip()]
    assert "regcl" in names
    assert "ema" in names


def test_it_keeps_the_contract(command_line: CommandLine) -> None:
    assert command_line("check", "ema").count("ok") == 9


def test_it_runs(command_line: CommandLine, quick_protocol: Path, tmp_path: Path) -> None:
    asked = ("run", "--method", "ema", "--protocol", str(quick_protocol), "--set", "method.weight=0.25")
    command_line(*asked, cwd=tmp_path)
    results = tmp_path / "results"
    assert [path.parent.parent.name for path in results.glob("quick/*/*/run.json")] == ["ema"]
    assert '""weight"": 0.25' in (results / "leaderboard.csv").read_text(encoding="utf-8")
