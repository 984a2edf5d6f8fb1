"""Orders of a stream's domains, as ``--order`` names them."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

from cosam_bench.core.errors import CosamError, unknown_name
from cosam_bench.core.seeds import derived_seed

STREAM_ORDER = "stream"
"""The order that the stream itself has, unless the stream names another one so."""

REVERSE_ORDER = "reverse"
"""The stream's own order from its end, unless the stream names another one so."""

MOST_DIGITS = 18
"""Of a seed, and of N in ``random:N``: it fits into 64 bits."""


def seeded_order(number: int, names: Iterable[str]) -> tuple[str, ...]:
    """The order that ``random:N`` stands for, whatever order the names are given in.

    It sorts by a hash of each name, so it is the same under every version of every library.
    """
    return tuple(sorted(names, key=lambda name: derived_seed("order", number, name)))


def recorded_order(order: Sequence[str], own: Sequence[str]) -> list[str]:
    """An order as a run records it: the stream's own is not named, so that it is one run however it was asked for.

    >>> recorded_order(["a", "b"], ("a", "b")), recorded_order(["b", "a"], ("a", "b"))
    ([], ['b', 'a'])
    """
    return [] if list(order) == list(own) else list(order)


def domain_order(
    asked: str, names: tuple[str, ...], *, named: Mapping[str, tuple[str, ...]] = MappingProxyType({})
) -> list[str]:
    """The stream's domains in the order that ``--order`` asks for.

    Args:
        asked: ``a,b,c``, an order that the stream names, ``stream`` for its own, ``reverse``, or ``random:N`` for the
            N-th seeded order.
        names: the domains in the stream's own order.
        named: the stream's other orders by name; one called ``stream``, ``reverse`` or ``random:N`` takes precedence.

    Raises:
        CosamError: a domain or an order is unknown, or a domain is missing or named twice.

    >>> domain_order("reverse", ("a", "b", "c"))
    ['c', 'b', 'a']
    """
    if asked in named:
        return list(named[asked])
    if asked == STREAM_ORDER:
        return list(names)
    if asked == REVERSE_ORDER:
        return list(reversed(names))
    kind, _, number = asked.partition(":")
    if kind == "random":
        if not (number.isascii() and number.isdigit() and len(number) <= MOST_DIGITS):
            shown, most = reprlib.repr(asked), MOST_DIGITS
            raise CosamError(f"--order {shown} needs a number, at most {most} digits. Write, say, --order random:1.")
        return list(seeded_order(int(number), names))
    wanted = [name.strip() for name in asked.split(",") if name.strip()]
    if len(wanted) == 1 and wanted[0] not in names:
        raise unknown_name("order of this stream", asked, [*named, STREAM_ORDER, REVERSE_ORDER, "random:1"])
    for name in wanted:
        if name not in names:
            raise unknown_name("domain of this stream", name, names)
    if sorted(wanted) != sorted(names):
        raise CosamError(f"--order {asked!r} does not name each domain once. The stream has: {','.join(names)}.")
    return wanted
