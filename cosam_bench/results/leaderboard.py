"""The leaderboard: one row a method and its settings under the same conditions, over seeds and orders."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cosam_bench.core.errors import unknown_name
from cosam_bench.core.files import write_atomically
from cosam_bench.evaluation.metrics import HIGHER_IS_BETTER
from cosam_bench.evaluation.score_matrix import ScoreMatrix, plasticity, summary
from cosam_bench.results.conditions import Measured, measured_runs
from cosam_bench.results.published import Published, published_rows
from cosam_bench.results.records import Record
from cosam_bench.results.run_info import RunInfo

if TYPE_CHECKING:
    from pandas import DataFrame

FIGURES: tuple[str, ...] = (
    "last",
    "avg",
    "ff",
    "ff_max",
    "bwt",
    "fwt",
    "fm",
    "ft",
    "diagonal",
    "plasticity",
    "retention",
    "retention_drop",
    "frozen",
)
KEY: tuple[str, ...] = ("protocol", "version", "conditions", "method", "settings")
COUNTS: tuple[str, ...] = ("origin", "metric", "marks", "runs", "seeds", "orders")
COSTS: tuple[str, ...] = (
    "train_seconds",
    "merge_seconds",
    "peak_memory_mib",
    "state_kib",
    "state_grows",
    "encoder_passes",
    "trainable_parameters",
)
COLUMNS: tuple[str, ...] = (
    *KEY,
    *COUNTS,
    *(column for figure in FIGURES for column in (figure, f"{figure}_std")),
    *COSTS,
)


def leaderboard(records: Sequence[Record], *, metric: str = "iou", published: Sequence[Published] = ()) -> DataFrame:
    """One row a protocol, conditions, method and settings; within one set of conditions the best Last first.

    Each figure is the mean over the complete runs, ``<figure>_std`` the sample deviation (empty for one run);
    a figure that one of the runs lacks is empty. Costs are means; ``state_kib`` is the size after the last
    step, ``state_grows`` says whether it ever exceeds that after step 2. Plasticity needs the record of
    ``experts`` with the same conditions, seed and order. Only rows with the same ``conditions`` compare.
    ``settings`` is JSON.

    Rows of ``published`` numbers follow those that were measured, with ``published`` as their origin, conditions
    and mark. They have part in no mean and no order of measured rows.

    Returns:
        The columns of ``COLUMNS``; ``attrs`` holds ``metric``, ``notes``, what a reader must be told, and
        ``published``, by a protocol's name the protocol of the published rows that belong beside its runs.

    Raises:
        CosamError: no metric has this name.
    """
    import pandas

    if metric not in HIGHER_IS_BETTER:
        raise unknown_name("metric", metric, HIGHER_IS_BETTER)
    runs, notes = measured_runs(records, metric=metric)
    experts = _experts(runs)
    groups: dict[tuple[str, int, str, str, str], list[Measured]] = defaultdict(list)
    for run in runs:
        groups[_key(run)].append(run)
    rows = [
        dict(zip(KEY, key, strict=True)) | _row([_figures(run, experts) for run in members], members)
        for key, members in groups.items()
    ]
    frame = pandas.DataFrame([*rows, *published_rows(published, metric=metric)], columns=list(COLUMNS))
    whole = ["trainable_parameters", *(["version", "runs", "seeds", "orders"] if published else [])]
    frame[whole] = frame[whole].astype("Int64")  # whole numbers that may be missing
    order = ["origin", "protocol", "version", "conditions", "last", "method", "settings"]
    up = [name != "last" or not HIGHER_IS_BETTER[metric] for name in order]
    frame = frame.sort_values(order, ascending=up, ignore_index=True, kind="stable")
    frame.attrs.update(metric=metric, notes=(*notes, *_uneven(groups), *_machines(runs)))
    frame.attrs.update(published={name: one.protocol for one in published for name in one.protocols})
    return frame


def write_leaderboard(frame: DataFrame, path: Path) -> None:
    """Write the leaderboard as CSV in full precision; what is undefined is empty.

    Raises:
        CosamError: the file cannot be written; it is then as it was before.
    """
    write_atomically(path, frame.to_csv(index=False, lineterminator="\n"))


def _key(run: Measured) -> tuple[str, int, str, str, str]:
    info = run.info
    settings = json.dumps(info.settings, sort_keys=True)
    return info.protocol, info.protocol_version, run.conditions, info.method, settings


_Place = tuple[str, str, int, tuple[str, ...]]


def _place(run: Measured) -> _Place:
    return run.info.protocol, run.conditions, run.info.seed, run.info.order


def _experts(runs: Iterable[Measured]) -> dict[_Place, ScoreMatrix]:
    """The experts' scores by conditions, seed and order; left out where several runs claim one place."""
    found: dict[_Place, list[ScoreMatrix]] = defaultdict(list)
    for run in runs:
        if run.info.method == "experts":
            found[_place(run)].append(run.matrix)
    return {place: matrices[0] for place, matrices in found.items() if len(matrices) == 1}


def _figures(run: Measured, experts: Mapping[_Place, ScoreMatrix]) -> dict[str, float]:
    expert = experts.get(_place(run))
    lost = math.nan if expert is None else plasticity(run.matrix, expert)
    return summary(run.matrix) | {"plasticity": lost} | _costs(run.info)


def _costs(info: RunInfo) -> dict[str, float]:
    cost = info.cost
    peak, parameters = cost.peak_memory_bytes, cost.trainable_parameters
    return {
        "train_seconds": cost.total_train_seconds,
        "merge_seconds": cost.total_merge_seconds,
        "peak_memory_mib": math.nan if peak is None else peak / 2**20,
        "state_kib": cost.state_bytes[-1] / 2**10 if cost.state_bytes else math.nan,
        "encoder_passes": cost.encoder_passes_per_image,
        "trainable_parameters": math.nan if parameters is None else float(parameters),
    }


def _row(figures: Sequence[Mapping[str, float]], runs: Sequence[Measured]) -> dict[str, Any]:
    infos = [run.info for run in runs]
    row: dict[str, Any] = {
        "origin": "measured",
        "metric": runs[0].matrix.metric,
        "marks": ", ".join(dict.fromkeys(mark for info in infos for mark in info.marks)),
        "runs": len(infos),
        "seeds": len({info.seed for info in infos}),
        "orders": len({info.order for info in infos}),
        "state_grows": _grows(infos),
    }
    for name in FIGURES:
        values = [one[name] for one in figures]
        row[name], row[f"{name}_std"] = _mean(values), _deviation(values)
    return row | {name: _mean([one[name] for one in figures]) for name in COSTS if name != "state_grows"}


def _grows(infos: Iterable[RunInfo]) -> str:
    found = {info.cost.state_grows for info in infos} - {None}
    return "" if not found else "yes" if True in found else "no"


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _deviation(values: Sequence[float]) -> float:
    if len(values) < 2:
        return math.nan
    mean = _mean(values)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))


def _uneven(groups: Mapping[tuple[str, int, str, str, str], Sequence[Measured]]) -> list[str]:
    """Notes on the tables whose rows do not rest on the same seeds and orders, each once."""
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
                f"{table}: not all rows rest on the same seeds and orders: of {len(places)} pairs, {', '.join(short)}."
            )
        twice = [name for name, row in rows.items() if len(set(row)) < len(row)]
        if twice:
            notes.append(f"{table}: some runs repeat a seed and order, so deviations are low: {', '.join(twice)}.")
    return notes


def _machines(runs: Iterable[Measured]) -> list[str]:
    machines = {json.dumps([run.info.device, run.info.hardware], sort_keys=True) for run in runs}
    if len(machines) < 2:
        return []
    return [f"The runs come from {len(machines)} machines or devices: seconds and memory do not compare."]
