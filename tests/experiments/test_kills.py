"""Runs that are killed outright, before a change on disk or at any moment: the next one ends with the same files."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from support.quick_protocol import write_quick_protocol

from cosam_bench.experiments.experiment import Experiment, open_experiment
from cosam_bench.experiments.protocol import resolve_run
from cosam_bench.experiments.runner import Runner
from cosam_bench.results.verification import verify_record

FILES = ("config.toml", "matrix.csv", "scores.csv", "state.safetensors", "update.safetensors")
CHANGES = ("replace", "unlink", "rmdir", "fsync", "mkdir")
"""The functions of ``os`` through which every change on disk of a run goes."""


@pytest.fixture(scope="module")
def opener(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Experiment]:
    """Opens a run of regcl in a folder of results."""
    protocol = write_quick_protocol(tmp_path_factory.mktemp("kills"))
    config = resolve_run(method="regcl", protocol=str(protocol))
    return lambda results: open_experiment(config, results)


def in_child(work: Callable[[], object]) -> int:
    """Do something in a forked process, and return how it ended: 0, or the negative number of a signal."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            torch.set_num_threads(1)  # a forked process has no other threads of OpenMP
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def run(opener: Callable[[Path], Experiment], results: Path) -> None:
    Runner(opener(results), results=results).run()


def killed_at_change(opener: Callable[[Path], Experiment], results: Path, number: int) -> int:
    """Run, and be killed before the change on disk of this number."""

    def work() -> None:
        left = iter(range(number))
        for name in CHANGES:
            own = getattr(os, name)

            def change(*args: object, own: Callable[..., object] = own, **kwargs: object) -> object:
                if next(left, None) is None:
                    os.kill(os.getpid(), signal.SIGKILL)
                return own(*args, **kwargs)

            setattr(os, name, change)
        run(opener, results)

    return in_child(work)


def killed_after(opener: Callable[[Path], Experiment], results: Path, seconds: float) -> int:
    """Run, and be ended by an alarm that nothing handles."""

    def work() -> None:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, seconds)
        run(opener, results)

    return in_child(work)


def outcome(results: Path) -> dict[str, bytes]:
    (path,) = results.glob("quick/*/*/run.json")
    assert verify_record(path.parent).faults == ()
    assert {one.name for one in path.parent.iterdir()} == {*FILES, "run.json", "examples.json"}
    return {name: (path.parent / name).read_bytes() for name in FILES}


@pytest.fixture(scope="module")
def whole(opener: Callable[[Path], Experiment], tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    results = tmp_path_factory.mktemp("whole")
    assert in_child(lambda: run(opener, results)) == 0
    return outcome(results)


@pytest.mark.parametrize("number", [0, 9, 31])
def test_a_kill_before_a_change_on_disk_loses_nothing(
    opener: Callable[[Path], Experiment], whole: dict[str, bytes], tmp_path: Path, number: int
) -> None:
    assert killed_at_change(opener, tmp_path, number) == -signal.SIGKILL
    assert in_child(lambda: run(opener, tmp_path)) == 0
    assert outcome(tmp_path) == whole


@pytest.mark.long
def test_kills_before_every_change_on_disk_lose_nothing(
    opener: Callable[[Path], Experiment], whole: dict[str, bytes], tmp_path: Path
) -> None:
    number = 0
    while killed_at_change(opener, tmp_path / str(number), number) == -signal.SIGKILL:
        results = tmp_path / str(number)
        assert in_child(lambda results=results: run(opener, results)) == 0  # type: ignore[misc]
        assert outcome(results) == whole, f"killed before change {number}"
        number += 1
    assert number > 50, "fewer changes on disk than a run makes"
    print(f"{number} kills before a change on disk")


@pytest.mark.long
def test_kills_at_any_moment_and_again_lose_nothing(
    opener: Callable[[Path], Experiment], whole: dict[str, bytes], tmp_path: Path
) -> None:
    began = time.perf_counter()
    assert in_child(lambda: run(opener, tmp_path / "timed")) == 0
    whole_seconds = time.perf_counter() - began  # an alarm after it would come too late to kill
    chance = random.Random(0)
    kills = 0
    for trial in range(12):
        results = tmp_path / str(trial)
        while (code := killed_after(opener, results, chance.uniform(0.02, 1.0) * whole_seconds)) != 0:
            assert code == -signal.SIGALRM
            kills += 1
        assert outcome(results) == whole
    assert kills >= 12
    print(f"{kills} kills at any moment, in {trial + 1} runs")
