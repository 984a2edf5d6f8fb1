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
