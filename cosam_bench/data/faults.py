"""One error for everything that is wrong with a domain."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

from cosam_bench.core.errors import CosamError
from cosam_bench.data.cards import Card

SHOWN = 5


class DataFault(CosamError):
    """A file of the data cannot be read: not the fault of the method that asked for it."""


def first_few(texts: Sequence[str], *, shown: int = SHOWN, separator: str = ", ") -> str:
    """The first texts, and how many more there are.

    >>> first_few(["a", "b", "c", "d"], shown=2)
    'a, b, and 2 more'
    """
    more = [f"and {len(texts) - shown} more"] if len(texts) > shown else []
    return separator.join([*texts[:shown], *more])


def domain_error(card: Card, faults: Sequence[str], *, advice: str = "") -> CosamError:
    """The error that names the first faults of a domain, how many more there are, and what to do."""
    listed = first_few([fault.rstrip(".") for fault in faults], separator="; ")
    return CosamError(f"Domain {card.name!r}: {listed}.{' ' if advice else ''}{advice}")


def refuse(card: Card, faults: Sequence[str], *, advice: str = "") -> NoReturn:
    """Raise :func:`domain_error`."""
    raise domain_error(card, faults, advice=advice)
