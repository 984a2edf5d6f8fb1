"""Each method's scores along the length of its own merge, and at the length that held-out training images choose."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cosam_bench.core.errors import CosamError
from cosam_bench.core.sums import plain_sum
from cosam_bench.evaluation.figures import FIGURES
from cosam_bench.evaluation.metrics import find_metric
from cosam_bench.evaluation.scales import BASES, Basis, ScaleScore, choose_scale, chosen_by
from cosam_bench.evaluation.score_matrix import Cell, ScoreMatrix
from cosam_bench.results.cell_text import code_mark
from cosam_bench.results.conditions import Measured, measured_runs
from cosam_bench.results.leaderboard_notes import Key
from cosam_bench.results.records import SCALES_FILE, Record
from cosam_bench.results.row_intervals import without_repeats
from cosam_bench.results.run_info import AT_ONCE
from cosam_bench.results.selection import Selection

if TYPE_CHECKING:
    from pandas import DataFrame

SHOWN = ("last", "ff", "retention")
"""The figures that are given at each choice of scale."""


@dataclass(frozen=True)
class Scaled:
    """A run's score matrix with a scale chosen at each step.

    Attributes:
        scale: chosen after the last step.
        matrix: each row at the scale chosen for it.
    """

    scale: float
    matrix: ScoreMatrix


def scaled_matrix(run: Measured, scores: Sequence[ScaleScore], *, basis: Basis) -> Scaled:
    """A run's matrix in which each step's merge has the scale that the held-out images choose.

    Args:
        run: a complete run.
        scores: its ``scales.csv``.
        basis: the held-out images of the current domain, or of all domains seen so far.
    """
    info, metric = run.info, run.matrix.metric
    at_once = AT_ONCE in info.marks
    steps = sorted({row.step for row in scores})
    chosen = {
        step: choose_scale(scores, step=step, domains=chosen_by(info.order[:step], basis, all_at_once=at_once))
        for step in steps
    }
    cells = [
        Cell(row.step, row.domain, metric, row.value, row.count)
        for row in scores
        if row.part == "test" and row.metric == metric and row.scale == chosen[row.step]
    ]
    first = zip(run.matrix.columns, run.matrix.values[0], run.matrix.count[0], strict=True)
    frozen = [Cell(0, name, metric, float(value), int(count)) for name, value, count in first if count]
    matrix = ScoreMatrix.from_cells([*frozen, *cells], metric=metric, domains=info.order, retention=info.retention)
    return Scaled(chosen[steps[-1]], matrix)


def last_by_scale(run: Measured, scores: Sequence[ScaleScore]) -> dict[float, float]:
    """The mean test score over the stream's domains after the last step, at each scale."""
    found: dict[float, list[float]] = defaultdict(list)
    for row in scores:
        is_wanted = (row.step, row.part, row.metric) == (len(run.info.order), "test", run.matrix.metric)
        if is_wanted and row.domain in run.info.order:
            found[row.scale].append(row.value)
    return {scale: plain_sum(values) / len(values) for scale, values in sorted(found.items())}


def scale_table(records: Sequence[Record], *, metric: str = "iou", selection: Selection | None = None) -> DataFrame:
    """One row per protocol, conditions, method, its code and settings, the best first; means over runs.

    ``last``, ``ff`` and ``retention`` are those of the rule's own length. With ``_current`` they have, at each step,
    the length that the current domain's held-out images choose; with ``_seen`` those of all domains seen so far, which
    no continual method has: an oracle. ``scale_current`` and ``scale_seen`` are the choices after the last step, and
    ``last_at_<scale>`` is Last at each length. What a run lacks is NaN: methods that serve no single update have no
    length. ``differs`` is as in ``leaderboard``, and so is which of repeated runs counts. A run whose ``scales.csv``
    cannot be read is left out, and named in a note.

    Args:
        records: of all runs; those without ``--scales`` are left out.
        metric: of the scores shown; the choice is by IoU.
        selection: the runs to show; None: all.

    Raises:
        CosamError: no run was scored at several lengths, no metric has this name, or nothing is selected.
    """
    import pandas

    find_metric(metric)
    chosen = list(records) if selection is None else selection.of(records)
    chosen = [record for record in chosen if record.info.config.get("scales")]
    if not chosen:
        raise CosamError("No run here was scored at several lengths. Make one: cosam-bench run --scales --method opcm.")
    every_run, notes = measured_runs(chosen, metric=metric)
    figures, faults = _readable_figures(every_run)
    runs, repeated = without_repeats([run for run in every_run if run.record.folder in figures])
    notes += [*faults, *repeated]
    groups: dict[Key, list[Measured]] = defaultdict(list)
    for run in runs:
        groups[run.info.protocol, run.info.protocol_version, run.conditions, *run.variant].append(run)
    rows = [
        _row(key, members, code_mark(key, groups)) | _means([figures[run.record.folder] for run in members])
        for key, members in groups.items()
    ]
    curve = sorted({name for row in rows for name in row if name.startswith("last_at_")}, key=_scale_of)
    frame = pandas.DataFrame(rows, columns=[*_COLUMNS, *curve])
    best_is_lowest = not FIGURES["last"].prefers_high(metric)
    frame = frame.sort_values(
        ["protocol", "version", "differs", "conditions", "last", "method", "settings"],
        ascending=[True, True, True, True, best_is_lowest, True, True],
        ignore_index=True,
        kind="stable",
    )
    frame.attrs.update(metric=metric, notes=tuple(notes), curve=tuple(curve))
    return frame


_COLUMNS = (
    *("protocol", "version", "conditions", "method", "settings", "metric", "marks", "runs", "differs"),
    *SHOWN,
    *(f"{name}_{basis}" for basis in BASES for name in ("scale", *SHOWN)),
)


def _scale_of(column: str) -> float:
    return float(column.removeprefix("last_at_"))


def _row(key: Key, runs: Sequence[Measured], code: str) -> dict[str, Any]:
    marks = dict.fromkeys(mark for run in runs for mark in (*run.info.marks, code) if mark)
    protocol, version, conditions, method, settings, *_ = key
    return {
        "protocol": protocol,
        "version": version,
        "conditions": conditions,
        "method": method,
        "settings": settings,
        "metric": runs[0].matrix.metric,
        "marks": ", ".join(marks),
        "runs": len(runs),
        "differs": runs[0].differs,
    }


def _readable_figures(runs: Sequence[Measured]) -> tuple[dict[Path, dict[str, float]], list[str]]:
    """The numbers of each run by its folder, and a note for each run whose ``scales.csv`` cannot be read."""
    found, notes = {}, []
    for run in runs:
        try:
            found[run.record.folder] = _figures(run)
        except CosamError as error:
            notes.append(f"Left out: {error}")
    return found, notes


def _figures(run: Measured) -> dict[str, float]:
    """The numbers of one run."""
    scores = run.record.scale_scores()
    found = {name: FIGURES[name].of(run.matrix) for name in SHOWN}
    if not scores:
        return found
    for basis in BASES:
        try:
            scaled = scaled_matrix(run, scores, basis=basis)
        except CosamError as error:
            raise CosamError(f"{run.record.folder / SCALES_FILE}: {error}") from None
        found[f"scale_{basis}"] = scaled.scale
        found |= {f"{name}_{basis}": FIGURES[name].of(scaled.matrix) for name in SHOWN}
    return found | {f"last_at_{scale:g}": value for scale, value in last_by_scale(run, scores).items()}


def _means(runs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    names = dict.fromkeys(name for run in runs for name in run)
    return {name: plain_sum(run.get(name, math.nan) for run in runs) / len(runs) for name in names}
