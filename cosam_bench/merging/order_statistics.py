"""Order statistics of more numbers than one wants to hold or sort: exact, from a few passes over parts of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import isqrt
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cosam_bench.core.errors import CosamError

_STRIDE = 127  # every how-manieth entry is sampled; prime, so that no column of a weight is taken more often
_PIECE = 2**16  # entries that are looked at together, so that they stay in the processor's cache

Array = np.ndarray[Any, Any]


def order_statistics(parts: Iterable[Tensor], *places: int, magnitudes: bool = False) -> list[Tensor]:
    """The entries that would stand at these places, from 0, were all entries of all parts sorted.

    A sample says between which two values each of them lies. Then what is below is counted, and what lies between
    them, some hundredth, is kept and sorted. Where the sample was wrong, everything is.

    Args:
        parts: of any shapes and one dtype, on the CPU; gone through twice, so they may be computed each time. numpy,
            which does the work, has no bfloat16.
        places: each from 0 to the number of entries - 1.
        magnitudes: sort the entries' magnitudes.

    Raises:
        CosamError: an entry is not finite, or the parts are bfloat16.
    """
    seen = np.abs if magnitudes else np.asarray
    samples, count = [], 0
    for part in _flat(parts):
        if not np.isfinite(part).all():  # NaN is neither below nor above anything
            raise CosamError("An expert's changes are not finite: did its training diverge?")
        samples.append(seen(part[::_STRIDE]).copy())
        count += len(part)
    brackets = [Bracket(place, np.concatenate(samples), count) for place in places]
    for part in _flat(parts):
        for begin in range(0, len(part), _PIECE):
            piece = seen(part[begin : begin + _PIECE])
            for bracket in brackets:
                bracket.look_at(piece)
    found = [bracket.found() for bracket in brackets]
    missed = [bracket.place for bracket, value in zip(brackets, found, strict=True) if value is None]
    rest = iter(sort_places((torch.from_numpy(seen(part)) for part in _flat(parts)), *missed) if missed else ())
    return [next(rest) if value is None else value for value in found]


def sampled(part: Tensor) -> Tensor:
    """Some of the entries ``(d,)``, evenly spread."""
    return part.reshape(-1)[::_STRIDE].clone()


def sort_places(parts: Iterable[Tensor], *places: int) -> list[Tensor]:
    """The same as ``order_statistics`` the plain way, from a copy of all entries."""
    entries = np.concatenate([part.copy() for part in _flat(parts)])
    entries.partition(places)
    return [torch.from_numpy(entries[place, ...]) for place in places]


def _flat(parts: Iterable[Tensor]) -> Iterator[Array]:
    for part in parts:
        if part.dtype == torch.bfloat16:
            raise CosamError("Entries in bfloat16 cannot be sorted. Give the changes in float32.")
        yield part.detach().reshape(-1).numpy()


class Bracket:
    """Two values between which the entry at a place should lie, and what was found below, at and between them.

    Attributes:
        least: of the two values, the lower one.
    """

    def __init__(self, place: int, sample: Array, count: int) -> None:
        """Choose the two values.

        Args:
            place: from 0, among all entries.
            sample: some of the entries.
            count: of all entries.
        """
        ordered = np.sort(sample)
        expected = place * len(ordered) // count
        margin = 3 * isqrt(len(ordered)) + 1  # six standard deviations or more of a random sample's count
        self.place = place
        self._is_high = 2 * place >= count
        self.least = ordered[expected - margin] if expected >= margin else -np.inf
        self._most = ordered[expected + margin] if expected + margin < len(ordered) else np.inf
        # Only a value that many entries have is likely to be the one, and then they must not be kept one by one.
        self._may_be_an_end = any(np.count_nonzero(ordered == end) > 1 for end in (self.least, self._most))
        self._up_to_least = self._at_least = self._at_most = 0
        self._between: list[Array] = []

    def look_at(self, values: Array) -> None:
        """Count and keep of some entries what matters."""
        if self._is_high:  # the less entries are taken out first, the faster
            above = values[values > self.least]
            self._up_to_least += len(values) - len(above)
            self._between.append(above[above < self._most])
        else:
            below = values[values < self._most]
            between = below[below > self.least]
            self._up_to_least += len(below) - len(between)
            self._between.append(between)
        if self._may_be_an_end:
            self._at_least += int(np.count_nonzero(values == self.least))
            self._at_most += int(np.count_nonzero(values == self._most))

    def pass_over(self, count: int) -> None:
        """Count entries that are known to be below ``least``."""
        self._up_to_least += count

    def found(self) -> Tensor | None:
        """The entry, or None where it lies elsewhere."""
        between = np.concatenate(self._between)
        rank = self.place - self._up_to_least
        if 0 <= rank < len(between):
            between.partition(rank)
            return torch.from_numpy(between[rank, ...])
        if -self._at_least <= rank < 0:
            return torch.from_numpy(np.asarray(self.least, dtype=between.dtype))
        if len(between) <= rank < len(between) + self._at_most:
            return torch.from_numpy(np.asarray(self._most, dtype=between.dtype))
        return None
