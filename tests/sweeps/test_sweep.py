"""A sweep of the quick protocol: what it runs, what it shares, and that its scores are those of single runs."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from support.quick_protocol import QUICK_DOMAINS, write_quick_protocol
from support.sweeps import AT_ONCE, AtOnce, assert_same_bytes, missing
from typer.testing import Result

import cosam_bench as cb
from cosam_bench.sweeps.engines import Outcome, Perform
from cosam_bench.sweeps.grid import Grid
from cosam_bench.sweeps.status import StatusReader
from cosam_bench.sweeps.sweep import SweepResult, sweep

pytest.importorskip("joblib")

BROKEN = '''"""Raises at the second domain."""
from cosam_bench import MergingMethod, MethodCard


class Broken(MergingMethod):
    card = MethodCard(title="Broken")

    def merge(self, expert, domain, *, step):
        if step == 2:
            raise ValueError("as asked")
        return expert
'''


@pytest.fixture(scope="module", autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@dataclass(frozen=True)
class Swept:
    grid: Grid
    results: Path
    first: SweepResult


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Swept:
    folder = tmp_path_factory.mktemp("sweep")
    protocol = write_quick_protocol(folder)
    (folder / "broken.py").write_text(BROKEN)
    methods = ("average", "frozen", str(folder / "broken.py"))
    grid = Grid(methods=methods, protocol=str(protocol), orders=2, isolated=False)
    return Swept(grid, folder / "results", sweep(grid, results=folder / "results", engine=AT_ONCE))


def files(folder: Path) -> dict[str, float]:
    return {path.name: path.stat().st_mtime for path in folder.iterdir()}


def test_all_runs_but_those_of_a_broken_method_are_complete(swept: Swept) -> None:
    assert [record.info.method for record in swept.first.records] == ["average", "average", "frozen", "frozen"]
    assert [name.partition(" on ")[0] for name in swept.first.failed] == ["broken", "broken"]
    assert all("as asked" in reason for reason in swept.first.failed.values())


def test_experts_and_the_row_of_frozen_sam_are_there_once(swept: Swept) -> None:
    assert len(files(swept.results / "_shared" / "experts")) == 3
    assert len(files(swept.results / "_shared" / "rows")) == 1


def test_a_second_call_runs_only_what_is_missing(swept: Swept) -> None:
    again: list[str] = []
    second = sweep(
        swept.grid,
        results=swept.results,
        engine=AT_ONCE,
        on_task=lambda name, outcome: again.append(name.split()[0]),
    )
    assert again == ["broken", "broken"]
    assert missing(second) == {"frozen row": 0, "expert": 0, "run": 2}
    whole = swept.grid.model_copy(update={"methods": ("average", "frozen")})
    assert missing(sweep(whole, results=swept.results)) == {"frozen row": 0, "expert": 0, "run": 0}


def test_scores_are_the_bytes_of_a_single_run(swept: Swept, tmp_path: Path) -> None:
    torch.set_num_threads(swept.grid.threads)
    alone = cb.run("average", protocol=swept.grid.protocol, order="random:1", results=tmp_path)
    assert isinstance(alone, cb.Record)
    [found] = [
        one for one in swept.first.records if one.info.method == "average" and one.info.order == alone.info.order
    ]
    assert found.folder.name == alone.folder.name
    for name in ("matrix.csv", "scores.csv", "update.safetensors", "state.safetensors"):
        assert (found.folder / name).read_bytes() == (alone.folder / name).read_bytes()


def test_experts_that_were_trained_elsewhere_are_merged(swept: Swept, tmp_path: Path) -> None:
    for domain in QUICK_DOMAINS:
        (tmp_path / "experts").mkdir(exist_ok=True)
        shutil.copy(swept.first.records[0].folder / "update.safetensors", tmp_path / f"experts/{domain}.safetensors")
    given = swept.grid.model_copy(
        update={"methods": ("average",), "orders": 1, "settings": ({"experts": str(tmp_path / "experts")},)}
    )
    done = sweep(given, results=tmp_path / "results", engine=AT_ONCE)
    assert not done.failed
    [record] = done.records
    assert "experts brought in" in record.info.marks
    assert missing(done) == {"frozen row": 1, "expert": 0, "run": 1}
    assert missing(sweep(given, results=tmp_path / "results", dry_run=True))["run"] == 0


def test_code_that_was_edited_after_planning_is_not_filed_under_the_planned(swept: Swept, tmp_path: Path) -> None:
    own = tmp_path / "last.py"
    own.write_text(BROKEN.replace("if step == 2", "if step > 9"))
    grid = swept.grid.model_copy(update={"methods": (str(own),), "orders": 1})
    results = shutil.copytree(swept.results / "_shared", tmp_path / "results" / "_shared").parent

    def edit(_: SweepResult) -> None:
        own.write_text(BROKEN.replace("if step == 2", "if step > 99"))

    first = sweep(grid, results=results, engine=AT_ONCE, on_start=edit)
    [reason] = first.failed.values()
    assert reason == (
        "The code of method 'last' was edited after this run was planned, so it was not begun. "
        "Give the same command again."
    )
    assert (first.records, list(results.glob("[!_]*"))) == ((), [])
    again = sweep(grid, results=results, engine=AT_ONCE)
    assert (again.failed, len(again.records)) == ({}, 1)


def test_times_that_were_measured_make_the_estimate(swept: Swept) -> None:
    more = swept.grid.model_copy(update={"methods": ("average", "ties"), "seeds": 2})
    plan = sweep(more, results=swept.results, dry_run=True)
    assert missing(plan) == {"frozen row": 1, "expert": 3, "run": 6}
    assert (plan.left.known, plan.left.unknown) == (1 + 3 + 2, 4)  # nothing is known of ties
    assert 0 < plan.left.seconds < plan.unshared.seconds


def test_what_is_removed_is_done_again_only_if_a_run_needs_it(swept: Swept, tmp_path: Path) -> None:
    grid = swept.grid.model_copy(update={"methods": ("average",), "orders": 1})
    folder = shutil.copytree(swept.results, tmp_path / "results")
    for path in (folder / "_shared" / "experts").iterdir():
        path.unlink()
    nothing = sweep(grid, results=folder, dry_run=True)
    assert missing(nothing) == {"frozen row": 0, "expert": 0, "run": 0}
    (nothing.records[0].folder / "run.json").unlink()
    assert missing(sweep(grid, results=folder, dry_run=True)) == {"frozen row": 0, "expert": 3, "run": 1}


def test_an_isolated_sweep_measures_again_what_was_not_isolated(swept: Swept, tmp_path: Path) -> None:
    (tmp_path / "last.py").write_text(BROKEN.replace("if step == 2", "if step > 9"))
    open_grid = swept.grid.model_copy(update={"methods": (str(tmp_path / "last.py"),), "orders": 1})
    grid, results = open_grid.model_copy(update={"isolated": None}), tmp_path / "results"

    def left(one: Grid) -> int:
        return missing(sweep(one, results=results, dry_run=True))["run"]

    [in_process] = sweep(open_grid, results=results, engine=AT_ONCE).records
    assert not in_process.info.isolated
    assert left(grid) == 1
    [isolated] = sweep(grid, results=results, engine=AT_ONCE).records
    assert isolated.info.isolated
    assert isolated.folder == in_process.folder
    assert (left(grid), left(open_grid)) == (0, 0)
    cb.run(tmp_path / "last.py", protocol=grid.protocol, results=results, isolated=False, fresh=True)
    assert left(grid) == 1
    assert StatusReader(results).read().counts["run"] == {"waiting": 1}


@pytest.mark.long
def test_processes_write_the_bytes_of_one_process(swept: Swept, tmp_path: Path) -> None:
    done = sweep(swept.grid, results=tmp_path, workers=2)
    assert len(done.failed) == 2  # the broken method's
    assert_same_bytes(swept.first, done)


class StoppedAfterTwo(AtOnce):
    """As if Ctrl-C were pressed while the third task runs."""

    def __init__(self, perform: Perform, **_: object) -> None:
        super().__init__(perform)
        self._ended = 0

    def gather(self) -> list[Outcome]:
        if self._ended == 2:
            raise KeyboardInterrupt
        self._ended += 1
        return super().gather()


def test_ctrl_c_prints_one_line_and_the_same_command_continues(
    cli: Callable[..., Result], quick_protocol: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("sweep", "--methods", "average", "--protocol", quick_protocol, "--device", "cpu")
    monkeypatch.setattr("cosam_bench.sweeps.local_engine.LocalEngine", StoppedAfterTwo)
    first = cli(*command)
    assert first.exit_code == 130
    lines = first.output.strip().splitlines()
    assert [line.split()[0] for line in lines[-3:]] == ["Done:", "Done:", "Stopped:"]
    assert "give the same command again" in lines[-1]
    monkeypatch.setattr("cosam_bench.sweeps.local_engine.LocalEngine", lambda perform, **_: AtOnce(perform))
    second = cli(*command)
    assert second.exit_code == 0, second.output
    assert sum(line.startswith("Done:") for line in second.output.splitlines()) == 3
    assert "1 of 1 runs are complete" in second.output


def is_alive(group: int) -> bool:
    """Whether a group has a process."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.long
def test_ctrl_c_in_a_terminal_ends_all_processes(quick_protocol: Path, tmp_path: Path) -> None:
    program = [sys.executable, "-c", "from cosam_bench.cli.main import main; main()"]
    command = [*program, "sweep", "--methods", "average,ties", "--protocol", quick_protocol]
    command += ["--orders", "2", "--workers", "2", "--device", "cpu", "--results", tmp_path / "results"]
    texts = [str(part) for part in command]
    with subprocess.Popen(texts, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, process_group=0) as running:
        assert running.stderr is not None
        while "Done:" not in (line := running.stderr.readline()):
            assert line, "it ended by itself"
        os.killpg(running.pid, signal.SIGINT)
        said = running.stderr.read()
    assert running.returncode == 130
    assert [line.split()[0] for line in said.splitlines() if not line.startswith("Done:")] == ["Stopped:"]
    for _ in range(300):  # loky's tracker of resources ends by itself, once its pipe is closed
        if not is_alive(group := running.pid):
            break
        time.sleep(0.1)
    assert not is_alive(group)
    again = subprocess.run(texts, capture_output=True, text=True, check=True)
    assert "4 of 4 runs are complete" in again.stdout
    assert len([line for line in again.stderr.splitlines() if "Done:" in line]) < 1 + 3 + 4


def test_the_command_prints_the_plan_and_runs_nothing(
    cli: Callable[..., Result], quick_protocol: Path, tmp_path: Path
) -> None:
    file = tmp_path / "grid.toml"
    file.write_text('methods = ["average", "ties"]\nprotocol = "quick.toml"\norders = 3\nseeds = 2\n')
    for given in (
        (file,),
        ("--methods", "average,ties", "--protocol", quick_protocol, "--orders", "3", "--seeds", "2"),
    ):
        shown = cli("sweep", *given, "--dry-run")
        assert shown.exit_code == 0, shown.output
        rows = [line.split()[:5] for line in shown.output.splitlines()]
        assert ["frozen", "row", "12", "2", "2"] in rows
        assert ["expert", "36", "6", "6", "not"] in rows
        assert ["run", "12", "12", "12", "not"] in rows
        assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ((), "No method was given"),
        (("none.toml",), "No file none.toml"),
        (("grid.toml", "--seeds", "2"), "Leave out --seeds"),
        (("grid.toml",), "did you mean 'methods'"),
        (("--methods", "averge"), "Did you mean 'average'"),
    ],
)
def test_a_command_that_does_not_fit_is_refused(
    cli: Callable[..., Result], tmp_path: Path, given: tuple[Any, ...], said: str
) -> None:
    (tmp_path / "grid.toml").write_text('method = ["average"]\n')
    shown = cli("sweep", *given)
    assert shown.exit_code == 2
    assert said in " ".join(shown.output.split())
