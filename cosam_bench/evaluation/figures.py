"""The figures that sum up a score matrix, such as Last, forgetting and transfer.

``FIGURES`` is the table of all figures: the summary of a run, the leaderboard, its CSV and the docs follow it.

``R[t][j]`` is the score on domain ``j`` after learning ``t`` domains; row 0 is frozen SAM. Steps and domains count
from 1 in the formulas, as in the papers. ``E`` is the matrix of the ``experts``, one adapter per domain, and
``Q[t]`` the mean over the retention domains after ``t`` domains. A figure is NaN if a cell that it needs was not
measured, or if there is nothing to average (forgetting in a stream of one domain).

Domains that ``ScoreMatrix.only`` masks take part in no mean.

In every *difference* the sign is reversed for metrics where lower is better, so that positive forgetting always
means a loss and positive transfer always means a gain.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal

import numpy as np

from cosam_bench.core.errors import CosamError
from cosam_bench.evaluation.metrics import METRICS
from cosam_bench.evaluation.score_matrix import Floats, ScoreMatrix


@dataclass(frozen=True)
class Figure:
    """A figure of a score matrix: one row of ``FIGURES``.

    Attributes:
        name: in files; ``<name>_std`` is its deviation over runs.
        title: in tables for people.
        formula: by the symbols above.
        meaning: what it says, in a few words.
        better: which values are better; ``score``: those that are better scores by the metric.
        function: from the matrix, and from the experts' matrix if ``needs_experts``, to the figure.
        needs_experts: whether it compares the run with the record of ``experts``.
        is_linear: whether it is linear in the scores, so that each image has its share in it.
        parts: of a figure that is not linear, from scores of the stream ``(..., T + 1, T)``, higher is better, to what
            it is the mean of, one number per domain from the first on.
    """

    name: str
    title: str
    formula: str
    meaning: str
    better: Literal["higher", "lower", "score"]
    function: Callable[..., float]
    needs_experts: bool = False
    is_linear: bool = True
    parts: Callable[[Floats], Floats] | None = None

    def of(self, matrix: ScoreMatrix, *, experts: ScoreMatrix | None = None) -> float:
        """Its value; NaN if it needs the experts' matrix and there is none."""
        if not self.needs_experts:
            return self.function(matrix)
        return float("nan") if experts is None else self.function(matrix, experts)

    def of_stack(self, stack: Floats, *, like: ScoreMatrix) -> Floats:
        """Its value for each matrix of a stack ``(n, T + 1, T + Q)``, named, signed and masked as ``like`` is."""
        mask = np.ma.getmaskarray(like.values)
        if self.parts is None:
            one_by_one = (replace(like, values=np.ma.masked_array(values, mask=mask)) for values in stack)
            return np.array([self.of(matrix) for matrix in one_by_one])
        parts = self.parts(like.sign * stack[..., : like.steps])
        kept = ~mask[-1, : parts.shape[-1]]
        return parts[..., kept].mean(axis=-1) if kept.any() else np.full(len(stack), np.nan)

    def prefers_high(self, metric: str) -> bool:
        """Whether its higher values are the better ones."""
        return (METRICS[metric].better if self.better == "score" else self.better) == "higher"


def summary(matrix: ScoreMatrix) -> dict[str, float]:
    """Every figure of the matrix alone by name, NaN where undefined."""
    return {name: figure.of(matrix) for name, figure in FIGURES.items() if not figure.needs_experts}


def last(matrix: ScoreMatrix) -> float:
    """Last = mean_{j≤T} R[T][j]: the final model on all domains of the stream.

    >>> last(ScoreMatrix.from_values([[0.25, 0.25], [0.5, 0.25], [0.25, 0.75]], domains=["pill", "polyp"]))
    0.5
    """
    return _mean(_stream(matrix)[-1])


def average(matrix: ScoreMatrix) -> float:
    """Avg = mean_{t≤T} mean_{j≤t} R[t][j]: each step's model on the domains seen so far.

    >>> average(ScoreMatrix.from_values([[0.25, 0.25], [0.75, 0.25], [0.25, 0.75]], domains=["pill", "polyp"]))
    0.625
    """
    scores = _stream(matrix)
    return _mean(np.array([_mean(scores[t, :t]) for t in range(1, len(scores)) if _has_part(scores[t, :t])]))


def forgetting(matrix: ScoreMatrix) -> float:
    """FF = mean_{j<T} (R[j][j] - R[T][j]): forgotten since each domain was learned.

    >>> forgetting(ScoreMatrix.from_values([[0.25, 0.25], [0.75, 0.25], [0.5, 0.75]], domains=["pill", "polyp"]))
    0.25
    """
    return _mean(matrix.sign * (_diagonal(matrix) - _stream(matrix)[-1])[:-1])


def forgetting_max(matrix: ScoreMatrix) -> float:
    """FF max = mean_{j<T} (max_{j≤t<T} R[t][j] - R[T][j]): forgotten since each domain's best step.

    Rows before a domain was learned do not count. Negative if the last step improved on all of them.

    >>> rows = [[0, 0, 0], [0.5, 0, 0], [0.75, 0.5, 0], [0.25, 0.5, 1]]
    >>> forgetting_max(ScoreMatrix.from_values(rows, domains=["pill", "polyp", "rim"]))
    0.25
    """
    return _mean_lost(matrix, _lost_since_best)


def _lost_since_best(scores: Floats) -> Floats:
    """From scores ``(..., T + 1, T)``, higher is better, to what each domain but the last lost, ``(..., T - 1)``."""
    lost = [scores[..., j + 1 : -1, j].max(axis=-1) - scores[..., -1, j] for j in range(scores.shape[-1] - 1)]
    return np.stack(lost, axis=-1) if lost else np.zeros((*scores.shape[:-2], 0))


def forgetting_max_all(matrix: ScoreMatrix) -> float:
    """FF all = mean_{j<T} (max_{1≤t<T} R[t][j] - R[T][j]): forgotten since the best of all earlier steps.

    Rows before a domain was learned count, too; frozen SAM's does not. At least ``forgetting_max``.

    Source: Chaudhry et al., "Riemannian Walk for Incremental Learning", ECCV 2018 (arXiv 1801.10112), section 3.2.

    >>> rows = [[1, 1, 1], [0.5, 0.75, 0], [0.75, 0.5, 0], [0.25, 0.5, 1]]
    >>> forgetting_max_all(ScoreMatrix.from_values(rows, domains=["pill", "polyp", "rim"]))
    0.375
    """
    return _mean_lost(matrix, _lost_since_best_of_all)


def _lost_since_best_of_all(scores: Floats) -> Floats:
    """As ``_lost_since_best``, with the rows before each domain was learned, except for row 0."""
    if scores.shape[-1] < 2:
        return np.zeros((*scores.shape[:-2], 0))
    lost: Floats = scores[..., 1:-1, :-1].max(axis=-2) - scores[..., -1, :-1]
    return lost


def _mean_lost(matrix: ScoreMatrix, lost: Callable[[Floats], Floats]) -> float:
    """The mean of what ``lost`` finds for each domain but the last, over those whose final score is known."""
    scores = matrix.sign * _stream(matrix)
    parts = [j for j in range(matrix.steps - 1) if _has_part(scores[-1:, j])]
    return _mean(lost(np.ma.getdata(scores))[parts])


def backward_transfer(matrix: ScoreMatrix) -> float:
    """BWT = mean_{j<T} (R[T][j] - R[j][j]): backward transfer, the negative of FF.

    Source: Lopez-Paz and Ranzato, "Gradient Episodic Memory", NeurIPS 2017, equation 3.

    >>> backward_transfer(ScoreMatrix.from_values([[0, 0], [0.75, 0], [0.5, 0.75]], domains=["pill", "polyp"]))
    -0.25
    """
    return -forgetting(matrix)


def forward_transfer(matrix: ScoreMatrix) -> float:
    """FWT = mean_{2≤j≤T} (R[j-1][j] - R[0][j]): gain over frozen SAM on the next unseen domain.

    Source: Lopez-Paz and Ranzato, NeurIPS 2017, equation 4; frozen SAM takes the place of their random start.

    >>> forward_transfer(ScoreMatrix.from_values([[0, 0.25], [1, 0.5], [1, 1]], domains=["pill", "polyp"]))
    0.25
    """
    return _mean(matrix.sign * (_before(matrix) - _stream(matrix)[0, 1:]))


def forgetting_over_all(matrix: ScoreMatrix) -> float:
    """FM = 1/T sum_{j≤T} (R[j][j] - R[T][j]): FF divided by all T domains, as in RegCL.

    >>> forgetting_over_all(ScoreMatrix.from_values([[0, 0], [0.75, 0], [0.5, 1]], domains=["pill", "polyp"]))
    0.125
    """
    return _mean(matrix.sign * (_diagonal(matrix) - _stream(matrix)[-1]))


def next_domain(matrix: ScoreMatrix) -> float:
    """FT = mean_{j<T} R[j][j+1]: RegCL's score on the next unseen domain.

    >>> next_domain(ScoreMatrix.from_values([[0, 0.25], [1, 0.5], [1, 1]], domains=["pill", "polyp"]))
    0.5
    """
    return _mean(_before(matrix))


def diagonal(matrix: ScoreMatrix) -> float:
    """Diagonal = mean_{j≤T} R[j][j]: each domain right after it was learned.

    >>> diagonal(ScoreMatrix.from_values([[0, 0], [0.5, 0], [0.25, 0.75]], domains=["pill", "polyp"]))
    0.625
    """
    return _mean(_diagonal(matrix))


def plasticity_loss(matrix: ScoreMatrix, experts: ScoreMatrix) -> float:
    """Plasticity loss = mean_{j≤T} (E[j][j] - R[j][j]): what a merge loses on a domain just learned.

    RegCL measures forgetting against the merged model's own diagonal, so this loss shows nowhere else.

    Args:
        matrix: the method's scores R.
        experts: the scores E of one adapter per domain, on the same stream and metric.

    Raises:
        CosamError: the two differ in metric, domains or order.

    >>> experts = ScoreMatrix.from_values([[0, 0], [0.75, 0], [0, 0.75]], domains=["pill", "polyp"])
    >>> plasticity_loss(ScoreMatrix.from_values([[0, 0], [0.5, 0], [0, 0.5]], domains=["pill", "polyp"]), experts)
    0.25
    """
    mine, theirs = (matrix.metric, matrix.domains), (experts.metric, experts.domains)
    if mine != theirs:
        raise CosamError(
            f"Plasticity compares runs of one stream and metric, found {mine} and experts with {theirs}. "
            "Run `experts` under the same protocol and order."
        )
    return _mean(matrix.sign * (_diagonal(experts) - _diagonal(matrix)))


def retention(matrix: ScoreMatrix) -> float:
    """Retention = Q[T]: the final model on the retention domains.

    >>> retention(ScoreMatrix.from_values([[0, 0.75], [1, 0.5]], domains=["pill"], retention=["photo"]))
    0.5
    """
    return _mean(_retained(matrix)[-1])


def retention_drop(matrix: ScoreMatrix) -> float:
    """Drop = Q[0] - Q[T]: lost against frozen SAM on retention domains.

    >>> retention_drop(ScoreMatrix.from_values([[0, 0.75], [1, 0.5]], domains=["pill"], retention=["photo"]))
    0.25
    """
    kept = _retained(matrix)
    return _mean(matrix.sign * (kept[0] - kept[-1]))


def frozen(matrix: ScoreMatrix) -> float:
    """Frozen = mean_{j≤T} R[0][j]: frozen SAM on all domains of the stream.

    >>> frozen(ScoreMatrix.from_values([[0.25, 0.75], [1, 1], [1, 1]], domains=["pill", "polyp"]))
    0.5
    """
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


def _has_part(values: Floats) -> bool:
    """Whether any of the values is not masked."""
    return not (isinstance(values, np.ma.MaskedArray) and values.mask.all())


def _mean(values: Floats) -> float:
    """The mean of the values that are not masked; NaN if there is none."""
    return float(values.mean()) if values.size and _has_part(values) else float("nan")


# Two lines per figure read as a table; the formatter would give some of them eight.
# fmt: off
_FIGURES = (
    Figure("last", "Last", "mean_{j≤T} R[T][j]",
           "the final model on all domains of the stream", "score", last),
    Figure("avg", "Avg", "mean_{t≤T} mean_{j≤t} R[t][j]",
           "each step's model on the domains seen so far", "score", average),
    Figure("ff", "FF", "mean_{j<T} (R[j][j] - R[T][j])",
           "forgotten since each domain was learned", "lower", forgetting),
    Figure("ff_max", "FF max", "mean_{j<T} (max_{j≤t<T} R[t][j] - R[T][j])",
           "forgotten since each domain's best step", "lower", forgetting_max, is_linear=False, parts=_lost_since_best),
    Figure("ff_max_all", "FF all", "mean_{j<T} (max_{1≤t<T} R[t][j] - R[T][j])",
           "forgotten since the best of all earlier steps", "lower", forgetting_max_all,
           is_linear=False, parts=_lost_since_best_of_all),
    Figure("bwt", "BWT", "mean_{j<T} (R[T][j] - R[j][j])",
           "backward transfer, the negative of FF", "higher", backward_transfer),
    Figure("fwt", "FWT", "mean_{2≤j≤T} (R[j-1][j] - R[0][j])",
           "gain over frozen SAM on the next unseen domain", "higher", forward_transfer),
    Figure("fm", "FM", "1/T sum_{j≤T} (R[j][j] - R[T][j])",
           "FF divided by all T domains, as in RegCL", "lower", forgetting_over_all),
    Figure("ft", "FT", "mean_{j<T} R[j][j+1]",
           "RegCL's score on the next unseen domain", "score", next_domain),
    Figure("diagonal", "Diagonal", "mean_{j≤T} R[j][j]",
           "each domain right after it was learned", "score", diagonal),
    Figure("plasticity", "Plast. loss", "mean_{j≤T} (E[j][j] - R[j][j])",
           "what a merge loses on a domain just learned", "lower", plasticity_loss, needs_experts=True),
    Figure("retention", "Retention", "Q[T]",
           "the final model on the retention domains", "score", retention),
    Figure("retention_drop", "Drop", "Q[0] - Q[T]",
           "lost against frozen SAM on retention domains", "lower", retention_drop),
    Figure("frozen", "Frozen", "mean_{j≤T} R[0][j]",
           "frozen SAM on all domains of the stream", "score", frozen),
)
# fmt: on
FIGURES: Mapping[str, Figure] = MappingProxyType({figure.name: figure for figure in _FIGURES})
"""Every figure by name, in the order of the columns."""
