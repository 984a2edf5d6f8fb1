"""Methods that cheat score what an honest one scores, or fail by name; what others use is as it was.

Each file in ``tests/cheats`` is one method that tries one trick, which its first line states.
"""

from __future__ import annotations

import ast
import os
import re
from pathlib import Path

import pytest
from support.isolated_runs import IsolatedRuns

from cosam_bench.experiments.experiment import SHARED, open_experiment
from cosam_bench.experiments.method_faults import MethodFailed
from cosam_bench.experiments.protocol import resolve_run
from cosam_bench.experiments.runner import Runner
from cosam_bench.results.records import Record

CHEATS = Path(__file__).parents[1] / "cheats"
NAMES = sorted(path.stem for path in CHEATS.glob("*.py") if path.stem not in ("conftest", "honest"))
CAUGHT = {
    "memory_in_the_weights": "changed the frozen base model's weights in learn",
    "false_messages": r"broke its contract|its process (sent|closed|ended)",
}
# Without Landlock this one may end the process that starts isolated methods, and so its own run.
MAY_FAIL = {"memory_of_the_parent": ""}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> IsolatedRuns:
    return IsolatedRuns(tmp_path_factory.mktemp(f"cheats-{os.getpid()}-"), first=CHEATS / "honest.py")


@pytest.fixture(scope="module")
def honest(runs: IsolatedRuns) -> Record:
    return runs.run(str(CHEATS / "honest.py"))


@pytest.fixture(scope="module")
def shared(honest: Record, runs: IsolatedRuns) -> dict[Path, bytes]:
    """The files that all methods share."""
    files = {path: path.read_bytes() for path in (runs.results / SHARED).rglob("*") if path.is_file()}
    assert {path.parent.name for path in files} >= {"experts", "rows", "prompts"}
    return files


def scores(record: Record) -> tuple[bytes, ...]:
    return tuple((record.folder / name).read_bytes() for name in ("matrix.csv", "scores.csv", "state.safetensors"))


def test_the_docs_have_a_line_for_each_cheat_and_each_cheat_says_what_it_tries() -> None:
    page = (CHEATS.parents[1] / "docs" / "isolation.md").read_text(encoding="utf-8")
    assert [name for name in NAMES if f"`{name}`" not in page] == []
    assert len(NAMES) >= 24
    for name in NAMES:
        assert ast.get_docstring(ast.parse((CHEATS / f"{name}.py").read_text(encoding="utf-8")))


@pytest.mark.parametrize("name", [name for name in NAMES if name not in CAUGHT | MAY_FAIL])
def test_a_cheat_has_no_effect(name: str, runs: IsolatedRuns, honest: Record, shared: dict[Path, bytes]) -> None:
    record = runs.run(str(CHEATS / f"{name}.py"))
    assert scores(record) == scores(honest)
    assert record.info.isolated
    assert record.info.cost.state_bytes == honest.info.cost.state_bytes
    assert record.info.cost.train_seconds[0] > 0.99 * honest.info.cost.train_seconds[0]
    if name == "zeroed_meter":
        assert all(0.3 < seconds < 20 for seconds in record.info.cost.merge_seconds)
    assert {path: path.read_bytes() for path in shared} == shared


@pytest.mark.parametrize("name", CAUGHT | MAY_FAIL)
def test_a_cheat_is_caught(name: str, runs: IsolatedRuns, honest: Record, shared: dict[Path, bytes]) -> None:
    try:
        record = runs.run(str(CHEATS / f"{name}.py"))
    except MethodFailed as error:
        found = str(error)
    else:
        assert name in MAY_FAIL
        assert scores(record) == scores(honest)
        found = ""
    if found:
        assert re.search((CAUGHT | MAY_FAIL)[name], found)
        assert f"The method {name!r}" in found
    assert {path: path.read_bytes() for path in shared} == shared


def test_an_honest_method_scores_in_this_process_what_it_scores_isolated(
    runs: IsolatedRuns, honest: Record, tmp_path: Path
) -> None:
    config = resolve_run(method=str(CHEATS / "honest.py"), protocol=str(runs.protocol))
    here = Runner(open_experiment(config, tmp_path), results=tmp_path).run()
    assert scores(here) == scores(honest)
    assert (here.info.isolated, here.info.marks) == (False, ("not isolated",))
    assert (honest.info.isolated, honest.info.marks) == (True, ())


def test_a_record_from_this_process_does_not_count_as_an_isolated_run(runs: IsolatedRuns, honest: Record) -> None:
    path = honest.folder / "run.json"
    text = path.read_text(encoding="utf-8")
    runner = Runner(runs.experiment(str(CHEATS / "honest.py")), results=runs.results)
    assert runner.finished() is not None
    path.write_text(text.replace('"isolated": true', '"isolated": false'), encoding="utf-8")
    assert runner.finished() is None
    assert scores(runner.run()) == scores(honest)
    assert '"isolated": true' in path.read_text(encoding="utf-8")
