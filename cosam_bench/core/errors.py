"""Errors that are meant for the person at the keyboard: one message, no traceback, exit code 2."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class CosamError(Exception):
    """What was asked, what was found, and what to do, in one message."""


def unknown_name(kind: str, asked: str, offered: Iterable[str]) -> CosamError:
    """The error for a name that nobody offers, with the nearest one suggested.

    >>> print(unknown_name("method", "regcll", ["moda", "regcl"]))
    No method is called 'regcll'. Did you mean 'regcl'? Offered: moda, regcl.
    """
    names = sorted(offered)
    near = difflib.get_close_matches(asked, names, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return CosamError(f"No {kind} is called {asked!r}.{hint} Offered: {', '.join(names) or 'none'}.")


_NO_MEMORY = (
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether Python, a GPU or torch's allocator on the CPU had no memory left; torch is not imported.

    >>> ran_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory")), ran_out_of_memory(ValueError())
    (True, False)
    """
    kind = type(error).__name__
    if isinstance(error, MemoryError) or kind == "OutOfMemoryError":
        return True
    return kind in ("RuntimeError", "AcceleratorError") and any(sign in str(error) for sign in _NO_MEMORY)
