"""Score and forgetting matrices as tables of coloured cells, which can be read aloud and copied."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from cosam_bench.evaluation.metrics import METRICS
from cosam_bench.evaluation.score_matrix import Floats, ScoreMatrix
from cosam_bench.results.report.boards import Entry

LEVELS = 9
"""Colours of a scale; the middle one is neutral where signs differ."""

# A part of viridis (van der Walt and Smith, 2015): distinct in grey and for the colour-blind.
_SEQUENTIAL = ("#440154", "#414487", "#2a788e", "#22a884", "#7ad151", "#fde725")
# After ColorBrewer's PuOr (Brewer): losses orange, gains purple.
_DIVERGING = ("#542788", "#998ec3", "#f7f7f7", "#f1a340", "#b35806")


@dataclass(frozen=True)
class MatrixCell:
    """A cell: its text and the CSS class of its colour, empty if it was not measured."""

    text: str
    css: str
    value: float


@dataclass(frozen=True)
class MatrixTable:
    """A table with a caption, a head and labelled rows.

    Attributes:
        retention_from: the place of the first retention domain among the columns.
    """

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[MatrixCell, ...]], ...]
    retention_from: int


def mean_matrix(entry: Entry) -> tuple[ScoreMatrix, int]:
    """The mean over the runs that have the first run's order of domains, and their number."""
    chosen = [run.matrix for run in entry.runs if run.info.order == entry.info.order]
    first = chosen[0]
    values = np.mean([matrix.values for matrix in chosen], axis=0)
    return ScoreMatrix(first.metric, first.domains, first.retention, values, first.count), len(chosen)


def score_table(matrix: ScoreMatrix, *, at_once: bool) -> MatrixTable:
    """R[t][j] as measured; rows that were not measured are left out."""
    metric = METRICS[matrix.metric]
    measured = matrix.values[~np.isnan(matrix.values)]
    low, high = (float(measured.min()), float(measured.max())) if measured.size else (0.0, 1.0)

    def share(value: float) -> float:
        part = (value - low) / (high - low) if high > low else 0.5
        return part if metric.better == "higher" else 1 - part

    rows = [
        (label, tuple(_cell(value, "s", share(value)) for value in row))
        for label, row in zip(_labels(matrix, at_once=at_once), matrix.values.tolist(), strict=True)
        if not all(map(math.isnan, row))
    ]
    caption = f"{metric.title} on each domain (column) after each step (row); {metric.better} is better"
    return MatrixTable(caption, matrix.columns, tuple(rows), matrix.steps)


def forgetting_table(matrix: ScoreMatrix) -> MatrixTable:
    """What was lost on each domain since it was learned, and on retention domains since frozen SAM."""
    lost = losses(matrix)
    widest = float(np.nanmax(np.abs(lost), initial=0.0)) or 1.0
    labels = _labels(matrix, at_once=False)
    rows = [
        (label, tuple(_cell(value, "f", (value / widest + 1) / 2, signed=True) for value in row))
        for label, row in list(zip(labels, lost.tolist(), strict=True))[1:]
    ]
    retained = "; retention domains: since frozen SAM" if matrix.retention else ""
    title = METRICS[matrix.metric].title
    caption = f"Forgetting: {title} lost on each domain since it was learned{retained}; negative is a gain"
    return MatrixTable(caption, matrix.columns, tuple(rows), matrix.steps)


def losses(matrix: ScoreMatrix) -> Floats:
    """R[j][j] - R[t][j] for t >= j, and R[0][j] - R[t][j] for retention domains; NaN elsewhere."""
    lost = np.full(matrix.values.shape, np.nan)
    for column in range(len(matrix.columns)):
        start = column + 1 if column < matrix.steps else 0
        lost[start:, column] = matrix.sign * (matrix.values[start, column] - matrix.values[start:, column])
    return lost


def seen_means(matrix: ScoreMatrix) -> list[float]:
    """The mean score over the domains learned so far, after each step from the first on."""
    return [float(matrix.values[step, :step].mean()) for step in range(1, matrix.steps + 1)]


def retention_means(matrix: ScoreMatrix) -> list[float]:
    """The mean score over the retention domains, from frozen SAM on; NaN without any."""
    kept = matrix.values[:, matrix.steps :]
    return [float(row.mean()) if row.size else math.nan for row in kept]


def _labels(matrix: ScoreMatrix, *, at_once: bool) -> list[str]:
    learned = ["all at once"] * matrix.steps if at_once else list(matrix.domains)
    return ["0 frozen", *(f"{step} {name}" for step, name in enumerate(learned, start=1))]


def _cell(value: float, scale: str, share: float, *, signed: bool = False) -> MatrixCell:
    if math.isnan(value):
        return MatrixCell("", "", value)
    level = min(LEVELS - 1, int(share * LEVELS))
    shown = round(value, 3) + 0.0  # no minus sign before zero
    return MatrixCell(f"{shown:+.3f}" if signed and shown else f"{shown:.3f}", f"{scale}{level}", value)


def scale_css() -> str:
    """The CSS classes of both scales, each with the text colour that contrasts most."""
    lines = []
    for scale, stops in (("s", _SEQUENTIAL), ("f", _DIVERGING)):
        for level in range(LEVELS):
            colour = mixed(stops, level / (LEVELS - 1))
            lines.append(f".{scale}{level}{{background:{colour};color:{ink(colour)}}}")
    return "\n".join(lines)


def mixed(stops: Sequence[str], place: float) -> str:
    """The colour at a place in [0, 1] on a scale of evenly spaced stops."""
    position = place * (len(stops) - 1)
    first = min(int(position), len(stops) - 2)
    part = position - first
    pairs = zip(_channels(stops[first]), _channels(stops[first + 1]), strict=True)
    return "#" + "".join(f"{round(one + (other - one) * part):02x}" for one, other in pairs)


def ink(background: str) -> str:
    """Black or white, whichever has the higher contrast on a background."""
    return max("#000000", "#ffffff", key=lambda colour: contrast(colour, background))


def contrast(one: str, other: str) -> float:
    """The contrast ratio of two colours, 1 to 21.

    Source: Web Content Accessibility Guidelines 2.2, "contrast ratio" and "relative luminance".

    >>> contrast("#000000", "#ffffff")
    21.0
    """
    low, high = sorted((_luminance(_channels(one)), _luminance(_channels(other))))
    return (high + 0.05) / (low + 0.05)


def _luminance(channels: Iterable[int]) -> float:
    shares = [channel / 255 for channel in channels]
    linear = [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def _channels(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)
