"""The interface of what runs tasks: it is given keys, and says what became of each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Outcome:
    """What became of a task.

    Attributes:
        key: of the task.
        error: why it failed; empty if it is done.
    """

    key: str
    error: str = ""


Perform = Callable[[str, str | None], Outcome]
"""Does the task of a key on a device; None: on the one in its settings."""


class Engine(Protocol):
    """Runs tasks somewhere. Only keys and outcomes pass through it; all else is in files."""

    def submit(self, key: str) -> None:
        """Begin a task as soon as there is room for it."""
        ...

    def gather(self) -> Sequence[Outcome]:
        """Wait until a task has ended; one or more outcomes that were not returned before."""
        ...

    def close(self) -> None:
        """End all that runs, and wait for it."""
        ...
