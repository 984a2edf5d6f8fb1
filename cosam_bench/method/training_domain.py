"""The data that a method may learn from: open while it learns, closed afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

from cosam_bench.data.prompts import Prompts
from cosam_bench.data.samples import Sample, Split


class ClosedDomainError(RuntimeError):
    """A method read a domain's data after the domain was closed."""


class TrainingDomain(Sequence[Sample]):
    """The current domain's training samples, with their frozen prompts, until ``learn`` returns.

    Attributes:
        name: the domain's name, or ``all`` for a method that learns every domain at once.
    """

    def __init__(self, name: str, split: Split, prompts: Prompts) -> None:
        self.name = name
        self._data: tuple[Split, Prompts] | None = (split, prompts)

    @property
    def prompts(self) -> Prompts:
        """The prompts of the samples, row by row."""
        return self._open()[1]

    @property
    def digest(self) -> str:
        """sha256 over the samples' manifest and the prompts."""
        split, prompts = self._open()
        return f"{split.digest}-{prompts.digest}"

    def __len__(self) -> int:
        return len(self._open()[0])

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | Sequence[Sample]:
        return self._open()[0][index]

    def close(self) -> None:
        """End the domain: every later access raises ``ClosedDomainError``."""
        self._data = None

    def _open(self) -> tuple[Split, Prompts]:
        if self._data is None:
            raise ClosedDomainError(
                f"The domain {self.name!r} is closed: its data cannot be read after learn() has returned. "
                "Copy what the method may keep into state(), where it is counted."
            )
        return self._data
