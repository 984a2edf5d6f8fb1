"""The score matrix of a run: one metric's scores after each step of the stream.

``R[t][j]`` is the mean score on domain ``j`` after learning ``t`` domains; row 0 is frozen SAM.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cosam_bench.core.errors import CosamError, unknown_name
from cosam_bench.evaluation.metrics import METRICS, find_metric

if TYPE_CHECKING:
    from pandas import DataFrame

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Cell:
    """One measured cell of a score matrix: one row of ``matrix.csv``.

    Attributes:
        step: domains learned so far; 0 is frozen SAM.
        domain: the domain that was tested, which may be a retention domain.
        metric: a name in ``METRICS``.
        value: the mean over the images.
        count: the number of images.
    """

    step: int
    domain: str
    metric: str
    value: float
    count: int


@dataclass(frozen=True, eq=False)
class ScoreMatrix:
    """One metric's scores on all domains, before the stream and after each of its steps.

    Attributes:
        metric: a name in ``METRICS``.
        domains: the ``T`` domains in the order of learning.
        retention: domains that are only ever tested.
        values: ``(T + 1, T + len(retention))``, NaN where not measured.
        count: the number of images behind each value, in the same shape, 0 where not measured.
    """

    metric: str
    domains: tuple[str, ...]
    retention: tuple[str, ...]
    values: Floats
    count: NDArray[np.int64]

    def __post_init__(self) -> None:
        """Refuse arrays that do not fit the names."""
        shape = (len(self.domains) + 1, len(self.columns))
        if self.values.shape != shape or self.count.shape != shape:
            raise ValueError(
                f"A score matrix of {len(self.domains)} domains and {len(self.retention)} retention "
                f"domains has the shape {shape}, found {self.values.shape} and {self.count.shape}."
            )

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the columns: the stream's domains, then the retention domains."""
        return self.domains + self.retention

    @property
    def steps(self) -> int:
        """``T``, the number of domains to learn."""
        return len(self.domains)

    @property
    def sign(self) -> float:
        """1.0 if a higher score is better, else -1.0."""
        return 1.0 if METRICS[self.metric].better == "higher" else -1.0

    @classmethod
    def from_values(
        cls, values: ArrayLike, *, metric: str = "iou", domains: Sequence[str], retention: Sequence[str] = ()
    ) -> ScoreMatrix:
        """The matrix of these scores, one image behind each; NaN where not measured."""
        scores = np.array(values, dtype=np.float64)
        return cls(metric, tuple(domains), tuple(retention), scores, np.where(np.isnan(scores), 0, 1))

    @classmethod
    def from_cells(
        cls, cells: Iterable[Cell], *, metric: str, domains: Sequence[str], retention: Sequence[str] = ()
    ) -> ScoreMatrix:
        """The matrix of one metric; places without a cell are NaN, cells of other metrics are ignored.

        Args:
            cells: measured cells, in any order.
            metric: a name in ``METRICS``.
            domains: the stream in the order of learning.
            retention: domains that are only ever tested.

        Raises:
            CosamError: an unknown metric or domain, a step outside the stream, or a cell given twice.
        """
        find_metric(metric)
        columns = {name: index for index, name in enumerate((*domains, *retention))}
        values = np.full((len(domains) + 1, len(columns)), np.nan)
        count = np.zeros(values.shape, dtype=np.int64)
        for cell in cells:
            if cell.metric != metric:
                continue
            _check_cell(cell, columns, steps=len(domains))
            place = (cell.step, columns[cell.domain])
            if count[place]:
                raise CosamError(
                    f"The score matrix gives {metric} of {cell.domain!r} after step {cell.step} twice. "
                    "Remove one of the two rows, or run again."
                )
            values[place], count[place] = cell.value, cell.count
        return cls(metric, tuple(domains), tuple(retention), values, count)

    def only(self, domains: Sequence[str]) -> ScoreMatrix:
        """The same matrix with all other domains masked, so that figures average over these alone.

        Raises:
            CosamError: a domain that is neither in the stream nor retained.
        """
        for name in domains:
            if name not in self.columns:
                raise unknown_name("domain of these runs", name, self.columns)
        hidden = np.broadcast_to([name not in domains for name in self.columns], self.values.shape)
        masked: Floats = np.ma.masked_array(self.values, mask=hidden)
        return ScoreMatrix(self.metric, self.domains, self.retention, masked, self.count)

    def to_frame(self) -> DataFrame:
        """The scores as a table: one row per step, one column per domain, NaN where not measured.

        The index has two levels, ``step`` and ``learned``, the domain learned in that step (``frozen`` in step 0).

        >>> scores = ScoreMatrix.from_values([[0.5, 0.9], [0.8, 0.7]], domains=["pill"], retention=["photo"])
        >>> scores.to_frame().reset_index()
           step learned  pill  photo
        0     0  frozen   0.5    0.9
        1     1    pill   0.8    0.7
        """
        import pandas

        index = pandas.MultiIndex.from_arrays(
            [range(self.steps + 1), ["frozen", *self.domains]], names=["step", "learned"]
        )
        return pandas.DataFrame(self.values.copy(), index=index, columns=list(self.columns))


_MOST_IMAGES = 10**12  # no data set has as many; numpy's whole numbers end at 64 bits


def _check_cell(cell: Cell, columns: Mapping[str, int], *, steps: int) -> None:
    if cell.domain not in columns:
        raise unknown_name("domain of this run", cell.domain, columns)
    if not 0 <= cell.step <= steps:
        raise CosamError(f"The score matrix has a row for step {cell.step}, but the stream has steps 0 to {steps}.")
    if not 1 <= cell.count <= _MOST_IMAGES:
        raise CosamError(
            f"The score of {cell.domain!r} after step {cell.step} is a mean over {cell.count} images. "
            "Leave out cells that were not measured."
        )
