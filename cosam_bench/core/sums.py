"""Sums whose last bits do not depend on the version of Python."""

from __future__ import annotations

from collections.abc import Iterable


def plain_sum(values: Iterable[float]) -> float:
    """The sum from left to right, each addition rounded, as Python's ``sum`` did before 3.12 compensated it.

    >>> plain_sum([0.1] * 10)
    0.9999999999999999
    """
    total = 0.0
    for value in values:
        total += value
    return total
