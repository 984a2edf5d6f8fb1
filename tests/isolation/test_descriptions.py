"""What a method can find out while it is described: nothing of data and records, as all of its workers are told."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.quick_protocol import write_quick_protocol

from cosam_bench.experiments.chosen_method import chosen_method
from cosam_bench.experiments.isolated_methods import named_private_folders
from cosam_bench.experiments.protocol import resolve_run
from cosam_bench.isolation.descriptions import MethodFacts, describe
from cosam_bench.isolation.sandbox import HIDDEN

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


def test_the_folders_of_the_streams_cards_and_of_experts_are_private_too(tmp_path: Path) -> None:
    stream, experts = tmp_path / "stream.toml", tmp_path / "experts"
    stream.write_text('name = "own"\n[[domain]]\nname = "lung"\nroot = "images"\nsplit = { test = 0.5 }\n')
    experts.mkdir()
    (experts / "lung.safetensors").touch()
    found = named_private_folders(str(stream), str(experts), tmp_path / "records")
    assert {tmp_path / name for name in ("records", "images", "experts")} <= set(found)
    assert named_private_folders("none of this name", None, None)[0] == Path("results")
