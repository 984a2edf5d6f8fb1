"""Signals end a run as Ctrl-C does: the record says interrupted, and the same command continues it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cosam_bench.cli.signals import end_as_by_ctrl_c, exit_code, ignore_further

RUN = "from cosam_bench.cli.main import main; main()"


def heed_signals() -> None:
    """Undo what the tests were started with: shells let processes in the background ignore Ctrl-C."""
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def start(protocol: Path, folder: Path, *, prefix: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    command = [*prefix, sys.executable, "-c", RUN, "run", "-m", "finetune", "--protocol", str(protocol)]
    process = subprocess.Popen(
        [*command, "--set", "fit.epochs=200"],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed_signals,
    )
    deadline = time.monotonic() + 120
    while not list(folder.glob("results/*/*/*/steps/000.json")):  # the first row is final, and learning has begun
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return process


def test_sigterm_leaves_an_interrupted_record_and_an_ignored_sighup_nothing(
    quick_protocol: Path, tmp_path: Path
) -> None:
    process = start(quick_protocol, tmp_path, prefix=("nohup",))
    process.send_signal(signal.SIGHUP)
    time.sleep(0.2)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 143, said
    assert "Traceback" not in said
    assert "Stopped: To continue, give the same command again." in said
    (path,) = tmp_path.glob("results/*/*/*/run.json")
    assert json.loads(path.read_text())["status"] == "interrupted"


def test_who_presses_ctrl_c_three_times_sees_no_traceback(quick_protocol: Path, tmp_path: Path) -> None:
    process = start(quick_protocol, tmp_path)
    for _ in range(3):
        process.send_signal(signal.SIGINT)
        time.sleep(0.02)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "Traceback" not in said
    assert "Stopped: " in said


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_other_signals_end_as_ctrl_c_does(number: signal.Signals) -> None:
    both = (signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(one, signal.SIG_DFL) for one in both]
    try:
        end_as_by_ctrl_c()
        with pytest.raises(KeyboardInterrupt) as caught:
            os.kill(os.getpid(), number)
        assert exit_code(caught.value) == 128 + number
    finally:
        for one, handler in zip(both, before, strict=True):
            signal.signal(one, handler)


def test_a_command_that_is_called_as_a_function_leaves_the_signals_alone() -> None:
    before = signal.getsignal(signal.SIGINT)
    ignore_further()
    assert signal.getsignal(signal.SIGINT) is before


def test_ctrl_c_has_its_shells_exit_code() -> None:
    assert exit_code(KeyboardInterrupt()) == 130
