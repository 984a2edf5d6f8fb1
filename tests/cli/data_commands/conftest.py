"""The data folder, the commands on it, and imitated data to prepare."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from support.imitations import BUILDERS, build
from typer.testing import CliRunner, Result

from cosam_bench.cli.main import app


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The data folder, within an empty folder that is the current one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COSAM_BENCH_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.fixture
def cli(data: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("COSAM_BENCH_DEBUG", raising=False)
    return lambda *arguments: CliRunner().invoke(app, ["data", *map(str, arguments)])


@pytest.fixture(scope="session")
def cosam_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle") / "CoSAM data"
    for name, layout in BUILDERS:
        if layout == "cosam_bundle":
            build(name, folder, layout)
    return folder
