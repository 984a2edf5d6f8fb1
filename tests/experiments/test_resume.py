"""Runs that were killed, stopped or damaged go on to the same record; full disks and second processes cost nothing."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from support.small_runs import (
    Counter,
    Killed,
    Opener,
    contents,
    raising,
    status,
    stopped_after,
)

from cosam_bench.core.errors import CosamError
from cosam_bench.core.files import CannotWrite
from cosam_bench.experiments.experiment import open_experiment
from cosam_bench.experiments.method_faults import MethodFailed
from cosam_bench.experiments.protocol import resolve_run
from cosam_bench.experiments.runner import Runner
from cosam_bench.experiments.running_record import RunningRecord
from cosam_bench.experiments.step_result import StepResult
from cosam_bench.merging.updates import Update
from cosam_bench.training.expert_store import ExpertStore


class Killer:
    """Ends the process in front of the n-th change on disk, by its count of renames and removals."""

    def __init__(self, patch: pytest.MonkeyPatch, *, at: int | None, error: type[BaseException] = Killed) -> None:
        self.count = 0
        for owner, name in ((Path, "replace"), (Path, "unlink"), (shutil, "rmtree")):
            patch.setattr(owner, name, self._watched(getattr(owner, name), at, error))

    def _watched(self, change: Callable[..., Any], at: int | None, error: type[BaseException]) -> Callable[..., Any]:
        def watched(*args: Any, **kwargs: Any) -> Any:
            if self.count == at:
                self.count += 1
                raise error
            self.count += 1
            return change(*args, **kwargs)

        return watched


@pytest.mark.parametrize("error", [Killed, KeyboardInterrupt])
def test_a_run_killed_in_front_of_any_change_on_disk_goes_on_to_the_same_record(
    error: type[BaseException], small: Opener, whole: dict[str, bytes], tmp_path: Path
) -> None:
    experiment = small("Quick")
    with pytest.MonkeyPatch.context() as patch:
        changes = Killer(patch, at=None)
        Runner(experiment, results=tmp_path / "counted").run()
    assert changes.count > 20
    for at in range(0, changes.count, 1 if error is Killed else 3):
        results = tmp_path / f"{at}"
        runner = Runner(experiment, results=results)
        with pytest.MonkeyPatch.context() as patch:
            Killer(patch, at=at, error=error)
            with pytest.raises(error):
                runner.run()
        resumed = Runner(experiment, results=results).run()
        found = contents(resumed.folder)
        leftover = {name for name in found if name not in whole}
        assert all(name == ".lock" or name.startswith(("steps/", ".")) for name in leftover), leftover
        assert {name: found[name] for name in whole} == whole, f"killed in front of change {at}"
        shutil.rmtree(results)


def test_ctrl_c_says_interrupted_and_keeps_the_start(
    small: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = Runner(small("Quick"), results=tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("cosam_bench.experiments.row_scorer.score_split", raising(KeyboardInterrupt))
        patch.setattr("cosam_bench.experiments.running_record.utc_now", lambda: "2001-01-01T00:00:00+00:00")
        patched = Runner(small("Quick"), results=tmp_path)
        with pytest.raises(KeyboardInterrupt):
            patched.run()
    assert status(runner.folder) == ("interrupted", None)
    assert runner.run().info.started == "2001-01-01T00:00:00+00:00"


def test_a_full_disk_is_nobodys_failure_and_the_run_goes_on_once_there_is_space(
    small: Opener, whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync = os.fsync
    for at in range(0, 18, 2):  # of the 18 files that a whole run writes
        results, left = tmp_path / f"{at}", iter(range(at))

        def full(handle: int, left: Iterator[int] = left) -> None:
            if next(left, None) is None:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            sync(handle)

        runner = Runner(small("Quick"), results=results)
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            with pytest.raises(CannotWrite, match="No space left on device"):
                runner.run()
        assert contents(Runner(small("Quick"), results=results).run().folder) == whole
        shutil.rmtree(results)


def test_only_what_is_missing_is_measured(
    small: Opener, whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = small("Quick")
    learned: list[str] = []
    learn = experiment.method.learn

    def watched(self: Any, domain: Any, *, step: int) -> None:
        learned.append(domain.name)
        learn(self, domain, step=step)

    monkeypatch.setattr(experiment.method, "learn", watched)
    with stopped_after(1, experiment, tmp_path) as folder:
        names = {path.name for path in (folder / "steps").iterdir()}
        assert names == {"000.json", "001.json", "001.npz", "001.safetensors"}
        assert learned == ["pill"]
        assert status(folder) == ("running", None)
    assert contents(Runner(experiment, results=tmp_path).run().folder) == whole
    assert learned == ["pill", "polyp"]


@pytest.mark.parametrize(
    "damage", [b"", b"[]", b'{"step": 1}', b"\xff", b"null", b'{"step": 1, "scores": {"pill": 3}}']
)
def test_a_damaged_step_is_refused_and_a_fresh_run_mends_it(
    damage: bytes, small: Opener, whole: dict[str, bytes], tmp_path: Path
) -> None:
    with stopped_after(1, small("Quick"), tmp_path) as folder:
        (folder / "steps" / "001.json").write_bytes(damage)
    with pytest.raises(CosamError, match=r"001\.json cannot be read: .*--fresh"):
        Runner(small("Quick"), results=tmp_path).run()
    if not damage:
        assert contents(Runner(small("Quick"), results=tmp_path).run(fresh=True).folder) == whole


def test_another_runs_step_and_a_damaged_state_are_refused(small: Opener, tmp_path: Path) -> None:
    with stopped_after(1, small("Quick"), tmp_path) as folder:
        pass
    state = folder / "steps" / "001.safetensors"
    state.write_bytes(state.read_bytes()[:-3])
    with pytest.raises(CosamError, match=r"001\.safetensors was changed after step 1.*--fresh") as caught:
        Runner(small("Quick"), results=tmp_path).run()
    assert not isinstance(caught.value, MethodFailed)
    StepResult(0, {}).save(folder / "steps" / "000.json", identity="another run")
    with pytest.raises(CosamError, match=r"000\.json cannot be read: it .* belongs to another run.*--fresh"):
        Runner(small("Quick"), results=tmp_path).run()


def test_a_record_of_another_form_is_refused_and_a_fresh_run_replaces_it(
    small: Opener, whole: dict[str, bytes], tmp_path: Path
) -> None:
    folder = Runner(small("Quick"), results=tmp_path).run().folder
    (folder / "run.json").write_text('{"schema": 99}')
    with pytest.raises(CosamError, match=r"has schema 99.*Use --fresh to replace it with this run"):
        Runner(small("Quick"), results=tmp_path).run()
    assert contents(Runner(small("Quick"), results=tmp_path).run(fresh=True).folder) == whole


def test_a_second_process_at_the_same_run_is_refused(small: Opener, whole: dict[str, bytes], tmp_path: Path) -> None:
    with stopped_after(1, small("Quick"), tmp_path):
        pass
    with RunningRecord(small("Quick"), results=tmp_path).locked():
        for fresh in (False, True):
            with pytest.raises(CosamError, match="Another process is writing this same run"):
                Runner(small("Quick"), results=tmp_path).run(fresh=fresh)
    assert contents(Runner(small("Quick"), results=tmp_path).run().folder) == whole


def test_regcl_is_the_same_byte_for_byte_wherever_and_however_often_it_is_stopped(
    quick_protocol: Path, tmp_path: Path
) -> None:
    experiment = open_experiment(resolve_run(method="regcl", protocol=str(quick_protocol)), tmp_path / "one")
    progress = Counter()
    first = Runner(experiment, results=tmp_path / "one", reporter=progress).run()
    assert progress.total == progress.done == 4 * (4 * 3) + 3 * (3 + 1) * 4
    assert progress.said[:3] == ["Scoring frozen SAM", "Learning pitting (step 1 of 3)", "Scoring after step 1 of 3"]

    warm, left = Counter(), 3 * (4 * 3) + 3 * (3 + 1) * 4
    again = Runner(experiment, results=tmp_path / "one", reporter=warm).run(fresh=True)
    assert warm.total == warm.done == left, "reused experts count as if trained, the known row not at all"
    assert again.info.cost.train_seconds == first.info.cost.train_seconds

    other = replace(experiment, bench=replace(experiment.bench, experts=ExpertStore(tmp_path / "two" / "experts")))
    for step in (0, 1, 2, 3):
        with stopped_after(step, other, tmp_path / "two"):
            pass
    stopped = Runner(other, results=tmp_path / "two").run()
    for name in ("matrix.csv", "scores.csv", "config.toml", "state.safetensors", "update.safetensors"):
        whole = (again.folder / name).read_bytes()
        assert (stopped.folder / name).read_bytes() == whole, f"{name} after four kills"
    assert len(set(first.info.cost.state_bytes)) == 1

    _check_order(quick_protocol, tmp_path, again.folder)


def _check_order(quick_protocol: Path, tmp_path: Path, folder: Path) -> None:
    """RegCL's final update does not depend on the order beyond rounding; the experts are those of before."""
    override = 'order=["polyp", "pitting", "pill"]'
    run = resolve_run(method="regcl", protocol=str(quick_protocol), overrides=(override,))
    shuffled = Runner(open_experiment(run, tmp_path / "one"), results=tmp_path / "one").run()
    assert len(list((tmp_path / "one" / "_shared" / "experts").iterdir())) == 3
    ours, theirs = (Update.from_tensors(load_file(one / "update.safetensors")) for one in (folder, shuffled.folder))
    assert ours.low_rank.keys() == theirs.low_rank.keys()
    for name, factors in ours.low_rank.items():
        change = factors.dense()
        difference = (change - theirs.low_rank[name].dense()).abs().max()
        assert difference <= 1e-4 * change.abs().max(), name
