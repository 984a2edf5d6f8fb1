"""A record is complete only if every file of it is there and is what was computed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from cosam_bench.core.errors import CosamError
from cosam_bench.experiments.experiment import Experiment, open_experiment
from cosam_bench.experiments.protocol import resolve_run
from cosam_bench.experiments.runner import Runner
from cosam_bench.experiments.running_record import RunningRecord
from cosam_bench.experiments.step_result import StepResult
from cosam_bench.results.verification import verify_record

FILES = ("config.toml", "matrix.csv", "scores.csv", "state.safetensors", "update.safetensors")
Damage = Callable[[Path], object]


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    from support.quick_protocol import write_quick_protocol

    folder = tmp_path_factory.mktemp("complete")
    config = resolve_run(method="finetune", protocol=str(write_quick_protocol(folder)))
    return open_experiment(config, folder)


def run(experiment: Experiment, results: Path, *, after: int, damage: Damage) -> Path:
    """Run with the damage done to the record's folder once a step is final."""
    finish = RunningRecord.finish_step

    def finish_and_damage(self: RunningRecord, result: StepResult) -> None:
        finish(self, result)
        if result.step == after:
            damage(self.folder)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunningRecord, "finish_step", finish_and_damage)
        return Runner(experiment, results=results).run().folder


@pytest.fixture(scope="module")
def whole(experiment: Experiment, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = run(experiment, tmp_path_factory.mktemp("whole"), after=0, damage=lambda folder: None)
    return {name: (folder / name).read_bytes() for name in FILES}


def cut(name: str) -> Damage:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:100])


@pytest.mark.parametrize("after", [1, 3])
@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "scores.csv").unlink(),
        cut("matrix.csv"),
        lambda folder: (folder / "config.toml").unlink(),
    ],
    ids=["no scores.csv", "cut matrix.csv", "no config.toml"],
)
def test_files_that_can_be_written_again_are_whole_in_the_end(
    experiment: Experiment, whole: dict[str, bytes], tmp_path: Path, after: int, damage: Damage
) -> None:
    folder = run(experiment, tmp_path, after=after, damage=damage)
    assert {name: (folder / name).read_bytes() for name in FILES} == whole
    assert verify_record(folder).faults == ()


def flipped(name: str) -> Damage:
    def flip(folder: Path) -> None:
        (path,) = folder.glob(name)
        data = bytearray(path.read_bytes())
        data[-2] ^= 1
        path.write_bytes(data)

    return flip


@pytest.mark.parametrize("after", [1, 3])
@pytest.mark.parametrize("damage", [shutil.rmtree, flipped("steps/*.safetensors")], ids=["no folder", "flipped bit"])
def test_a_lost_or_changed_state_stops_the_run_and_a_fresh_one_mends_it(
    experiment: Experiment, whole: dict[str, bytes], tmp_path: Path, after: int, damage: Damage
) -> None:
    with pytest.raises(CosamError, match=r"cannot be read|was changed"):
        run(experiment, tmp_path, after=after, damage=damage)
    found = list(tmp_path.rglob("run.json"))
    assert [json.loads(path.read_text())["status"] for path in found] == ["interrupted"]
    folder = Runner(experiment, results=tmp_path).run(fresh=True).folder
    assert {name: (folder / name).read_bytes() for name in FILES} == whole


def test_an_outcome_that_changes_at_the_end_is_not_called_complete(
    experiment: Experiment, whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep = RunningRecord.keep_outcome

    def keep_and_damage(self: RunningRecord, *args: object) -> None:
        keep(self, *args)  # type: ignore[arg-type]
        flipped("state.safetensors")(self.folder)

    with monkeypatch.context() as patch:
        patch.setattr(RunningRecord, "keep_outcome", keep_and_damage)
        with pytest.raises(CosamError, match=r"changed while the run was in progress: state\.safetensors is not the"):
            Runner(experiment, results=tmp_path).run()
    folder = Runner(experiment, results=tmp_path).run().folder
    assert {name: (folder / name).read_bytes() for name in FILES} == whole
