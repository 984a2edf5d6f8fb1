"""What a method can find out while it is described: nothing of data and records, as all of its workers are told."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from support.quick_protocol import write_quick_protocol

from cosam_bench.core.errors import CosamError
from cosam_bench.experiments.chosen_method import chosen_method
from cosam_bench.experiments.isolated_methods import named_private_folders
from cosam_bench.experiments.protocol import resolve_run
from cosam_bench.isolation import descriptions
from cosam_bench.isolation.descriptions import MethodFacts, describe
from cosam_bench.isolation.sandbox import HIDDEN
from cosam_bench.sweeps.grid import Grid
from cosam_bench.sweeps.planning import plan
from cosam_bench.tuning.space import space_of

CODE = """from pathlib import Path

from pydantic import Field

from cosam_bench import MergingMethod, MethodCard
from cosam_bench.core.settings import Settings


def seen():
    return [path for path in {paths!r} if Path(path).exists()]


class Mine(MergingMethod):
    card = MethodCard(title="Mine")

    class Settings(Settings):
        found: list[str] = Field(default_factory=seen)

    def merge(self, expert, domain, *, step):
        return expert
"""


@pytest.fixture
def private(tmp_path: Path) -> list[Path]:
    """A file of data, and one of records."""
    files = [tmp_path / "data/mask.png", tmp_path / "results/matrix.csv"]
    for file in files:
        file.parent.mkdir()
        file.touch()
    return files


@pytest.fixture
def method(tmp_path: Path, private: list[Path]) -> str:
    """A method of which a setting's default names the files that it sees."""
    path = tmp_path / "mine.py"
    path.write_text(CODE.format(paths=[str(file) for file in private]))
    if HIDDEN not in describe(str(path), {}, source="here").given_up:
        pytest.skip("this system cannot hide folders")
    return str(path)


def test_the_default_of_a_setting_cannot_hold_data_or_records(
    tmp_path: Path, private: list[Path], method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert describe(method, {}, source="here").given == {"found": [str(file) for file in private]}
    monkeypatch.setenv("COSAM_BENCH_DATA", str(tmp_path / "data"))
    protocol = write_quick_protocol(tmp_path, domains=["pill"])
    config = resolve_run(method=method, protocol=str(protocol), isolated=True, results=tmp_path / "results")
    assert config.settings == {"found": []}
    facts, _ = chosen_method(config.model_copy(update={"settings": {}}), isolated=True, results=tmp_path / "results")
    assert isinstance(facts, MethodFacts)
    assert facts.given == {"found": []}
    monkeypatch.chdir(tmp_path)
    assert resolve_run(method=method, protocol=str(protocol), isolated=True).settings == {"found": []}


def test_a_sweep_and_a_search_hide_the_records_of_the_folder_that_they_are_given(
    tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COSAM_BENCH_DATA", str(tmp_path / "data"))
    hidden: list[Sequence[str]] = []

    def watched(*arguments: Any, **named: Any) -> MethodFacts:
        hidden.append(named["hidden"])
        return describe(*arguments, **named)

    monkeypatch.setattr(descriptions, "describe", watched)
    results, protocol = tmp_path / "results", str(write_quick_protocol(tmp_path, domains=["pill"]))
    planned = plan(Grid(methods=(method,), protocol=protocol, isolated=True), results=results)
    assert planned.configs[0].settings == {"found": []}
    with pytest.raises(CosamError, match="found"):  # which is asked of the method again
        space_of(
            planned.configs[0], isolated=True, results=results, ranges={"mine": {"found": {"choices": ["no list"]}}}
        )
    assert len(hidden) >= 4, "the settings and the task of the sweep; the method and a value of the search"
    assert all(str(results) in folders for folders in hidden)


def test_the_folders_of_the_streams_cards_and_of_experts_are_private_too(tmp_path: Path) -> None:
    stream, experts = tmp_path / "stream.toml", tmp_path / "experts"
    stream.write_text('name = "own"\n[[domain]]\nname = "lung"\nroot = "images"\nsplit = { test = 0.5 }\n')
    experts.mkdir()
    (experts / "lung.safetensors").touch()
    found = named_private_folders(str(stream), str(experts), tmp_path / "records")
    assert {tmp_path / name for name in ("records", "images", "experts")} <= set(found)
    assert named_private_folders("none of this name", None, None)[0] == Path("results")
