"""Records in trackers: what is sent, and that the real libraries store it without a network."""

from __future__ import annotations

import json
import math
import os
import sqlite3
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from support.recorded import ORDER, record

from cosam_bench.core.errors import CosamError
from cosam_bench.results.records import Record, read_cells
from cosam_bench.results.trackers import log_records, tracked_run

COMMAND = [sys.executable, "-m", "cosam_bench.cli.main", "log"]


def test_a_run_holds_every_cell_cost_and_figure(tmp_path: Path) -> None:
    made = record(tmp_path, method="regcl", settings={"ridge": 0.5})
    run = tracked_run(made)
    assert run.name == made.name
    assert (run.config["protocol"], run.config["commit"]) == ({"name": "made"}, "a" * 40)
    cells = read_cells(made.folder / "matrix.csv")
    assert len(run.steps) == len(ORDER) + 1
    for cell in cells:
        assert run.steps[cell.step][f"{cell.metric}/{cell.domain}"] == cell.value
        if cell.step == len(ORDER):
            assert run.summary[f"final/{cell.metric}/{cell.domain}"] == cell.value
    costs = [len(made.cost.train_seconds), len(made.cost.merge_seconds), len(made.cost.state_bytes)]
    assert sum(map(len, run.steps)) == len(cells) + sum(costs)
    assert run.steps[1]["cost/merge_seconds"] == made.cost.merge_seconds[0]
    assert run.summary["cost/total_train_seconds"] == 3.0


def test_undefined_numbers_are_left_out(tmp_path: Path) -> None:
    made = record(tmp_path, method="regcl")
    info = made.info.model_copy(update={"summary": {"iou": {"last": 0.25, "ff": math.nan}}})
    summary = tracked_run(Record(made.folder, info)).summary
    assert summary["summary/iou/last"] == 0.25
    assert "summary/iou/ff" not in summary


@pytest.mark.parametrize(
    ("to", "options", "message"),
    [
        ("trackoi", {}, "Did you mean 'trackio'"),
        ("wandb", {"name": "x"}, "One name was given for 2 records"),
        ("wandb", {"project": " "}, "is empty"),
        ("wandb", {}, "is interrupted. Complete it"),
    ],
)
def test_bad_requests_are_refused_before_anything_is_sent(
    tmp_path: Path, to: str, options: dict[str, str], message: str
) -> None:
    records = [record(tmp_path, method="regcl"), record(tmp_path, method="opcm", status="interrupted")]
    with pytest.raises(CosamError, match=message):
        log_records(records, to=to, **options)


@pytest.mark.parametrize("package", ["trackio", "wandb"])
def test_a_missing_package_is_named_with_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(CosamError, match=rf'{package} is not installed.* pip install "cosam-bench\[{package}\]"'):
        log_records([record(tmp_path, method="regcl")], to=package)


class Recorder(ModuleType):
    """An imitation of wandb that keeps what it is told."""

    def __init__(self, *, fault: str = "") -> None:
        super().__init__("wandb")
        self.fault, self.started, self.steps = fault, {}, {}  # type: ignore[var-annotated]
        self.summary: dict[str, float] = {}
        self.is_finished = False

    def Settings(self, **_: object) -> None: ...  # noqa: N802 (wandb's own name)

    def init(self, **options: object) -> Recorder:
        if self.fault:
            raise RuntimeError(self.fault)
        self.started = options
        return self

    def log(self, values: dict[str, float], *, step: int) -> None:
        self.steps[step] = values

    def finish(self) -> None:
        self.is_finished = True


def test_wandb_gets_each_step_under_its_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", recorder := Recorder())
    made = record(tmp_path, method="regcl")
    assert log_records([made], to="wandb", project="trial", name="mine") == ["mine"]
    run = tracked_run(made, name="mine")
    assert (recorder.started["project"], recorder.started["name"]) == ("trial", "mine")
    assert recorder.started["config"] == run.config
    assert recorder.steps == dict(enumerate(run.steps))
    assert (recorder.summary, recorder.is_finished) == (run.summary, True)


def test_a_refusal_of_the_tracker_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", Recorder(fault="No API key configured."))
    with pytest.raises(CosamError, match=r"could not log made/regcl/\w+: No API key configured\. Log in with `wandb l"):
        log_records([record(tmp_path, method="regcl")], to="wandb")


def logged(folder: Path, to: str, *, env: dict[str, str], names: tuple[str, ...]) -> str:
    """What the command prints in a process of its own: both libraries start threads and services."""
    command = [*COMMAND, *names, "--to", to, "--project", "trial", "--results", str(folder / "results")]
    found = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert (found.returncode, found.stderr) == (0, "")
    return found.stdout


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2]), **more}


def test_trackio_stores_several_records_on_this_machine(tmp_path: Path) -> None:
    made = [record(tmp_path / "results", method=name) for name in ("regcl", "opcm")]
    said = logged(tmp_path, "trackio", env=environment(TRACKIO_DIR=str(tmp_path / "t")), names=("regcl", "opcm"))
    assert [line.rpartition(" ")[2] for line in said.splitlines()] == [one.name for one in made]
    [database] = (tmp_path / "t").glob("*.db")
    with sqlite3.connect(database) as stored:
        rows = stored.execute("select run_name, step, metrics from metrics order by id").fetchall()
        configs = dict(stored.execute("select run_name, config from configs").fetchall())
    stored.close()
    for one in made:
        run = tracked_run(one)
        found = {step: json.loads(metrics) for name, step, metrics in rows if name == one.name}
        assert found == dict(enumerate([*run.steps[:-1], {**run.steps[-1], **run.summary}]))
        assert json.loads(configs[one.name])["record"] == one.name


def test_wandb_stores_a_record_offline(tmp_path: Path) -> None:
    made = record(tmp_path / "results", method="regcl")
    said = logged(tmp_path, "wandb", env=environment(WANDB_MODE="offline"), names=("regcl",))
    assert said == f"Logged to wandb, project trial: {made.name}\n"
    [file] = (tmp_path / "wandb").glob("offline-run-*/*.wandb")
    content, run = file.read_bytes(), tracked_run(made)
    for key, value in (*run.steps[0].items(), *run.steps[-1].items(), *run.summary.items()):
        assert key.encode() in content
        assert json.dumps(int(value) if value.is_integer() else value).encode() in content
    assert made.name.encode() in content
