"""Processes of this machine, by joblib's loky: one per GPU, or one per share of the cores."""

from __future__ import annotations

import os
import signal
from collections import deque
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, wait
from typing import Any

from cosam_bench.core.errors import CosamError
from cosam_bench.sweeps.engines import Outcome, Perform


def local_slots(device: str, *, threads: int, workers: int | None = None) -> list[str | None]:
    """The device of each process: one per GPU, or None for each share of the cores.

    Args:
        device: as ``run --device`` takes it.
        threads: of each process.
        workers: how many processes; None: one per GPU, or as many as the cores allow.
    """
    if device in ("auto", "cuda"):
        import torch

        gpus = torch.cuda.device_count()
        if gpus:
            return [f"cuda:{place % gpus}" for place in range(workers or gpus)]
    if device.startswith("cuda"):
        return [None] * (workers or 1)
    return [None] * (workers or max(1, len(os.sched_getaffinity(0)) // threads))


class LocalEngine:
    """Runs tasks in processes, no more at once than there are slots.

    If a process dies, as happens if memory runs out, loky ends the others with it, and which task was at fault is not
    known. All tasks that were running then run again, one at a time: one that ends its process again has failed, the
    others lose nothing but time.
    """

    def __init__(self, perform: Perform, *, slots: Sequence[str | None], threads: int = 1) -> None:
        """Start no process yet.

        Args:
            perform: a function that can be pickled.
            slots: the device of each process.
            threads: of each process.

        Raises:
            CosamError: joblib is not installed.
        """
        try:
            from joblib.externals import loky
        except ImportError:
            raise CosamError('Sweeps need joblib. Install it: pip install "cosam-bench[sweep]".') from None
        self._loky, self._perform, self._threads = loky, perform, threads
        self._free = deque(slots)
        self._count = len(slots)
        self._waiting: deque[str] = deque()
        self._suspects: deque[str] = deque()
        self._suspected: set[str] = set()
        self._running: dict[Future[Outcome], tuple[str, str | None]] = {}

    def submit(self, key: str) -> None:
        """Begin a task as soon as a slot is free."""
        self._waiting.append(key)
        self._fill()

    def gather(self) -> list[Outcome]:
        """Wait until a task has ended; the outcomes of all that have."""
        found: list[Outcome] = []
        while not found and (self._running or self._waiting or self._suspects):
            self._fill()
            ended, _ = wait(self._running, return_when=FIRST_COMPLETED)
            if any(isinstance(future.exception(), BrokenExecutor) for future in ended):
                ended, _ = wait(self._running)  # loky ends them all
            for future in ended:
                found += self._outcomes(future)
        self._fill()
        return found

    def _outcomes(self, future: Future[Outcome]) -> list[Outcome]:
        """What became of a task; nothing if it is to run again."""
        key, slot = self._running.pop(future)
        self._free.append(slot)
        error = future.exception()
        if error is None:
            return [future.result()]
        if not isinstance(error, BrokenExecutor):
            return [Outcome(key, error=f"{type(error).__name__}: {error}")]
        if key in self._suspected:
            return [Outcome(key, error="Its process ended twice, as happens if memory runs out. Use fewer workers.")]
        self._suspected.add(key)
        self._suspects.append(key)
        return []

    def _fill(self) -> None:
        """Give waiting tasks to free slots; a suspect runs alone."""
        is_suspect_running = any(key in self._suspected for key, _ in self._running.values())
        if self._suspects:
            if not self._running:
                self._start(self._suspects.popleft())
        elif not is_suspect_running:
            while self._waiting and self._free:
                self._start(self._waiting.popleft())

    def _start(self, key: str) -> None:
        slot = self._free.popleft()
        self._running[self._executor().submit(self._perform, key, slot)] = key, slot

    def _executor(self) -> Any:
        """The pool; a new one if the last one broke."""
        names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
        env = {"OMP_WAIT_POLICY": "PASSIVE"} | dict.fromkeys(names, str(self._threads))
        return self._loky.get_reusable_executor(
            max_workers=self._count, timeout=300, env=env, initializer=_leave_ctrl_c_to_the_parent
        )

    def close(self) -> None:
        """End the processes at once."""
        if self._running or self._waiting or self._suspects:
            self._executor().shutdown(wait=True, kill_workers=True)
        else:
            self._executor().shutdown(wait=True)


def _leave_ctrl_c_to_the_parent() -> None:
    """A terminal sends Ctrl-C to all processes; the parent ends these, and its message is the only one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
