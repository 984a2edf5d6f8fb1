"""Measuring two ways of doing the same, one after the other, so that a busy machine slows both."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Row:
    """One line of the table; a figure that was not measured is None.

    Attributes:
        stage: what is compared.
        plain: seconds of processor time, or MiB, of the plain way.
        ours: the same of this package's.
        unit: ``s`` or ``MiB``.
        note: what else was found, such as how far the results are apart.
    """

    stage: str
    plain: float | None
    ours: float
    unit: str
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """How many times less than the plain way ours takes."""
        return None if self.plain is None else self.plain / self.ours


def in_turns(*works: Callable[[], object], repeats: int) -> list[float]:
    """The least processor seconds of each, measured in turns."""
    seconds: list[list[float]] = [[] for _ in works]
    for _ in range(repeats):
        for found, work in zip(seconds, works, strict=True):
            began = time.process_time()
            work()
            found.append(time.process_time() - began)
    return [min(found) for found in seconds]


def above_now(work: Callable[[], object]) -> float:
    """MiB by which the process's use rises at most while ``work`` runs; Linux keeps the count."""
    Path("/proc/self/clear_refs").write_text("5")  # the highest use so far is forgotten: proc(5)
    before = _kib("VmRSS")
    work()
    return (_kib("VmHWM") - before) / 1024


def _kib(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def in_a_process(name: str) -> float:
    """MiB that ``python -m benchmarks.memory NAME`` reports: a highest use never falls, so each has a process."""
    command = [sys.executable, "-m", "benchmarks.memory", name]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
