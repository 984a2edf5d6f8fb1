"""Processes of this machine: they work, fail and die."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from cosam_bench.sweeps.engines import Outcome
from cosam_bench.sweeps.local_engine import LocalEngine, local_slots

pytest.importorskip("joblib")


def act(folder: Path, key: str, slot: str | None) -> Outcome:
    """What the first part of the key says; a file counts how often it was begun."""
    begun = folder / key
    with begun.open("a") as file:
        file.write(f"{slot} {os.environ['OMP_NUM_THREADS']}\n")
    kind = key.partition("-")[0]
    if kind == "fail":
        return Outcome(key, error="as asked")
    if kind == "raise":
        raise ValueError("as asked")
    if kind == "slow":
        time.sleep(0.3)
    if kind == "die" or (kind == "once" and len(begun.read_text().splitlines()) == 1):
        time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGKILL)
    return Outcome(key)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[LocalEngine]:
    engine = LocalEngine(partial(act, tmp_path), slots=["left", "right"], threads=3)
    yield engine
    engine.close()


def outcomes(engine: LocalEngine, *keys: str) -> dict[str, str]:
    for key in keys:
        engine.submit(key)
    found: dict[str, str] = {}
    while len(found) < len(keys):
        found |= {outcome.key: outcome.error for outcome in engine.gather()}
    return found


def test_failures_are_outcomes_and_each_process_has_its_device_and_threads(engine: LocalEngine, tmp_path: Path) -> None:
    keys = ("slow-1", "fail-1", "slow-2", "raise-1", "slow-3")
    assert outcomes(engine, *keys) == {
        "slow-1": "",
        "fail-1": "as asked",
        "slow-2": "",
        "raise-1": "ValueError: as asked",
        "slow-3": "",
    }
    assert {(tmp_path / key).read_text() for key in keys} == {"left 3\n", "right 3\n"}


@pytest.mark.long
def test_a_process_that_dies_takes_no_other_task_with_it(engine: LocalEngine, tmp_path: Path) -> None:
    found = outcomes(engine, "slow-1", "die-1", "slow-2", "once-1", "slow-3", "slow-4")
    assert {key for key, error in found.items() if error} == {"die-1"}
    assert "ended twice" in found["die-1"]
    assert len((tmp_path / "die-1").read_text().splitlines()) in (2, 3)  # also as a bystander, if once-1 ran beside it


def test_slots_are_shares_of_the_cores() -> None:
    cores = len(os.sched_getaffinity(0))
    assert local_slots("cpu", threads=1) == [None] * cores
    assert local_slots("cpu", threads=2 * cores) == [None]
    assert local_slots("cuda:1", threads=1) == [None]
    assert local_slots("cpu", threads=1, workers=5) == [None] * 5
