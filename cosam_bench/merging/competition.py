"""The entries of several changes weighted by competition, for PCB-Merging; a layer of all of them is held at a time.

An entry counts where its balance b is among the largest of its expert. Most cannot be, which their magnitude and the
sign of their pull say; exponential and tanh are taken of the others only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cosam_bench.core.errors import CosamError
from cosam_bench.merging.elementwise import entrywise, in_pieces
from cosam_bench.merging.order_statistics import Bracket, order_statistics, sampled, sort_places
from cosam_bench.merging.updates import shapes_of

_SMALLEST_WEIGHT = 1e-12  # keeps the quotient of an entry without weight at 0, as released
_SURELY = 0.999  # a bound below this share of a value is below it, whatever float32 rounds


@dataclass(frozen=True)
class Range:
    """Values are clipped to ``[least, most]``, and scaled from it to [0, 1]."""

    least: float
    most: float
    width: float

    @classmethod
    def between(cls, least: Tensor, most: Tensor) -> Range:
        """From two numbers, whose difference is rounded to their dtype."""
        return cls(least.item(), most.item(), (most - least).item())

    def clip(self, values: Tensor) -> Tensor:
        """The values within the range."""
        return values.clamp(self.least, self.most)

    def to_unit(self, clipped: Tensor) -> Tensor:
        """Zeros where the range is a single value."""
        return (clipped - self.least).div_(self.width) if self.width > 0 else torch.zeros_like(clipped)


class Competition:
    """The competition between the changes of T experts.

    Attributes:
        magnitudes: of each expert, the range of a.
        pull: by parameter name, what each entry is multiplied by before the tanh: ``s``.
        weights: of each expert, the range of b that makes w.
    """

    def __init__(
        self, changes: Sequence[Mapping[str, Tensor]], *, clipped: float, ratio: float, is_pull_scaled: bool
    ) -> None:
        """Find pull and ranges.

        Args:
            changes: at least 1, of the same parameters; gone through several times.
            clipped: q, the share of an expert's magnitudes that is clipped at either end.
            ratio: share in (0, 1] of each expert's entries that get a weight above 0.
            is_pull_scaled: the pull is made of the magnitudes in [0, 1], else of the entries.

        Raises:
            CosamError: an entry or a sum of them is not finite.
        """
        self._changes = changes
        self._is_pull_scaled = is_pull_scaled
        self._names = sorted(changes[0])
        self.magnitudes = [self._magnitudes(number, clipped) for number in range(len(changes))]
        self.pull: dict[str, Tensor] = {}
        samples: list[list[Tensor]] = [[] for _ in changes]
        for name in self._names:
            parts = [change[name] for change in changes]
            self.pull[name] = pull = entrywise(self._pulls, *parts)
            for sample, entries in zip(samples, parts, strict=True):
                sample.append(torch.stack([sampled(entries), sampled(pull)]))
        self._strongest = torch.stack([pull.abs().max() for pull in self.pull.values()]).max().item()
        if not math.isfinite(self._strongest):
            raise CosamError("The sum of the experts' changes is not finite: did a training diverge?")
        self.weights = [self._weights(number, torch.cat(pairs, dim=1), ratio) for number, pairs in enumerate(samples)]

    def _magnitudes(self, number: int, clipped: float) -> Range:
        change = self._changes[number]
        shapes = shapes_of(change)
        self._count = sum(math.prod(shape) for shape in shapes.values())
        places = min(int(self._count * clipped), self._count - 1), int(self._count * (1 - clipped) - 1)
        return Range.between(*order_statistics(change.values(), *places, magnitudes=True))

    def _pulls(self, *pieces: Tensor) -> Tensor:
        pull = torch.zeros(())
        for entries, magnitudes in zip(pieces, self.magnitudes, strict=True):
            term = entries
            if self._is_pull_scaled:
                term = entries.sign().mul_(magnitudes.to_unit(magnitudes.clip(entries.abs())))
            pull = pull + term
        return pull

    def _balance(self, number: int, entries: Tensor, pull: Tensor) -> Tensor:
        """b, before it is clipped."""
        magnitudes = self.magnitudes[number]
        unit = magnitudes.to_unit(magnitudes.clip(entries.abs()))
        # e^-T times the published factor, which scaling to [0, 1] takes out again: so that no exponential overflows.
        within = unit.square_().sub_(1).mul_(len(self._changes)).exp_()
        return within.mul_((entries * pull).tanh_())

    def _weights(self, number: int, sample: Tensor, ratio: float) -> Range:
        """From the order statistic that ``ratio`` leaves above it to the highest b."""
        place = min(int(self._count * (1 - ratio)), self._count - 1)
        bracket = Bracket(place, self._balance(number, sample[0], sample[1]).numpy(), self._count)
        cutoff = self._cutoff(number, float(bracket.least))
        highest = torch.tensor(-math.inf, dtype=sample.dtype)
        for name in self._names:
            for entries, pull in in_pieces(self._changes[number][name], self.pull[name]):
                chosen = _chosen(entries, pull, cutoff, float(bracket.least))
                balance = self._balance(number, entries.index_select(0, chosen), pull.index_select(0, chosen))
                bracket.pass_over(len(entries) - len(balance))
                bracket.look_at(balance.numpy())
                highest = torch.maximum(highest, balance.max()) if len(balance) else highest
        least = bracket.found()
        if least is None:
            (least,) = sort_places((self._balances(number, name) for name in self._names), place)
        return Range.between(least, highest)

    def _balances(self, number: int, name: str) -> Tensor:
        return self._balance(number, self._changes[number][name], self.pull[name])

    def _cutoff(self, number: int, balance: float) -> float:
        """A magnitude; no smaller one gives this balance with any pull."""
        magnitudes = self.magnitudes[number]
        low, high = 0.0, magnitudes.most
        for _ in range(40):
            middle = (low + high) / 2
            clipped = max(middle, magnitudes.least)
            unit = (clipped - magnitudes.least) / magnitudes.width if magnitudes.width > 0 else 0.0
            bound = math.exp(len(self._changes) * (unit**2 - 1)) * min(1.0, middle * self._strongest)
            low, high = (middle, high) if bound < _SURELY * balance else (low, middle)
        return low

    def merged(self, scale: float) -> dict[str, Tensor]:
        """The merged change by parameter name, which takes the place of the pull."""
        cutoffs = [self._cutoff(number, chosen.least) for number, chosen in enumerate(self.weights)]

        def merge(pull: Tensor, *parts: Tensor) -> Tensor:
            weighted, weights = torch.zeros_like(pull), torch.zeros_like(pull)
            for number, entries in enumerate(parts):
                chosen = _chosen(entries, pull, cutoffs[number], self.weights[number].least)
                values = entries.index_select(0, chosen)
                weight = self.weights[number].clip(self._balance(number, values, pull.index_select(0, chosen)))
                weight = self.weights[number].to_unit(weight)
                weights.index_add_(0, chosen, weight)
                values = values.sign().mul_(self.magnitudes[number].clip(values.abs()))
                weighted.index_add_(0, chosen, values.mul_(weight))
            return scale * weighted / weights.clamp(min=_SMALLEST_WEIGHT)

        for name, merged in self.pull.items():
            for pieces in in_pieces(merged, *(change[name] for change in self._changes)):
                pieces[0].copy_(merge(*pieces))  # in its place, as it is as large as the state
        return self.pull


def _chosen(entries: Tensor, pull: Tensor, cutoff: float, balance: float) -> Tensor:
    """The places of the entries that may reach a balance: of a large magnitude, pulled their own way enough."""
    if balance <= 0:
        return torch.arange(len(entries))
    # numpy compares four times as fast as torch.
    may = (entries.abs().numpy() >= cutoff) & ((entries * pull).numpy() >= _SURELY * balance)
    return torch.from_numpy(np.flatnonzero(may))
