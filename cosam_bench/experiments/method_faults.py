"""Faults of a method, told from those of the harness."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from cosam_bench.core.errors import CosamError, ran_out_of_memory
from cosam_bench.core.files import CannotWrite, write_atomically
from cosam_bench.data.faults import DataFault
from cosam_bench.evaluation.scoring import BadPrediction
from cosam_bench.method.frozen_base import FrozenBase
from cosam_bench.results.records import Record
from cosam_bench.sam.sam import Sam
from cosam_bench.training.fit import StepHookFailed, TrainingStep


class MethodFailed(CosamError):
    """The method raised an error or broke its contract.

    Attributes:
        records: of several methods that were run together, the complete records of those that did not fail.
    """

    def __init__(self, message: str, *, records: Sequence[Record] = ()) -> None:
        super().__init__(message)
        self.records = list(records)


def guarded_hook(hook: Callable[[TrainingStep], None], *, method: str) -> Callable[[TrainingStep], None]:
    """The hook, told the method's name; what it raises becomes StepHookFailed."""

    def call(step: TrainingStep) -> None:
        try:
            hook(replace(step, method=method))
        except Exception as error:  # it is the caller's own code, and may raise anything
            raise StepHookFailed(
                f"on_step raised {type(error).__name__} at step {step.step} of {step.steps} on {step.domain}: {error}. "
                "Correct on_step or leave it out; the same call then continues after the last complete domain."
            ) from error

    return call


@contextmanager
def prediction_faults(method: str) -> Iterator[None]:
    """Turn predictions that are no masks into MethodFailed.

    Args:
        method: its name in the message.
    """
    try:
        yield
    except BadPrediction as error:
        raise MethodFailed(f"The method {method!r} broke its contract: {error}") from error


@contextmanager
def method_faults(method: str, act: str, *, error_file: Path | None = None) -> Iterator[None]:
    """Turn what a method raises in ``act`` into MethodFailed.

    Running out of memory in ``predict`` passes through: a smaller batch may fit.

    Args:
        method: its name in messages.
        act: the function of the method that is called.
        error_file: receives the traceback.
    """
    try:
        yield
    except (CannotWrite, DataFault, StepHookFailed):
        raise  # a full disk, a damaged image or the caller's hook is not the method's fault
    except CosamError as error:
        raise MethodFailed(f"The method {method!r} failed in {act}(): {error}") from error
    except Exception as error:  # a method may raise anything, and it must break its own run only
        if act == "predict" and ran_out_of_memory(error):
            raise
        message = f"The method {method!r} raised {type(error).__name__} in {act}(): {error}."
        if error_file is not None:
            message += f" The traceback is in {error_file}."
            with suppress(CannotWrite):
                write_atomically(error_file, traceback.format_exc())
        raise MethodFailed(message) from error


class FaultWatch:
    """Guards each call of a method's own code during a run.

    Args:
        method: its name in messages.
        sam: the frozen model, which must not change.
        error_file: receives the traceback if the method raises.
    """

    def __init__(self, method: str, *, sam: Sam, error_file: Path | None = None) -> None:
        self._method = method
        self._error_file = error_file
        self._base = FrozenBase(sam)

    def __call__(self, act: str) -> AbstractContextManager[None]:
        """``method_faults`` for a function of the method."""
        return method_faults(self._method, act, error_file=self._error_file)

    def check_base(self, act: str) -> None:
        """Check that the frozen model is unchanged.

        Raises:
            MethodFailed: ``act`` changed its weights, modules or hooks, which is memory outside of the method's state.
        """
        fault = self._base.fault(act)
        if fault is not None:
            raise MethodFailed(f"The method {self._method!r} {fault}")
