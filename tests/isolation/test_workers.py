"""A method that fails in its own process: one clear error, nothing left behind, other methods as before."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest
from support.isolated_runs import IsolatedRuns

import cosam_bench as cb
from cosam_bench.core.errors import CosamError
from cosam_bench.experiments.method_faults import MethodFailed
from cosam_bench.experiments.progress import SilentReporter
from cosam_bench.experiments.protocol import resolve_run
from cosam_bench.experiments.runner import Runner
from cosam_bench.isolation import server_handle

FAILING = Path(__file__).parent / "failing_methods.py"
HONEST = Path(__file__).parents[1] / "cheats" / "honest.py"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> IsolatedRuns:
    return IsolatedRuns(tmp_path_factory.mktemp("failing"), first=HONEST)


class Notes(SilentReporter):
    """Keeps the notes of a run."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def line_of(text: str) -> int:
    return FAILING.read_text(encoding="utf-8").splitlines().index(text) + 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "Raises",
            r"raised ZeroDivisionError in learn\(\): one over \\x1b\[31mnothing \(PLACE, line \d+\)\. The trace",
        ),
        ("RaisesInState", r"raised KeyError in state\(\): 'total' \(PLACE, line \d+\)"),
        ("Leaves", r"raised SystemExit in learn\(\): enough \(PLACE, line \d+\)"),
        ("Exits", r"failed in learn\(\): its process ended with exit code 7\. This function is in PLACE, line \d+\."),
        ("Killed", r"failed in predict\(\): its process was killed by signal SIGKILL; the system .*PLACE, line \d+\."),
        ("Segfaults", r"failed in learn\(\): its process was killed by signal SIGSEGV\. This function is in PLACE"),
        ("ExitsBehindAChild", r"failed in learn\(\): its process ended with exit code 3\."),
        ("ClosesTheConnection", r"failed in learn\(\): its process (was killed|closed)"),
        (
            "ReturnsAList",
            r"broke its contract: predict\(\) must return float logits of shape \(\d, \d+, \d+\).* list\.",
        ),
        ("ReturnsAnotherShape", r"broke its contract: .* but returned torch\.float32 \(\d, 3, 3\)\."),
        ("ReturnsIntegers", r"broke its contract: .* but returned torch\.int32 "),
        ("ReturnsNan", r"broke its contract: .* not finite"),
        ("ReturnsNoState", r"failed in state\(\): state\(\) returned a dict instead of .*State \(PLACE, line \d+\)\."),
        (
            "ForgetsItsReturn",
            r"failed in learn\(\): merge\(\) returned None, .*\(PLACE, line \d+\)\. Return the Update",
        ),
        (
            "KeepsAnUpdate",
            r"failed in learn\(\): self\.memory\['last'\] is an Update \(PLACE, line \d+\)\. Memory takes",
        ),
    ],
)
def test_a_failure_is_one_message_that_names_method_function_and_line(
    name: str, message: str, runs: IsolatedRuns
) -> None:
    with pytest.raises(MethodFailed, match=message.replace("PLACE", str(FAILING))) as caught:
        runs.run(f"{FAILING}:{name}")
    assert f"The method 'failing_methods:{name}' " in str(caught.value)
    assert "\x1b" not in str(caught.value)


def test_the_line_is_where_it_was_raised_and_the_traceback_is_kept(runs: IsolatedRuns) -> None:
    with pytest.raises(MethodFailed) as caught:
        runs.run(f"{FAILING}:Raises")
    line = line_of('        raise ZeroDivisionError("one over \\x1b[31mnothing")')
    assert f"line {line})" in str(caught.value)
    [file] = runs.results.glob("quick/failing_methods-Raises/*/error.txt")
    assert "ZeroDivisionError" in file.read_text(encoding="utf-8")


def test_fewer_images_at_once_are_tried_if_a_worker_lacks_memory(runs: IsolatedRuns) -> None:
    small, whole = runs.run(f"{FAILING}:NeedsMemory"), runs.run(str(HONEST))
    assert (small.folder / "scores.csv").read_bytes() == (whole.folder / "scores.csv").read_bytes()


def test_training_steps_are_reported_wherever_they_run(runs: IsolatedRuns, tmp_path: Path) -> None:
    def steps(is_isolated: bool) -> list[cb.TrainingStep]:
        seen: list[cb.TrainingStep] = []
        place = tmp_path / str(is_isolated)
        method = f"{FAILING}:TrainsItself"
        cb.run(method, protocol=runs.protocol, results=place, isolated=is_isolated, on_step=seen.append)
        return seen

    found = steps(True)
    assert {step.domain for step in found} == {"pitting", "pill"}
    assert found == steps(False)


def test_notes_of_a_worker_reach_the_user_as_short_lines_that_say_where_they_are_from(runs: IsolatedRuns) -> None:
    reporter = Notes()
    Runner(runs.experiment(f"{FAILING}:SaysMuch"), results=runs.results, reporter=reporter).run()
    first, again, *others = reporter.notes
    assert first == again == f"From the method's process: one Last 0.99 \\x1b[31m{'a' * 378} ..."
    head = "From the method's process: "
    assert others == [*(f"{head}number {number}" for number in range(9)), f"{head}further notes are left out."]


def test_an_error_of_the_callers_hook_is_not_the_methods(runs: IsolatedRuns, tmp_path: Path) -> None:
    for method in (f"{FAILING}:TrainsItself", HONEST):  # one trains in the worker, the other here
        with pytest.raises(cb.CosamError, match=r"on_step raised ZeroDivisionError at step 1"):
            cb.run(method, protocol=runs.protocol, results=tmp_path, on_step=lambda step: 1 / 0)


def test_a_stopped_run_leaves_no_process_and_no_folder(
    runs: IsolatedRuns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # shells let background processes ignore it
    try:
        threading.Timer(1.5, os.kill, (os.getpid(), signal.SIGINT)).start()
        began = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            runs.run(f"{FAILING}:Hangs")
    finally:
        signal.signal(signal.SIGINT, before)
    assert time.monotonic() - began < 20
    assert list(tmp_path.iterdir()) == []
    commands = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline")]
    assert commands
    assert not any(b"987.125" in command for command in commands)


def test_what_cannot_be_imported_is_refused_before_anything_runs(runs: IsolatedRuns, tmp_path: Path) -> None:
    def resolved(text: str) -> None:
        path = tmp_path / "bad.py"
        path.write_text(text)
        resolve_run(method=str(path), protocol=str(runs.protocol), isolated=True)

    with pytest.raises(CosamError, match=r"bad\.py raised ZeroDivisionError while loading: division by zero"):
        resolved("1 / 0")
    with pytest.raises(CosamError, match="ended with exit code 4 while its code was imported"):
        resolved("import os\nos._exit(4)")
    with pytest.raises(CosamError, match=r"bad\.py raised SystemExit while loading: 5"):
        resolved("raise SystemExit(5)")
    with pytest.raises(CosamError, match=r"bad\.py defines no method"):
        resolved("")
    card = "from cosam_bench import MergingMethod\nclass Mine(MergingMethod):\n    def merge(self, *a, **b): ...\n"
    with pytest.raises(CosamError, match="its class has no card"):
        resolved(card)


def test_a_server_that_was_killed_fails_the_method_and_is_replaced(runs: IsolatedRuns) -> None:
    runs.experiment(str(HONEST))
    killed = server_handle._server
    assert killed is not None
    threading.Timer(1, os.kill, (killed._pid, signal.SIGKILL)).start()
    with pytest.raises(MethodFailed, match=r"failed in learn\(\): its process was lost together with"):
        runs.run(f"{FAILING}:Waits")
    server_handle.prepare(fork=False)
    assert server_handle._server is not killed
    server_handle.shut_down()  # the new one would take seconds to start
