"""Signals that end the program as Ctrl-C does: files stay whole, and the message says how to continue."""

from __future__ import annotations

import signal
from types import FrameType

_ENDING = (signal.SIGTERM, signal.SIGHUP)


class Terminated(KeyboardInterrupt):
    """The program was told to end by a signal other than that of Ctrl-C.

    Attributes:
        number: the signal's.
    """

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


def end_as_by_ctrl_c() -> None:
    """Let SIGTERM and SIGHUP raise ``Terminated``, unless the caller has them ignored, as ``nohup`` does."""
    for number in _ENDING:
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, _raise)


def _raise(number: int, _: FrameType | None) -> None:
    raise Terminated(number)


def ignore_further() -> None:
    """Ignore further signals to end: the program is about to exit anyway; if it is called as a function, do nothing."""
    if _raise not in map(signal.getsignal, _ENDING):
        return
    for number in (signal.SIGINT, *_ENDING):
        signal.signal(number, signal.SIG_IGN)


def exit_code(error: BaseException) -> int:
    """The code by which a shell knows the signal: 128 and its number; 130 after Ctrl-C."""
    return 128 + (error.number if isinstance(error, Terminated) else signal.SIGINT)
