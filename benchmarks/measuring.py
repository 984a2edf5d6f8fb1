"""Measuring seconds of two ways in turn, so that a busy machine slows both, and memory in a process of its own."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import ParamSpec, TypeVar

import torch

from cosam_bench.core.devices import peak_memory_bytes, reset_peak_memory, synchronise

P = ParamSpec("P")
T = TypeVar("T")
CPU = torch.device("cpu")


class Skipped(Exception):
    """A stage cannot be measured here; the text says why."""


def in_turns(*works: Callable[[], object], repeats: int, device: torch.device = CPU) -> list[float]:
    """The least seconds of each, measured in turn: processor seconds on the CPU, wall seconds on a GPU."""
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


def peak_above_now(work: Callable[[], object]) -> float:
    """MiB by which the process's memory rises at most while ``work`` runs; on Linux alone."""
    reset_peak_memory(CPU)
    before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    work()
    return (peak_memory_bytes(CPU) - before) / 2**20


def in_a_process(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """What ``work`` returns in a new process, on one thread: what was freed before would not count there."""
    with ProcessPoolExecutor(1, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        return pool.submit(work, *args, **kwargs).result()
