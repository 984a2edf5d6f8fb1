"""Slurm, by submitit: each job does a batch of tasks, since starting one takes seconds."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cosam_bench.core.errors import CosamError
from cosam_bench.sweeps.engines import Outcome, Perform

POLL_SECONDS = 1.0
"""Between two looks at jobs; submitit asks Slurm itself less often."""


@dataclass(frozen=True)
class Batch:
    """Tasks that one job does, one after another.

    Attributes:
        perform: does one task.
        keys: of the tasks.
    """

    perform: Perform
    keys: tuple[str, ...]

    def __call__(self) -> list[Outcome]:
        """Do the tasks; one that is done already, before the job was requeued, takes no time."""
        return [self.perform(key, None) for key in self.keys]

    def checkpoint(self) -> Any:
        """The job to run next if Slurm ends this one before its time: the same, since runs continue by themselves."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


class SlurmEngine:
    """Runs tasks as jobs of Slurm, or, with ``cluster=local``, as jobs of this machine.

    If a job dies, each of its tasks is given to a job of its own, and one that ends its job again has failed.
    """

    def __init__(
        self, perform: Perform, *, folder: Path, options: Mapping[str, str], threads: int = 1, jobs: int = 1
    ) -> None:
        """Submit nothing yet.

        Args:
            perform: a function that can be pickled.
            folder: for the logs and scripts of jobs; all machines see it.
            options: of submitit's executor, such as ``slurm_partition`` and ``timeout_min``; ``cluster`` may be
                ``local``.
            threads: of each job.
            jobs: how many run at once, at most.

        Raises:
            CosamError: submitit or Slurm is not installed, or an option does not fit.
        """
        try:
            import submitit
        except ImportError:
            raise CosamError('The engine slurm needs submitit. Install it: pip install "cosam-bench[slurm]".') from None
        given: dict[str, Any] = {key: int(text) if text.isdecimal() else text for key, text in options.items()}
        cluster = given.pop("cluster", "slurm")
        try:
            self._executor = submitit.AutoExecutor(folder=folder, cluster=cluster)
            self._executor.update_parameters(**{"cpus_per_task": threads, "name": "cosam-bench", **given})
        except Exception as error:  # submitit raises several kinds
            raise CosamError(f"Slurm's jobs cannot be described: {error} Correct the engine's options.") from None
        self._perform, self._jobs = perform, jobs
        self._waiting: deque[str] = deque()
        self._suspects: deque[str] = deque()
        self._suspected: set[str] = set()
        self._running: dict[Any, tuple[str, ...]] = {}

    def submit(self, key: str) -> None:
        """Put a task into the next batch."""
        self._waiting.append(key)

    def gather(self) -> Sequence[Outcome]:
        """Wait until a job has ended; the outcomes of the tasks of all that have."""
        found: list[Outcome] = []
        while not found and (self._running or self._waiting or self._suspects):
            self._fill()
            ended = [job for job in self._running if job.done()]
            for job in ended:
                found += self._outcomes(job)
            if not ended:
                time.sleep(POLL_SECONDS)
        return found

    def _fill(self) -> None:
        """Give what waits to as many jobs as may still start, in equal shares."""
        while self._suspects and len(self._running) < self._jobs:
            self._start((self._suspects.popleft(),))
        while self._waiting and (free := self._jobs - len(self._running)) > 0:
            self._start(tuple(self._waiting.popleft() for _ in range(math.ceil(len(self._waiting) / free))))

    def _start(self, keys: tuple[str, ...]) -> None:
        self._running[self._executor.submit(Batch(self._perform, keys))] = keys

    def _outcomes(self, job: Any) -> list[Outcome]:
        """What became of the tasks of a job; none if they are to run again."""
        keys = self._running.pop(job)
        error = job.exception()
        if error is None:
            outcomes: list[Outcome] = job.result()
            return outcomes
        found = [Outcome(key, error=f"Its job ended twice: {_first_line(error)}") for key in keys if self._was(key)]
        again = [key for key in keys if not self._was(key)]
        self._suspected.update(again)
        self._suspects.extend(again)
        return found

    def _was(self, key: str) -> bool:
        return key in self._suspected

    def close(self) -> None:
        """Cancel the jobs that run."""
        for job in self._running:
            job.cancel(check=False)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
