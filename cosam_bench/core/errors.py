"""Errors that are meant for the person at the keyboard: one message, no traceback, exit code 2."""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable, Sequence


class CosamError(Exception):
    """What was asked, what was found, and what to do, in one message."""


def unknown_name(kind: str, asked: str, offered: Iterable[str]) -> CosamError:
    """The error for a name that nobody offers, with the nearest one suggested.

    >>> print(unknown_name("method", "RegCLL", ["moda", "regcl"]))
    No method is called 'RegCLL'. Did you mean 'regcl'? Offered: moda, regcl.
    """
    names = sorted(offered)
    near = nearest(asked, names)
    hint = f" Did you mean {near!r}?" if near else ""
    return CosamError(f"No {kind} is called {asked!r}.{hint} Offered: {', '.join(names) or 'none'}.")


def nearest(asked: str, offered: Iterable[str]) -> str:
    """The offered name that is most like the asked one, capitals or not; empty if none is like it.

    >>> nearest("IoU", ["biou", "iou"]), nearest("zzz", ["iou"])
    ('iou', '')
    """
    by_text = {name.casefold(): name for name in offered}
    near = difflib.get_close_matches(asked.casefold(), by_text, n=1)
    return by_text[near[0]] if near else ""


def refuse_twice(kind: str, given: Sequence[object]) -> None:
    """Refuse a list that names something twice.

    Raises:
        CosamError: naming it.
    """
    for one in given:
        if given.count(one) > 1:
            raise CosamError(f"The {kind} {one} is given twice. Name each {kind} once.")


_NO_MEMORY = (
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "could not create a memory object",  # oneDNN
    "could not create a primitive",  # oneDNN: its scratchpad, or the code that it compiles
    "std::bad_alloc",
    "Cannot allocate memory",
    "cannot allocate memory",
    "failed to map segment",  # the loader: a library does not fit into the address space
    "can't start new thread",
)


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether Python, the system, a GPU, or torch or oneDNN on the CPU had no memory left; torch is not imported.

    >>> ran_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory")), ran_out_of_memory(ValueError())
    (True, False)
    """
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    # torch's AcceleratorError is a RuntimeError, and so is NotImplementedError, which is another fault.
    if not isinstance(error, RuntimeError | OSError | ImportError) or isinstance(error, NotImplementedError):
        return False
    return getattr(error, "errno", None) == errno.ENOMEM or any(sign in str(error) for sign in _NO_MEMORY)


def ran_out_of_files(error: BaseException) -> bool:
    """Whether this process, or the system, may not have one more file open.

    >>> ran_out_of_files(OSError(errno.EMFILE, "Too many open files")), ran_out_of_files(FileNotFoundError("x"))
    (True, False)
    """
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        return True
    return isinstance(error, RuntimeError | ImportError) and "Too many open files" in str(error)


def lacks_resources(error: BaseException) -> bool:
    """Whether the machine's limits are the cause, so that whatever code met them is not to blame."""
    return ran_out_of_memory(error) or ran_out_of_files(error)
