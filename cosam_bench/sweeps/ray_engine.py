"""One or more machines, by Ray; all of them see the folder of results under the same path."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from cosam_bench.core.errors import CosamError
from cosam_bench.sweeps.engines import Outcome, Perform

RETRIES = 3
"""How often Ray gives a task to another process after the first died, or its machine was lost."""

_SMALL = {"include_dashboard": False, "object_store_memory": 100 * 2**20}  # only keys and outcomes pass through it


class RayEngine:
    """Runs tasks as Ray's, each with as many cores as it has threads, and with a GPU if the cluster has one.

    Ray decides where and when a task runs, and runs it again if its process or machine is lost. Only keys and outcomes
    pass through it, so nothing is lost with it, either: what is done is in files.
    """

    def __init__(
        self, perform: Perform, *, address: str | None = None, device: str = "auto", threads: int = 1, cores: int | None
    ) -> None:
        """Connect to a cluster, or start one on this machine.

        Args:
            perform: a function that can be pickled.
            address: of a running cluster, as Ray takes it; None: start one here, which ends with the sweep.
            device: as ``run --device`` takes it.
            threads: of each task.
            cores: of the cluster that is started here; None: all.

        Raises:
            CosamError: Ray is not installed, no cluster answers, or no machine of it has what a task takes.
        """
        try:
            import ray
        except ImportError:
            raise CosamError('The engine ray needs Ray. Install it: pip install "cosam-bench[ray]".') from None
        self._ray = ray
        self._is_ours = not ray.is_initialized()
        if self._is_ours:
            given: dict[str, Any] = {"address": address} if address else {"num_cpus": cores, **_SMALL}
            try:
                ray.init(**given, log_to_driver=False, logging_level=logging.ERROR)
            except Exception as error:
                message = f"Ray cannot be reached{f' at {address}' if address else ''}: {error} Correct the address."
                raise CosamError(message) from None
        has_gpu = device != "cpu" and ray.cluster_resources().get("GPU", 0) > 0
        self._refuse_too_large(threads, with_gpu=has_gpu)
        # max_calls: 0 keeps a process, with its data and model, for later tasks; Ray would end those that use a GPU.
        options = {"num_cpus": threads, "num_gpus": int(has_gpu), "max_retries": RETRIES, "max_calls": 0}
        self._remote = ray.remote(**options)(_perform)
        self._perform = perform
        self._running: dict[Any, str] = {}

    def _refuse_too_large(self, threads: int, *, with_gpu: bool) -> None:
        """Refuse tasks that no machine can take, for which Ray would wait for ever."""
        machines = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        cores = [int(one.get("CPU", 0)) for one in machines if not with_gpu or one.get("GPU", 0) >= 1]
        if threads > max(cores, default=0):
            if self._is_ours:
                self._ray.shutdown()
            raise CosamError(
                f"Each task takes {threads} cores, and the largest machine{' with a GPU' if with_gpu else ''} of Ray's "
                f"cluster has {max(cores, default=0)}. Ask for fewer threads, or start a larger machine."
            )

    def submit(self, key: str) -> None:
        """Give a task to Ray."""
        self._running[self._remote.remote(self._perform, key)] = key

    def gather(self) -> Sequence[Outcome]:
        """Wait until a task has ended; the outcomes of all that have."""
        running = list(self._running)
        ended, _ = self._ray.wait(running, num_returns=1)
        more, _ = self._ray.wait(running, num_returns=len(running), timeout=0)
        return [self._outcome(reference) for reference in dict.fromkeys([*ended, *more])]

    def _outcome(self, reference: Any) -> Outcome:
        key = self._running.pop(reference)
        try:
            found: Outcome = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            first = str(error).strip().splitlines()[:1]
            return Outcome(key, error=f"{type(error).__name__}: {' '.join(first)}")
        return found

    def close(self) -> None:
        """End what runs, and the cluster if it was started here."""
        for reference in self._running:
            self._ray.cancel(reference, force=True)
        if self._is_ours:
            self._ray.shutdown()


def _perform(perform: Perform, key: str) -> Outcome:
    return perform(key, None)
