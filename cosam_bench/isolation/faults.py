"""What went wrong in a worker, as the parent is told or as it found."""

from __future__ import annotations

import signal
import traceback
from typing import Literal

from cosam_bench.core.errors import CosamError, ran_out_of_memory
from cosam_bench.core.files import CannotWrite
from cosam_bench.isolation.messages import Message
from cosam_bench.method.places import Place, innermost_place

Kind = Literal["cosam", "raised", "memory", "disk", "contract", "died"]
_TOLD: dict[str, Kind] = {"cosam": "cosam", "memory": "memory", "disk": "disk", "contract": "contract"}
_TRACEBACK = 15_000  # characters, the last ones


class WorkerFault(Exception):
    """A worker failed.

    Attributes:
        kind: ``cosam`` for an error with a message of its own, ``raised`` for any other exception, ``memory`` if it
            ran out of it, ``disk`` if a file could not be written, ``contract`` for a contract that was broken,
            ``died`` if the process ended.
        act: the function of the method that was called.
        text: what happened.
        error: the name of the exception's class.
        place: where: the innermost line of the method's own code.
        traceback: of the exception, as text.
    """

    def __init__(
        self,
        kind: Kind,
        *,
        act: str,
        text: str,
        error: str = "",
        place: Place | None = None,
        traceback: str = "",
    ) -> None:
        super().__init__(text)
        self.kind = kind
        self.act = act
        self.text = text
        self.error = error
        self.place = place or Place()
        self.traceback = traceback

    def to_values(self) -> dict[str, object]:
        """The fault as the values of a message."""
        return {
            "kind": self.kind,
            "act": self.act,
            "text": self.text,
            "error": self.error,
            "file": self.place.file,
            "line": self.place.line,
            "traceback": self.traceback,
        }

    @classmethod
    def from_message(cls, message: Message) -> WorkerFault:
        """The fault that a worker reports."""
        line = message.values.get("line")
        return cls(
            _TOLD.get(message.text("kind"), "raised"),
            act=message.text("act"),
            text=message.text("text"),
            error=message.text("error"),
            place=Place(message.text("file"), line if type(line) is int else 0),
            traceback=message.text("traceback"),
        )


def fault_of(error: BaseException, *, act: str) -> WorkerFault:
    """The fault that an exception in ``act`` makes."""
    if isinstance(error, WorkerFault):
        return error
    kind: Kind = "raised"
    if isinstance(error, CannotWrite):
        kind = "disk"
    elif isinstance(error, CosamError):
        kind = "cosam"
    elif ran_out_of_memory(error):
        kind = "memory"
    return WorkerFault(
        kind,
        act=act,
        text=str(error),
        error=type(error).__name__,
        place=innermost_place(error),
        traceback="".join(traceback.format_exception(error))[-_TRACEBACK:],
    )


def death(status: int) -> str:
    """How a process ended, by its wait status, as the end of a sentence."""
    import os

    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        name = signal.Signals(number).name if number in {one.value for one in signal.Signals} else str(number)
        why = "; the system does that if memory runs out" if number == signal.SIGKILL else ""
        return f"was killed by signal {name}{why}"
    return f"ended with exit code {os.WEXITSTATUS(status)}"
