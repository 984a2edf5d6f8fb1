"""Telling a method's faults from the harness's own."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cosam_bench.core.errors import CosamError, ran_out_of_memory
from cosam_bench.core.files import CannotWrite, write_atomically
from cosam_bench.merging.updates import digest_tensors
from cosam_bench.sam.sam import Sam


class MethodFailed(CosamError):
    """The method raised, or broke its contract; its record says ``failed``."""


class FaultWatch:
    """Stands around each call of a method's own code, and around nothing else.

    Args:
        method: its name in messages.
        sam: the frozen model, as it must stay.
        error_file: where the traceback goes if the method raises.
    """

    def __init__(self, method: str, *, sam: Sam, error_file: Path) -> None:
        self._method = method
        self._sam = sam
        self._error_file = error_file
        self._base_digest = digest_tensors(sam.state_dict())
        self._base_ways = _ways(sam)

    @contextmanager
    def __call__(self, act: str) -> Iterator[None]:
        """Turn what the method raises in ``act`` into MethodFailed.

        A device without memory left in ``predict`` goes through: fewer images at once may do.
        """
        try:
            yield
        except CannotWrite:
            raise  # a full disk is not the method's fault
        except CosamError as error:
            raise MethodFailed(f"The method {self._method!r} failed in {act}(): {error}") from error
        except Exception as error:  # a method may raise anything, and it must break its own run only
            if act == "predict" and ran_out_of_memory(error):
                raise
            with suppress(CannotWrite):
                write_atomically(self._error_file, traceback.format_exc())
            raise MethodFailed(
                f"The method {self._method!r} raised {type(error).__name__} in {act}(): {error}. "
                f"The traceback is in {self._error_file}."
            ) from error

    def check_base(self, act: str) -> None:
        """See that the frozen model is as it was.

        Raises:
            MethodFailed: ``act`` changed its weights or what is done with them, which is memory outside of the
                method's state.
        """
        if _ways(self._sam) != self._base_ways:
            raise MethodFailed(
                f"The method {self._method!r} left hooks, other modules or parameters that want gradients in the "
                f"frozen base model in {act}(). Take back there what it changes."
            )
        if digest_tensors(self._sam.state_dict()) != self._base_digest:
            raise MethodFailed(
                f"The method {self._method!r} changed the frozen base model's weights in {act}(). That is memory "
                "outside of its state: keep changes as an Update."
            )


def _ways(sam: Sam) -> tuple[object, ...]:
    """All beside its weights that decides what a model answers: its modules, their hooks, and what is trained."""
    modules = tuple(
        (name, id(module), tuple(module._forward_hooks), tuple(module._forward_pre_hooks))
        for name, module in sam.named_modules()
    )
    return modules, tuple(parameter.requires_grad for parameter in sam.parameters())
