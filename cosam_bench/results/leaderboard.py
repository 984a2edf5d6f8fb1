"""The leaderboard: one row per method, settings and conditions, over seeds and orders."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cosam_bench.core.files import write_atomically
from cosam_bench.evaluation.figures import FIGURES
from cosam_bench.evaluation.metrics import find_metric
from cosam_bench.evaluation.score_matrix import ScoreMatrix
from cosam_bench.results.conditions import Measured, measured_runs
from cosam_bench.results.costs import COSTS
from cosam_bench.results.published import Published, leaderboard_rows
from cosam_bench.results.records import Record

if TYPE_CHECKING:
    from pandas import DataFrame

KEY: tuple[str, ...] = ("protocol", "version", "conditions", "method", "settings")
COUNTS: tuple[str, ...] = ("origin", "metric", "marks", "runs", "seeds", "orders")
COLUMNS: tuple[str, ...] = (
    *KEY,
    *COUNTS,
    *(column for figure in FIGURES for column in (figure, f"{figure}_std")),
    *COSTS,
)


def leaderboard(records: Sequence[Record], *, metric: str = "iou", published: Sequence[Published] = ()) -> DataFrame:
    """One row per protocol, conditions, method and settings; within one set of conditions the best Last first.

    Each figure is the mean over the complete runs, ``<figure>_std`` the sample deviation (empty for one run);
    a figure that one of the runs lacks is empty. Costs are combined as ``COSTS`` says. Figures that need the
    experts take the record of ``experts`` with the same conditions, seed and order. Compare only rows with the
    same ``conditions``. ``settings`` is JSON.

    Rows of ``published`` numbers follow the measured ones, with ``published`` as their origin, conditions and
    mark. They enter no mean and do not affect the order of measured rows.

    Returns:
        The columns of ``COLUMNS``; ``attrs`` holds ``metric``, ``notes`` for the reader, and ``published``, which
        maps a protocol's name to the protocol of the published rows that belong beside its runs.

    Raises:
        CosamError: no metric has this name.
    """
    import pandas

    lower_is_better = find_metric(metric).better == "lower"
    runs, notes = measured_runs(records, metric=metric)
    experts = _experts(runs)
    groups: dict[_Key, list[Measured]] = defaultdict(list)
    for run in runs:
        groups[_key(run)].append(run)
    rows = [dict(zip(KEY, key, strict=True)) | _row(members, experts) for key, members in groups.items()]
    frame = pandas.DataFrame([*rows, *leaderboard_rows(published, metric=metric)], columns=list(COLUMNS))
    counts = [name for name, column in COSTS.items() if column.kind == "count"]
    counts += ["version", "runs", "seeds", "orders"] if published else []
    frame[counts] = frame[counts].astype("Int64")  # whole numbers that may be missing
    order = ["origin", "protocol", "version", "conditions", "last", "method", "settings"]
    ascending = [name != "last" or lower_is_better for name in order]
    frame = frame.sort_values(order, ascending=ascending, ignore_index=True, kind="stable")
    frame.attrs.update(metric=metric, notes=(*notes, *_uneven(groups), *_machines(runs)))
    frame.attrs.update(published={name: one.protocol for one in published for name in one.protocols})
    return frame


def write_leaderboard(frame: DataFrame, path: Path) -> None:
    """Write the leaderboard as CSV in full precision; undefined values are empty.

    Raises:
        CosamError: the file cannot be written; it is then unchanged.
    """
    write_atomically(path, frame.to_csv(index=False, lineterminator="\n"))


_Key = tuple[str, int, str, str, str]
_Place = tuple[str, str, int, tuple[str, ...]]


def _key(run: Measured) -> _Key:
    info = run.info
    settings = json.dumps(info.settings, sort_keys=True)
    return info.protocol, info.protocol_version, run.conditions, info.method, settings


def _place(run: Measured) -> _Place:
    return run.info.protocol, run.conditions, run.info.seed, run.info.order


def _experts(runs: Iterable[Measured]) -> dict[_Place, ScoreMatrix]:
    """The experts' scores by conditions, seed and order; left out if several runs claim one place."""
    found: dict[_Place, list[ScoreMatrix]] = defaultdict(list)
    for run in runs:
        if run.info.method == "experts":
            found[_place(run)].append(run.matrix)
    return {place: matrices[0] for place, matrices in found.items() if len(matrices) == 1}


def _row(runs: Sequence[Measured], experts: Mapping[_Place, ScoreMatrix]) -> dict[str, Any]:
    infos = [run.info for run in runs]
    row: dict[str, Any] = {
        "origin": "measured",
        "metric": runs[0].matrix.metric,
        "marks": ", ".join(dict.fromkeys(mark for info in infos for mark in info.marks)),
        "runs": len(infos),
        "seeds": len({info.seed for info in infos}),
        "orders": len({info.order for info in infos}),
    }
    for name, figure in FIGURES.items():
        values = [figure.of(run.matrix, experts=experts.get(_place(run))) for run in runs]
        row[name], row[f"{name}_std"] = _mean(values), _deviation(values)
    return row | {name: column.combined([info.cost for info in infos]) for name, column in COSTS.items()}


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _deviation(values: Sequence[float]) -> float:
    if len(values) < 2:
        return math.nan
    mean = _mean(values)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))


def _uneven(groups: Mapping[_Key, Sequence[Measured]]) -> list[str]:
    """One note for each table whose rows do not share the same seeds and orders, or repeat them."""
    tables: dict[str, dict[str, list[_Place]]] = defaultdict(dict)
    for (protocol, _, conditions, method, settings), members in groups.items():
        row = method if settings == "{}" else f"{method} {settings}"
        tables[f"{protocol} {conditions}"][row] = [_place(run) for run in members]
    notes = []
    for table, rows in tables.items():
        places = {place for row in rows.values() for place in row}
        short = [f"{name} {len(set(row))}" for name, row in rows.items() if len(set(row)) < len(places)]
        if short:
            notes.append(
                f"{table}: not all rows cover the same seeds and orders; of {len(places)} pairs: {', '.join(short)}."
            )
        twice = [name for name, row in rows.items() if len(set(row)) < len(row)]
        if twice:
            notes.append(f"{table}: some runs repeat a seed and order, so deviations are too low: {', '.join(twice)}.")
    return notes


def _machines(runs: Iterable[Measured]) -> list[str]:
    machines = {json.dumps([run.info.device, run.info.hardware], sort_keys=True) for run in runs}
    if len(machines) < 2:
        return []
    return [f"The runs come from {len(machines)} machines or devices; do not compare seconds and memory."]
