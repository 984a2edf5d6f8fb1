"""Measuring two ways of doing the same, one after the other, so that a busy machine slows both."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from cosam_bench.core.environment import synchronise

CPU = torch.device("cpu")


class Skipped(Exception):
    """A stage cannot be measured here; the text says why."""


@dataclass(frozen=True)
class Row:
    """One line of the table; a figure that was not measured is None.

    Attributes:
        stage: what is compared.
        plain: the plain way's figure.
        ours: the same of this package's.
        unit: ``s`` of processor time (of the clock's on a GPU), ``MiB``, or what the figure is.
        note: what else was found, such as how far the results are apart.
        limit: the least seconds that this machine could take by the cost model.
    """

    stage: str
    plain: float | None
    ours: float
    unit: str
    note: str = ""
    limit: float | None = None

    @property
    def ratio(self) -> float | None:
        """How many times less than the plain way ours takes."""
        return None if self.plain is None else self.plain / self.ours

    @property
    def share(self) -> float | None:
        """How near to the machine's limit ours comes, 1 being the limit."""
        return None if self.limit is None else self.limit / self.ours


def in_turns(*works: Callable[[], object], repeats: int, device: torch.device = CPU) -> list[float]:
    """The least seconds of each, measured in turns: processor seconds on the CPU, the clock's on a GPU."""
    seconds: list[list[float]] = [[] for _ in works]
    for _ in range(repeats):
        for found, work in zip(seconds, works, strict=True):
            began = _now(device)
            work()
            found.append(_now(device) - began)
    return [min(found) for found in seconds]


def _now(device: torch.device) -> float:
    synchronise(device)
    return time.process_time() if device.type == "cpu" else time.perf_counter()


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
