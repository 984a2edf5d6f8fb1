"""The leaderboard: one row per method, its code, settings and conditions, over seeds and orders."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cosam_bench.core.errors import CosamError, refuse_twice, unknown_name
from cosam_bench.evaluation.figures import FIGURES
from cosam_bench.evaluation.metrics import find_metric
from cosam_bench.results.cell_text import code_mark
from cosam_bench.results.conditions import Measured, measured_runs
from cosam_bench.results.costs import COSTS
from cosam_bench.results.leaderboard_notes import Key, notes_on_rows
from cosam_bench.results.prompt_gaps import prompt_notes
from cosam_bench.results.published import Published, leaderboard_rows
from cosam_bench.results.records import Record
from cosam_bench.results.row_intervals import (
    RANKED_BY,
    RowIntervals,
    by_start,
    check_level,
    has_fair_marks,
    place_of,
    read_table_scores,
    table_intervals,
    without_repeats,
)
from cosam_bench.results.selection import Selection, model_name

if TYPE_CHECKING:
    from pandas import DataFrame

KEY: tuple[str, ...] = ("protocol", "version", "conditions", "method", "settings")
COUNTS: tuple[str, ...] = ("origin", "metric", "marks", "runs", "seeds", "orders")
RANKS: tuple[str, ...] = ("rank_best", "rank_worst", "interval_runs", "interval_basis")
COLUMNS: tuple[str, ...] = (
    *KEY,
    *COUNTS,
    *(column for figure in FIGURES for column in (figure, f"{figure}_std")),
    *COSTS,
    *(column for figure in FIGURES for column in (f"{figure}_low", f"{figure}_high")),
    *RANKS,
    "model",
    "differs",
    "budget",
    "tuned",
)


def leaderboard(
    records: Sequence[Record],
    *,
    metric: str = "iou",
    published: Sequence[Published] = (),
    selection: Selection | None = None,
    domains: Sequence[str] | None = None,
    intervals: Collection[str] = (),
    level: float = 0.95,
    sort_by: str = RANKED_BY,
) -> DataFrame:
    """One row per protocol, conditions, method, its code, settings and tuning; within equal conditions the best first.

    Each figure is the mean over the complete runs, ``<figure>_std`` the sample deviation (empty for one run);
    a figure that one of the runs lacks is empty. Costs are combined as ``COSTS`` says. Figures that need the
    experts take the record of ``experts`` with the same conditions, seed and order. Compare only rows with the
    same ``conditions``. ``settings`` is JSON.

    ``<figure>_low`` and ``<figure>_high`` are the ends of its interval, ``rank_best`` and ``rank_worst`` those of the
    rank interval by the figure that sorts the table (by Last, if a figure that is not linear or another column does).
    Both are computed from the scores of single images, and empty if these are missing. ``interval_basis`` is
    ``images`` for one run: such an interval says nothing about the seed.

    Of several runs of one row with the same seed and order only the one that was started last counts; a note names the
    others.

    ``differs`` says in what the runs differ from the protocol, see ``protocol_match``; it is empty for the protocol's
    own, which come first, and only beside which published rows belong. ``budget`` is the card's, and empty for
    records that do not say. ``tuned`` is the budget of tuning, empty for settings that were not tuned.

    Rows of ``published`` numbers follow the measured ones, with ``published`` as their origin, conditions and
    mark. They enter no mean and do not affect the order of measured rows.

    Args:
        records: of all runs; those of ``experts`` are needed for plasticity even if they are not shown.
        metric: of the scores.
        published: numbers from papers.
        selection: the runs to show; None: all.
        domains: only these are part of the figures' means; None: all.
        intervals: the names of the figures that get an interval; without any there are no ranks either.
        level: the intervals' nominal coverage, in (0, 1).
        sort_by: a column; the best first, other columns ascending. ``-`` before it reverses the order.

    Returns:
        The columns of ``COLUMNS``; ``attrs`` holds ``metric``, ``notes`` for the reader, ``sort_by``, ``ranked_by``,
        ``domains`` and ``level``, and ``published``, which maps a protocol's name to the protocol of the published
        rows that belong beside its runs.

    Raises:
        CosamError: no metric, column or domain has this name, nothing is selected, the level is not in (0, 1), or
            published numbers are asked for by domain.
    """
    ascending = _is_ascending(sort_by, metric)
    _check(level, domains, published)
    chosen = list(records) if selection is None else selection.of(records)
    every_run, notes = measured_runs(chosen, metric=metric)
    runs, repeated = without_repeats(every_run)
    notes += repeated
    _check_domains(domains, runs)
    experts = _experts(records, every_run, metric)
    groups: dict[Key, list[Measured]] = defaultdict(list)
    for run in runs:
        groups[_key(run)].append(run)
    rows = {key: dict(zip(KEY, key, strict=False)) | _row(members, experts, domains) for key, members in groups.items()}
    for key, row in rows.items():
        row["marks"] = ", ".join(filter(None, (str(row["marks"]), code_mark(key, groups))))
    column = sort_by.removeprefix("-")
    ranked_by = column if column in FIGURES and FIGURES[column].is_linear else RANKED_BY
    if intervals:
        notes += _add_intervals(
            rows, groups, experts, figures=intervals, ranked_by=ranked_by, domains=domains, level=level
        )
    frame = _frame([*rows.values(), *leaderboard_rows(published, metric=metric)], has_published=bool(published))
    order = list(dict.fromkeys([*_TABLE, column, "method", "settings"]))
    directions = [ascending if name == column else True for name in order]
    frame = frame.sort_values(order, ascending=directions, ignore_index=True, kind="stable")
    frame.attrs.update(metric=metric, notes=(*notes, *notes_on_rows(groups), *prompt_notes(runs, domains=domains)))
    frame.attrs.update(published={name: one.protocol for one in published for name in one.protocols})
    frame.attrs.update(sort_by=sort_by, ranked_by=ranked_by, level=level, domains=tuple(domains or ()))
    return frame


def _is_ascending(sort_by: str, metric: str) -> bool:
    """Whether the table begins with the column's lowest value."""
    find_metric(metric)
    column = sort_by.removeprefix("-")
    if column not in COLUMNS:
        raise unknown_name("column of the leaderboard", column, COLUMNS)
    figure = FIGURES.get(column.removesuffix("_low").removesuffix("_high"))
    best_is_lowest = figure is None or not figure.prefers_high(metric)
    return best_is_lowest != sort_by.startswith("-")


def _check(level: float, domains: Sequence[str] | None, published: Sequence[Published]) -> None:
    check_level(level)
    if domains is not None and not domains:
        raise CosamError("No domain is named. Name at least one, or leave the choice of domains out.")
    refuse_twice("domain", domains or ())
    if domains and published:
        raise CosamError("Published numbers are means over all domains. Leave out them or the choice of domains.")


def _check_domains(domains: Sequence[str] | None, runs: Sequence[Measured]) -> None:
    for run in runs:
        for name in domains or ():
            if name not in run.matrix.columns:
                raise unknown_name(f"domain in the records of {run.info.protocol!r}", name, run.matrix.columns)


def _frame(rows: Sequence[Mapping[str, Any]], *, has_published: bool) -> DataFrame:
    import pandas

    frame = pandas.DataFrame(rows, columns=list(COLUMNS))
    counts = [name for name, column in COSTS.items() if column.kind == "count"]
    counts += ["rank_best", "rank_worst", "interval_runs"]
    counts += ["version", "runs", "seeds", "orders"] if has_published else []
    frame[counts] = frame[counts].astype("Int64")  # whole numbers that may be missing
    numbers = [column for figure in FIGURES for column in (f"{figure}_low", f"{figure}_high")]
    frame[numbers] = frame[numbers].astype("float64")
    return frame


def _add_intervals(
    rows: Mapping[Key, dict[str, Any]],
    groups: Mapping[Key, Sequence[Measured]],
    experts: Mapping[_Place, Measured],
    *,
    figures: Collection[str],
    ranked_by: str,
    domains: Sequence[str] | None,
    level: float,
) -> list[str]:
    """Write intervals and ranks into the rows, one table of comparable rows at a time; return notes."""
    tables: dict[tuple[str, int, str], list[Key]] = defaultdict(list)
    for key in rows:
        tables[key[:3]].append(key)
    needs_experts = any(FIGURES[name].needs_experts for name in (*figures, ranked_by))
    notes: list[str] = []
    for table, keys in tables.items():
        others = [run for place, run in experts.items() if place[:2] == (table[0], table[2]) and needs_experts]
        runs = {run.record.folder: run for run in (*(run for key in keys for run in groups[key]), *others)}
        scores, faults = read_table_scores(list(runs.values()), metric=rows[keys[0]]["metric"])
        notes += [f"No interval for a row: {fault}" for fault in faults]
        readable = [key for key in keys if all(run.record.folder in scores for run in groups[key])]
        found = table_intervals(
            [[scores[run.record.folder] for run in groups[key]] for key in readable],
            is_ranked=[has_fair_marks(groups[key]) for key in readable],
            experts={place_of(run): scores[run.record.folder] for run in others if run.record.folder in scores},
            figures=figures,
            ranked_by=ranked_by,
            domains=domains,
            level=level,
        )
        for key, row in zip(readable, found, strict=True):
            rows[key].update(_interval_columns(row, runs=len(groups[key])))
    return notes


def _interval_columns(row: RowIntervals, *, runs: int) -> dict[str, Any]:
    known = [interval.basis for interval in row.figures.values() if interval.basis != "none"]
    columns: dict[str, Any] = {"interval_runs": runs, "interval_basis": known[0] if known else "none"}
    for name, interval in row.figures.items():
        columns |= {f"{name}_low": interval.low, f"{name}_high": interval.high}
    if row.rank is not None:
        columns |= {"rank_best": row.rank.best, "rank_worst": row.rank.worst}
    return columns


_TABLE = ("origin", "protocol", "version", "differs", "conditions")
_Place = tuple[str, str, int, tuple[str, ...]]


def _key(run: Measured) -> Key:
    info = run.info
    return info.protocol, info.protocol_version, run.conditions, *run.variant


def _place(run: Measured) -> _Place:
    return run.info.protocol, run.conditions, run.info.seed, run.info.order


def _experts(records: Sequence[Record], shown: Sequence[Measured], metric: str) -> dict[_Place, Measured]:
    """The runs of ``experts`` by conditions, seed and order; of several, the one that was started last."""
    read = {run.record.name for run in shown}
    others = [record for record in records if record.info.method == "experts" and record.name not in read]
    runs = [*(run for run in shown if run.info.method == "experts"), *measured_runs(others, metric=metric)[0]]
    return {_place(run): run for run in by_start(runs)}


def _row(runs: Sequence[Measured], experts: Mapping[_Place, Measured], domains: Sequence[str] | None) -> dict[str, Any]:
    infos = [run.info for run in runs]
    row: dict[str, Any] = {
        "origin": "measured",
        "metric": runs[0].matrix.metric,
        "marks": ", ".join(dict.fromkeys(mark for info in infos for mark in info.marks)),
        "runs": len(infos),
        "seeds": len({info.seed for info in infos}),
        "orders": len({info.order for info in infos}),
        "model": ", ".join(dict.fromkeys(filter(None, map(model_name, infos)))),
        "differs": runs[0].differs,
        "budget": ", ".join(dict.fromkeys(info.budget for info in infos if info.budget)),
        "tuned": infos[0].tuned,
    }
    matrices = [run.matrix if domains is None else run.matrix.only(domains) for run in runs]
    theirs = [None if (found := experts.get(_place(run))) is None else found.matrix for run in runs]
    for name, figure in FIGURES.items():
        values = [figure.of(matrix, experts=other) for matrix, other in zip(matrices, theirs, strict=True)]
        row[name], row[f"{name}_std"] = _mean(values), _deviation(values)
    return row | {name: column.combined([info.cost for info in infos]) for name, column in COSTS.items()}


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _deviation(values: Sequence[float]) -> float:
    if len(values) < 2:
        return math.nan
    mean = _mean(values)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))
