"""The score matrix of a run, and every figure that is a pure function of it.

``R[t][j]`` is the mean score on domain ``j`` after learning ``t`` domains; row 0 is frozen SAM. Steps
and domains count from 1 in the formulas, as in the papers. A figure is NaN where a cell that it needs
was not measured, or where nothing is left to take the mean of (forgetting in a stream of one domain).

In every *difference* the sign is turned for metrics where lower is better, so that positive forgetting
always means something was lost and positive transfer always means something was gained.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cosam_bench.core.errors import CosamError, unknown_name
from cosam_bench.evaluation.metrics import HIGHER_IS_BETTER

if TYPE_CHECKING:
    from pandas import DataFrame

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Cell:
    """One measured cell of a score matrix: one row of ``matrix.csv``.

    Attributes:
        step: domains learned so far; 0 is frozen SAM.
        domain: the domain that was tested, a retention domain included.
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
        domains: the ``T`` domains, in the order in which they were learned.
        retention: domains that are only ever tested.
        values: ``(T + 1, T + len(retention))``, NaN where not measured.
        count: the number of images behind each value, in the same shape; 0 where not measured.
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
        """1.0 where a higher score is better, else -1.0."""
        return 1.0 if HIGHER_IS_BETTER[self.metric] else -1.0

    def row(self, step: int) -> Floats:
        """The scores on all columns after ``step`` domains; row 0 is frozen SAM."""
        row: Floats = self.values[step]
        return row

    def at(self, step: int, domain: str) -> float:
        """The score on ``domain`` after ``step`` domains, NaN where not measured."""
        if domain not in self.columns:
            raise unknown_name("domain of this run", domain, self.columns)
        return float(self.values[step, self.columns.index(domain)])

    @classmethod
    def from_rows(
        cls, rows: Iterable[Cell], *, metric: str, domains: Sequence[str], retention: Sequence[str] = ()
    ) -> ScoreMatrix:
        """The matrix of one metric; cells that no row gives are NaN, rows of other metrics are passed over.

        Args:
            rows: measured cells, in any order.
            metric: a name in ``METRICS``.
            domains: the stream, in the order in which it was learned.
            retention: domains that are only ever tested.

        Raises:
            CosamError: a metric or domain nobody knows, a step outside the stream, or a cell given twice.
        """
        if metric not in HIGHER_IS_BETTER:
            raise unknown_name("metric", metric, HIGHER_IS_BETTER)
        columns = {name: index for index, name in enumerate((*domains, *retention))}
        values = np.full((len(domains) + 1, len(columns)), np.nan)
        count = np.zeros(values.shape, dtype=np.int64)
        for cell in rows:
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

    def to_frame(self) -> DataFrame:
        """The scores as a table: one row per step, one column per domain, NaN where not measured.

        The index has two levels, ``step`` and ``learned``, the domain learned in that step (``frozen`` in step 0).

        >>> scores = ScoreMatrix("iou", ("pill",), ("photo",), np.array([[0.5, 0.9], [0.8, 0.7]]), np.ones((2, 2), int))
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


def _check_cell(cell: Cell, columns: dict[str, int], *, steps: int) -> None:
    if cell.domain not in columns:
        raise unknown_name("domain of this run", cell.domain, columns)
    if not 0 <= cell.step <= steps:
        raise CosamError(f"The score matrix has a row for step {cell.step}, but the stream has steps 0 to {steps}.")
    if cell.count < 1:
        raise CosamError(
            f"The score of {cell.domain!r} after step {cell.step} is a mean over {cell.count} images. "
            "Leave a cell out that was not measured."
        )


def summary(matrix: ScoreMatrix) -> dict[str, float]:
    """Every figure of one matrix by its short name; NaN where undefined."""
    return {
        "last": last(matrix),
        "avg": average(matrix),
        "ff": forgetting(matrix),
        "ff_max": forgetting_max(matrix),
        "bwt": backward_transfer(matrix),
        "fwt": forward_transfer(matrix),
        "fm": fm(matrix),
        "ft": ft(matrix),
        "diagonal": diagonal(matrix),
        "retention": retention(matrix),
        "retention_drop": retention_drop(matrix),
        "frozen": frozen(matrix),
    }


def last(matrix: ScoreMatrix) -> float:
    """Last = mean_j R[T][j]: the final model on all domains of the stream."""
    return _mean(_stream(matrix)[-1])


def average(matrix: ScoreMatrix) -> float:
    """Avg = mean_t mean_{j<=t} R[t][j]: the model of each step on the domains seen by then."""
    scores = _stream(matrix)
    return _mean(np.array([_mean(scores[t, :t]) for t in range(1, len(scores))]))


def forgetting(matrix: ScoreMatrix) -> float:
    """FF = mean_{j<T} (R[j][j] - R[T][j]): what was lost since each domain was learned."""
    return _mean(matrix.sign * (_diagonal(matrix) - _stream(matrix)[-1])[:-1])


def forgetting_max(matrix: ScoreMatrix) -> float:
    """FF against the best earlier row: mean_{j<T} (max_{j<=t<T} R[t][j] - R[T][j]).

    Rows before a domain was learned do not count. Negative where the last step improved on all of them.
    """
    scores = matrix.sign * _stream(matrix)
    lost = [scores[j + 1 : -1, j].max() - scores[-1, j] for j in range(matrix.steps - 1)]
    return _mean(np.array(lost))


def backward_transfer(matrix: ScoreMatrix) -> float:
    """BWT = mean_{j<T} (R[T][j] - R[j][j]): the negative of FF, under its usual name.

    Source: Lopez-Paz and Ranzato, "Gradient Episodic Memory", NeurIPS 2017, equation 3.
    """
    return -forgetting(matrix)


def forward_transfer(matrix: ScoreMatrix) -> float:
    """FWT = mean_{j>=2} (R[j-1][j] - R[0][j]): what earlier domains gave the next, against frozen SAM.

    Source: Lopez-Paz and Ranzato, NeurIPS 2017, equation 4; frozen SAM stands for their random start.
    """
    return _mean(matrix.sign * (_before(matrix) - _stream(matrix)[0, 1:]))


def fm(matrix: ScoreMatrix) -> float:
    """FM = (1/T) sum_{j<=T} (R[j][j] - R[T][j]): forgetting as RegCL divides it, its last term being zero."""
    return _mean(matrix.sign * (_diagonal(matrix) - _stream(matrix)[-1]))


def ft(matrix: ScoreMatrix) -> float:
    """FT = mean_{i<T} R[i][i+1]: the score itself on the next, still unseen domain, as RegCL states it."""
    return _mean(_before(matrix))


def diagonal(matrix: ScoreMatrix) -> float:
    """mean_j R[j][j]: each domain right after it was learned."""
    return _mean(_diagonal(matrix))


def plasticity(matrix: ScoreMatrix, experts: ScoreMatrix) -> float:
    """mean_j (E[j][j] - R[j][j]): what a domain's own expert scores above the model served right after it.

    RegCL measures forgetting against the merged model's own diagonal, so this loss shows nowhere else.

    Args:
        matrix: the method's scores R.
        experts: the scores E of one adapter a domain, on the same stream and metric.

    Raises:
        CosamError: the two were not measured on the same domains in the same order, or by other metrics.
    """
    mine, theirs = (matrix.metric, matrix.domains), (experts.metric, experts.domains)
    if mine != theirs:
        raise CosamError(
            f"Plasticity compares runs of one stream and metric, found {mine} and experts with {theirs}. "
            "Run `experts` under the same protocol and order."
        )
    return _mean(matrix.sign * (_diagonal(experts) - _diagonal(matrix)))


def retention(matrix: ScoreMatrix) -> float:
    """The final model's mean score on the retention domains; NaN where the run has none."""
    return _mean(_retained(matrix)[-1])


def retention_drop(matrix: ScoreMatrix) -> float:
    """What the final model lost against frozen SAM on the retention domains, in the mean."""
    kept = _retained(matrix)
    return _mean(matrix.sign * (kept[0] - kept[-1]))


def frozen(matrix: ScoreMatrix) -> float:
    """mean_j R[0][j]: frozen SAM on all domains of the stream."""
    return _mean(_stream(matrix)[0])


def _stream(matrix: ScoreMatrix) -> Floats:
    return matrix.values[:, : matrix.steps]


def _retained(matrix: ScoreMatrix) -> Floats:
    return matrix.values[:, matrix.steps :]


def _diagonal(matrix: ScoreMatrix) -> Floats:
    return np.diagonal(_stream(matrix)[1:])


def _before(matrix: ScoreMatrix) -> Floats:
    """R[j-1][j] for j = 2 .. T: each domain just before it was learned."""
    return np.diagonal(_stream(matrix)[1:], offset=1)


def _mean(values: Floats) -> float:
    return float(values.mean()) if values.size else float("nan")
