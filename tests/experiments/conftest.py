"""What tests of whole runs start from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.small_runs import Opener, contents, small_experiments, software_looked_up_once

from cosam_bench.experiments.runner import Runner


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opener]:
    with software_looked_up_once():
        yield small_experiments(tmp_path_factory.mktemp("small"))


@pytest.fixture
def whole(small: Opener, tmp_path: Path) -> dict[str, bytes]:
    """What the quick method's record holds when nothing went wrong."""
    return contents(Runner(small("Quick"), results=tmp_path / "whole").run().folder)
