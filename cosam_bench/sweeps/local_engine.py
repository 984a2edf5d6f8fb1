"""Processes of this machine, by joblib's loky: one per GPU, or one per share of the cores."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, wait
from typing import Any

from cosam_bench.core.errors import CosamError
from cosam_bench.sweeps.engines import Outcome

Perform = Callable[[str, str | None], Outcome]
"""Does the task of a key on a device; None: on the one in its settings."""


class LocalEngine:
    """Runs tasks in processes, no more at once than there are slots.

    If a process dies, as it does where memory runs out, loky ends the others with it and nobody can tell which task
    was at fault. All tasks that were running then run again, one at a time: one that ends its process again has
    failed, the others lose nothing but time.
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
            was_alone, died = len(self._running) == 1, []
            for future in ended:
                key, slot = self._running.pop(future)
                self._free.append(slot)
                try:
                    found.append(future.result())
                except BrokenExecutor:
                    died.append(key)
            if was_alone and died:
                found.append(Outcome(died[0], error="Its process was ended, as is done where memory runs out."))
            elif died:
                self._suspects.extend(died)
                self._await_the_end()
        self._fill()
        return found

    def _await_the_end(self) -> None:
        """Put all that a broken pool still held among the suspects."""
        wait(self._running)
        for future, (key, slot) in self._running.items():
            self._free.append(slot)
            if future.exception() is None:
                self._done_meanwhile(future)
            else:
                self._suspects.append(key)
        self._running.clear()

    def _done_meanwhile(self, future: Future[Outcome]) -> None:
        self._suspects.append(future.result().key)  # done again it takes no time: its file is there

    def _fill(self) -> None:
        """Give waiting tasks to free slots; a suspect runs alone."""
        if self._suspects:
            if not self._running:
                self._start(self._suspects.popleft())
            return
        while self._waiting and self._free:
            self._start(self._waiting.popleft())

    def _start(self, key: str) -> None:
        slot = self._free.popleft()
        self._running[self._executor().submit(self._perform, key, slot)] = key, slot

    def _executor(self) -> Any:
        """The pool; a new one if the last one broke."""
        names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
        env = {"OMP_WAIT_POLICY": "PASSIVE"} | dict.fromkeys(names, str(self._threads))
        return self._loky.get_reusable_executor(max_workers=self._count, timeout=300, env=env)

    def close(self) -> None:
        """End the processes at once."""
        if self._running or self._waiting or self._suspects:
            self._executor().shutdown(wait=True, kill_workers=True)
        else:
            self._executor().shutdown(wait=True)
