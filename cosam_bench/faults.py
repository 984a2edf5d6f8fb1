"""Telling a method's faults from the harness's own."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cosam_bench.batch_size import is_out_of_memory
from cosam_bench.errors import CosamError
from cosam_bench.files import CannotWrite, write_atomically
from cosam_bench.sam.sam import Sam
from cosam_bench.updates import digest_tensors


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
            if act == "predict" and is_out_of_memory(error):
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
            MethodFailed: ``act`` changed its weights, which is memory outside of the method's state.
        """
        if digest_tensors(self._sam.state_dict()) != self._base_digest:
            raise MethodFailed(
                f"The method {self._method!r} changed the frozen base model's weights in {act}(). That is memory "
                "outside of its state: keep changes as an Update."
            )
