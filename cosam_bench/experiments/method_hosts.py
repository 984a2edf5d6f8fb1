"""Where a method's code runs: in this process, or in processes of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path
from typing import NoReturn, Protocol

from torch import Tensor

from cosam_bench.core.devices import synchronise
from cosam_bench.core.files import CannotWrite, write_atomically
from cosam_bench.core.settings import Settings
from cosam_bench.data.prompts import Prompts
from cosam_bench.data.samples import Split
from cosam_bench.experiments.method_faults import FaultWatch, MethodFailed
from cosam_bench.isolation.faults import WorkerFault
from cosam_bench.isolation.jobs import IsolatedMethod, Learned
from cosam_bench.merging.updates import Update
from cosam_bench.method.cost_meter import Meter
from cosam_bench.method.interface import Method, State, served_update, state_of
from cosam_bench.method.training_domain import TrainingDomain
from cosam_bench.method.workbench import Workbench
from cosam_bench.sam.feature_cache import open_domain, uncached_clock
from cosam_bench.sam.inputs import Batch


@dataclass(frozen=True)
class Task:
    """One domain to learn.

    Attributes:
        name: the domain's, or ``all``.
        split: its training samples.
        prompts: one row per sample.
        step: 1 for the first domain.
    """

    name: str
    split: Split
    prompts: Prompts
    step: int


class Prediction(Protocol):
    """A method that is ready to predict."""

    @property
    def peak_bytes(self) -> int:
        """The largest memory of its process, if that is not this one; known once it has finished."""
        ...

    def __call__(self, batch: Batch) -> Tensor:
        """The logits of a batch."""
        ...

    def finish(self) -> None:
        """Check that the frozen model is as it was."""
        ...


class MethodHost(Protocol):
    """Runs a method's code."""

    def learn(self, task: Task, *, before: Path | None, after: Path) -> Learned:
        """Learn one domain from the state ``before``, and write the state ``after``."""
        ...

    def predicting(self, state: Path | None) -> AbstractContextManager[Prediction]:
        """Predictions by the method in a state."""
        ...

    def served(self, state: Path | None) -> Update | None:
        """The update that a merging method serves in a state."""
        ...


@dataclass(frozen=True)
class InProcess:
    """Runs a method in this process, with a new object for each step.

    Attributes:
        method: its class.
        settings: its settings.
        bench: what it works with.
        watch: guards its calls.
    """

    method: type[Method]
    settings: Settings
    bench: Workbench
    watch: FaultWatch

    def learn(self, task: Task, *, before: Path | None, after: Path) -> Learned:
        """Learn one domain.

        Raises:
            MethodFailed: the method raised an error or changed the frozen model.
        """
        domain = TrainingDomain(task.name, task.split, task.prompts)
        bench = replace(self.bench, meter=Meter())
        method = self._built(before, bench)
        began = uncached_clock(bench.prefixes)
        with self.watch("learn"), open_domain(bench.prefixes):
            method.learn(domain, step=task.step)
            synchronise(bench.view.device)
        seconds = uncached_clock(bench.prefixes) - began
        domain.close()
        with self.watch("state"):
            state_bytes = state_of(method).save(after)
        self.watch.check_base("learn")
        meter = bench.meter
        merge_seconds = seconds - meter.elapsed_training_seconds
        return Learned(
            meter.training_seconds,
            merge_seconds,
            state_bytes,
            meter.trainable_parameters,
            peak_bytes=0,
            reported={name: value for name, value in meter.reported.items() if isfinite(value)},
        )

    @contextmanager
    def predicting(self, state: Path | None) -> Iterator[Prediction]:
        """Predictions by the method in a state.

        Raises:
            MethodFailed: the method raised an error.
        """
        yield _Here(self._built(state, replace(self.bench, meter=Meter())), self.watch)

    def served(self, state: Path | None) -> Update | None:
        """The update that a merging method serves in a state.

        Raises:
            MethodFailed: the method raised an error.
        """
        return served_update(self._built(state, replace(self.bench, meter=Meter())))

    def _built(self, state: Path | None, bench: Workbench) -> Method:
        """A new method object, restored from a state."""
        with self.watch("__init__"):
            method = self.method(self.settings, bench)
        if state is not None:
            kept = State.read(state)
            with self.watch("load"):
                method.load(kept)
        return method


@dataclass(frozen=True)
class _Here:
    """A method object of this process."""

    method: Method
    watch: FaultWatch
    peak_bytes: int = 0

    def __call__(self, batch: Batch) -> Tensor:
        with self.watch("predict"):
            return self.method.predict(batch)

    def finish(self) -> None:
        self.watch.check_base("predict")


@dataclass(frozen=True)
class Isolated:
    """Runs a method in processes of its own, a new one for each step.

    Attributes:
        method: to run.
        name: its name in messages.
        error_file: receives the traceback if it raises.
    """

    method: IsolatedMethod
    name: str
    error_file: Path | None = None

    def learn(self, task: Task, *, before: Path | None, after: Path) -> Learned:
        """Learn one domain.

        Raises:
            MethodFailed: the method or its process failed.
        """
        with self._faults():
            return self.method.learn(task.name, task.split, task.prompts, step=task.step, before=before, after=after)

    @contextmanager
    def predicting(self, state: Path | None) -> Iterator[Prediction]:
        """Predictions by the method in a state.

        Raises:
            MethodFailed: the method or its process failed.
        """
        with self._faults(), self.method.predicting(state) as prediction:
            yield prediction

    def served(self, state: Path | None) -> Update | None:
        """The update that a merging method serves in a state.

        Raises:
            MethodFailed: the method or its process failed.
        """
        with self._faults():
            return self.method.served(state)

    @contextmanager
    def _faults(self) -> Iterator[None]:
        try:
            yield
        except WorkerFault as fault:
            self._fail(fault)

    def _fail(self, fault: WorkerFault) -> NoReturn:
        where = f" ({fault.place})" if str(fault.place) else ""
        act = "while it was imported" if fault.act == "import" else f"in {fault.act}()"
        if fault.kind == "disk":
            raise CannotWrite(fault.text)
        if fault.kind == "cosam":
            raise MethodFailed(f"The method {self.name!r} failed {act}: {fault.text}{where}")
        if fault.kind == "contract":
            raise MethodFailed(f"The method {self.name!r} {fault.text}")
        if fault.kind == "died":
            where = f" This function is in {fault.place}." if where else ""
            raise MethodFailed(f"The method {self.name!r} failed {act}: its process {fault.text}.{where}")
        message = f"The method {self.name!r} raised {fault.error} {act}: {fault.text}{where}."
        if self.error_file is not None:
            message += f" The traceback is in {self.error_file}."
            with suppress(CannotWrite):
                write_atomically(self.error_file, fault.traceback)
        raise MethodFailed(message) from (MemoryError(fault.text) if fault.kind == "memory" else fault)
