"""The loop over the domains, and what is on disk while it runs: killed, damaged, full, shared."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from cosam_bench.core import environment
from cosam_bench.core.errors import CosamError
from cosam_bench.core.files import CannotWrite
from cosam_bench.data.samples import Sample, Split
from cosam_bench.evaluation.loader import Loader
from cosam_bench.evaluation.metrics import METRICS
from cosam_bench.experiments.experiment import Experiment, open_experiment
from cosam_bench.experiments.method_faults import MethodFailed
from cosam_bench.experiments.progress import BarReporter, LineReporter
from cosam_bench.experiments.protocol import resolve_run
from cosam_bench.experiments.runner import Runner
from cosam_bench.experiments.running_record import RunningRecord
from cosam_bench.experiments.step_result import StepResult
from cosam_bench.merging.updates import Update
from cosam_bench.training.expert_store import ExpertStore

METHODS = '''
import torch
from cosam_bench.method.card import MethodCard
from cosam_bench.method.interface import Method, State


class Quick(Method):
    """Predicts by one number, which it draws and remembers: as good as any method, for the runner."""

    card = MethodCard(title="Quick", order_dependent=True)

    def __init__(self, settings, bench):
        super().__init__(settings, bench)
        self.total = torch.zeros(1)

    def learn(self, domain, *, step):
        drawn = torch.rand(1, generator=self.bench.generator("quick", domain.name, step))
        self.total = self.total + drawn + domain[0].mask.float().mean()

    def predict(self, batch):
        grid = self.bench.view.grid
        edge = torch.arange(grid) / grid
        return (edge[:, None] + edge - self.total).expand(len(batch), grid, grid)

    def state(self):
        return State({"total": self.total, "same memory": self.total})

    def load(self, state):
        self.total = state.tensors["total"]


class AtOnce(Quick):
    card = MethodCard(title="At once", all_at_once=True)

    def learn(self, domain, *, step):
        self.total = torch.tensor([float(len(domain)), float(step)])

    def predict(self, batch):
        assert self.total.tolist() == [4.0, 1.0]
        return torch.zeros(len(batch), self.bench.view.grid, self.bench.view.grid)


class RaisesIn(Quick):
    act = ""

    def __getattribute__(self, name):
        if name == object.__getattribute__(self, "act"):
            raise ZeroDivisionError("one over nothing")
        return super().__getattribute__(name)


class RaisesInLearn(RaisesIn):
    act = "learn"


class RaisesInPredict(RaisesIn):
    act = "predict"


class RaisesInState(RaisesIn):
    act = "state"


class RaisesInLoad(RaisesIn):
    act = "load"


class RaisesInInit(Quick):
    def __init__(self, settings, bench):
        raise ZeroDivisionError("one over nothing")


class ReturnsMasks(Quick):
    def predict(self, batch):
        return super().predict(batch) > 0


class NeedsMemory(Quick):
    """On a device whose memory holds ``most`` images, and that is full only after they were encoded."""

    most = 1

    def predict(self, batch):
        self.bench.encode(batch)
        if len(batch) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return super().predict(batch)


class NeedsMoreMemory(NeedsMemory):
    most = 0


class NeedsMemoryToLearn(Quick):
    def learn(self, domain, *, step):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


class Complains(Quick):
    def learn(self, domain, *, step):
        from cosam_bench.core.errors import CosamError

        raise CosamError("Training diverged.")


class HooksTheBase(Quick):
    def learn(self, domain, *, step):
        self.bench.sam.image_encoder.register_forward_hook(lambda module, inputs, output: output + 1)


class TrainsTheBase(Quick):
    def learn(self, domain, *, step):
        self.bench.sam.requires_grad_(True)


class ChangesTheBase(Quick):
    def learn(self, domain, *, step):
        next(self.bench.sam.parameters()).data += 1


class KeepsTheDomain(Quick):
    def learn(self, domain, *, step):
        self.kept = domain

    def state(self):
        return State({"image": self.kept[0].image})
'''

STREAM = """
name = "small"
retention = ["natural"]
"""
CARD = """
[[domain]]
name = "{name}"
kind = "synthetic"
generator = "{name}"
size = 32
split = {{ kind = "counts", train = {train}, test = 2, seed = 0 }}
"""
PROTOCOL = """
name = "small"
stream = "stream.toml"
model = { name = "tiny", checkpoint = "random" }
"""


class Killed(BaseException):
    """The process is gone: nothing may handle this."""


Opener = Callable[[str], Experiment]


@pytest.fixture(autouse=True, scope="module")
def the_software_is_looked_up_once() -> Iterator[None]:
    """Its versions and commit are a third of what one of these hundred runs would take."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("versions", "commit"):
            patch.setattr(f"cosam_bench.experiments.running_record.{name}", cache(getattr(environment, name)))
        patch.setattr("cosam_bench.experiments.row_reuse.versions", cache(environment.versions))
        yield


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Opener:
    """Two domains of two images, a retention domain, and the methods above by their class's name."""
    folder = tmp_path_factory.mktemp("small")
    (folder / "methods.py").write_text(METHODS)
    cards = [CARD.format(name=name, train=train) for name, train in (("pill", 2), ("polyp", 2), ("natural", 0))]
    (folder / "stream.toml").write_text(STREAM + "".join(cards))
    (folder / "small.toml").write_text(PROTOCOL)
    known: dict[str, Experiment] = {}

    def experiment(name: str) -> Experiment:
        if name not in known:
            method = name if name.islower() else f"{folder / 'methods.py'}:{name}"
            known[name] = open_experiment(
                resolve_run(method=method, protocol=str(folder / "small.toml")), folder / "shared"
            )
        return known[name]

    return experiment


def contents(folder: Path) -> dict[str, bytes]:
    """All files of a record by name; of run.json what does not tell the time."""
    found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    info = json.loads(found.pop("run.json"))
    kept = ("status", "summary", "conditions", "prompts", "settings", "order", "error", "config")
    return found | {"run.json": json.dumps({key: info[key] for key in kept}).encode()}


def status(folder: Path) -> tuple[str, str | None]:
    info = json.loads((folder / "run.json").read_text())
    return info["status"], info["error"]


@pytest.fixture
def whole(small: Opener, tmp_path: Path) -> dict[str, bytes]:
    """What the quick method's record holds when nothing went wrong."""
    return contents(Runner(small("Quick"), results=tmp_path / "whole").run().folder)


def test_a_record_holds_its_files_and_nothing_more(whole: dict[str, bytes], small: Opener) -> None:
    assert set(whole) == {"config.toml", "examples.json", "matrix.csv", "run.json", "scores.csv", "state.safetensors"}
    lines = whole["matrix.csv"].decode().splitlines()
    assert lines[0] == "step,domain,metric,value,count"
    assert len(lines) == 1 + 3 * 3 * len(METRICS)
    assert len(whole["scores.csv"].decode().splitlines()) == 1 + 3 * 3 * 2
    info = json.loads(whole["run.json"])
    assert info["status"] == "complete"
    assert set(info["prompts"]) == {"pill/train", "polyp/train", "pill/test", "polyp/test", "natural/test"}


def test_a_complete_run_is_not_measured_again_unless_afresh(small: Opener, tmp_path: Path) -> None:
    first = Runner(small("Quick"), results=tmp_path).run()
    runner = Runner(small("Quick"), results=tmp_path)
    assert runner.finished() == first
    assert runner.run() == first
    (first.folder / "left over").mkdir()
    again = runner.run(fresh=True)
    assert again.folder == first.folder
    assert not (again.folder / "left over").exists()


def test_the_written_config_is_this_very_run(small: Opener, tmp_path: Path) -> None:
    record = Runner(small("Quick"), results=tmp_path).run()
    config = resolve_run(config=record.folder / "config.toml")
    assert config == small("Quick").config
    runner = Runner(open_experiment(config, tmp_path / "other"), results=tmp_path)
    assert runner.folder == record.folder
    assert runner.finished() is not None


def test_joint_training_learns_once_and_has_two_rows(small: Opener, tmp_path: Path) -> None:
    record = Runner(small("AtOnce"), results=tmp_path).run()
    matrix = record.score_matrix("iou")
    assert (~torch.from_numpy(matrix.values).isnan()).all(1).tolist() == [True, False, True]
    assert len(record.info.cost.state_bytes) == 1


def test_frozen_learns_nothing(small: Opener, tmp_path: Path) -> None:
    record = Runner(small("frozen"), results=tmp_path).run()
    values = record.score_matrix("iou").values
    assert (values == values[0]).all()
    cost = record.info.cost
    assert set(cost.train_seconds) == {0.0}
    assert len(set(cost.state_bytes)) == 1
    assert cost.encoder_passes_per_image == 1.0


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
        patch.setattr("cosam_bench.experiments.row_scorer.score_split", _raise(KeyboardInterrupt))
        patch.setattr("cosam_bench.experiments.running_record.utc_now", lambda: "2001-01-01T00:00:00+00:00")
        patched = Runner(small("Quick"), results=tmp_path)
        with pytest.raises(KeyboardInterrupt):
            patched.run()
    assert status(runner.folder) == ("interrupted", None)
    assert runner.run().info.started == "2001-01-01T00:00:00+00:00"


def _raise(error: type[BaseException], *args: object) -> Callable[..., Any]:
    def fail(*_: object, **__: object) -> Any:
        raise error(*args)

    return fail


@pytest.mark.parametrize("act", ["learn", "predict", "state", "load", "__init__"])
def test_what_a_method_raises_is_its_own_runs_failure(act: str, small: Opener, tmp_path: Path) -> None:
    name = "RaisesInInit" if act == "__init__" else f"RaisesIn{act.title()}"
    runner = Runner(small(name), results=tmp_path)
    with pytest.raises(MethodFailed, match=rf"'methods:{name}' raised ZeroDivisionError in {act}\(\): one over not"):
        runner.run()
    failed, error = status(runner.folder)
    assert failed == "failed"
    assert error is not None
    assert f"in {act}()" in error
    assert "ZeroDivisionError: one over nothing" in (runner.folder / "error.txt").read_text()
    rows = (runner.folder / "matrix.csv").read_text().splitlines()
    assert len(rows) == 1 + 3 * len(METRICS), "the frozen model's row is kept"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ReturnsMasks", r"broke its contract: predict\(\) must return float logits"),
        ("Complains", r"failed in learn\(\): Training diverged"),
        ("HooksTheBase", r"left hooks, .* in the frozen base model in learn\(\)"),
        ("TrainsTheBase", r"parameters that require gradients in the frozen base model in learn\(\)"),
        ("ChangesTheBase", r"changed the frozen base model's weights in learn\(\)"),
        ("NeedsMoreMemory", r"failed in predict\(\): The device has too little memory to predict a single image"),
        ("NeedsMemoryToLearn", r"raised OutOfMemoryError in learn\(\): CUDA out of memory"),
        ("KeepsTheDomain", r"raised ClosedDomainError in state\(\): The domain 'pill' is closed"),
    ],
)
def test_a_broken_contract_is_the_methods_failure(name: str, message: str, small: Opener, tmp_path: Path) -> None:
    experiment = small(name)
    weights = {key: tensor.clone() for key, tensor in experiment.bench.sam.state_dict().items()}
    runner = Runner(experiment, results=tmp_path)
    with pytest.raises(MethodFailed, match=message):
        runner.run()
    assert status(runner.folder)[0] == "failed"
    experiment.bench.sam.load_state_dict(weights)


@pytest.mark.parametrize(
    "place", ["cosam_bench.evaluation.scoring.measure", "cosam_bench.evaluation.scoring.collate_inputs"]
)
def test_the_harness_own_fault_is_not_the_methods(
    place: str, small: Opener, whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = Runner(small("Quick"), results=tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(place, _raise(RuntimeError, "a defect"))
        with pytest.raises(RuntimeError, match="a defect"):
            runner.run()
    assert status(runner.folder) == ("interrupted", "RuntimeError: a defect")
    assert not (runner.folder / "error.txt").exists()
    assert contents(runner.run().folder) == whole


def test_a_failure_that_is_mended_leaves_no_trace(
    small: Opener, whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = small("Quick")
    runner = Runner(experiment, results=tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(experiment.method, "learn", _raise(ValueError, "at first"))
        with pytest.raises(MethodFailed):
            runner.run()
    assert (runner.folder / "error.txt").exists()
    assert contents(Runner(experiment, results=tmp_path).run().folder) == whole


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


@contextmanager
def stopped_after(step: int, experiment: Experiment, results: Path) -> Iterator[Path]:
    """The folder of a run that was killed as soon as this step was final."""
    runner = Runner(experiment, results=results)
    finish = RunningRecord.finish_step

    def finish_and_die(self: RunningRecord, result: StepResult) -> None:
        finish(self, result)
        if result.step == step:
            raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunningRecord, "finish_step", finish_and_die)
        with pytest.raises(Killed):
            runner.run()
    yield runner.folder


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


class Counter:
    """Adds up what it is told."""

    on_step = None

    def __init__(self) -> None:
        self.total = self.done = 0.0
        self.said: list[str] = []

    def begin(self, total: float) -> None:
        self.total = total

    def say(self, text: str) -> None:
        self.said.append(text)

    def note(self, text: str) -> None:
        self.said.append(text)

    def advance(self, units: float) -> None:
        self.done += units


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


def test_a_run_whose_batches_do_not_fit_goes_on_in_smaller_ones(
    small: Opener, whole: dict[str, bytes], tmp_path: Path
) -> None:
    told = Counter()
    record = Runner(small("NeedsMemory"), results=tmp_path, reporter=told).run()
    found = contents(record.folder)
    assert {name: found[name] for name in ("scores.csv", "matrix.csv")} == {
        name: whole[name] for name in ("scores.csv", "matrix.csv")
    }
    notes = [text for text in told.said if "memory" in text]
    assert notes == ["The device's memory does not hold 2 images at once; continuing with 1."], (
        "said once, not each row"
    )
    assert record.info.cost.encoder_passes_per_image == 1.0, "what did not fit is no cost of the method"


def test_a_note_is_a_line_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    for reporter in (LineReporter(), BarReporter()):
        with reporter:
            reporter.begin(100)
            reporter.say("Scoring")
            reporter.note("Going on with [4] :smile:")
            reporter.say("Scoring on")
        assert "Going on with [4] :smile:\n" in capsys.readouterr().err


def test_all_rows_and_methods_share_what_was_loaded(small: Opener, tmp_path: Path) -> None:
    experiment = replace(small("Quick"), loader=Loader(workers=1, cache_bytes=1 << 30))
    read: list[tuple[str, int]] = []
    own = Split.read

    def watched(split: Split, index: int) -> Sample:
        read.append((split.domain, index))
        return own(split, index)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Split, "read", watched)
        Runner(experiment, results=tmp_path).run()
        tested = [(name, row) for name in ("pill", "polyp", "natural") for row in range(2)]
        assert sorted(read) == sorted([*tested, *tested, ("pill", 0), ("polyp", 0)]), (
            "once for all rows, once for a thumbnail, and the training image the method looks at"
        )
        read.clear()
        again = experiment.with_method(small("frozen").config)
        assert again.loader is experiment.loader
        Runner(again, results=tmp_path / "other").run()
        assert sorted(read) == sorted(tested), "once for a thumbnail"
