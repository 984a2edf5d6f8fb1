"""``leaderboard``, ``compare`` and ``report``: what the runs of a folder say."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cosam_bench.api.arguments import SETTINGS, names, selection
from cosam_bench.core.argument_checks import checked_arguments
from cosam_bench.core.files import expanded

if TYPE_CHECKING:
    from pandas import DataFrame

    from cosam_bench.results.comparison import Comparison
    from cosam_bench.results.records import Record
    from cosam_bench.results.report.page import WrittenReport

COMPARED = "a method's name, or a record, its folder or its name"
ONLY_SEEDS = "a list of whole numbers, such as [0, 1]"
ONLY_ORDERS = """a list of orders, such as ["stream", "reverse"]"""


@checked_arguments(settings=SETTINGS, seeds=ONLY_SEEDS, orders=ONLY_ORDERS)
def leaderboard(
    results: str | Path = "results",
    *,
    metric: str = "iou",
    protocol: str | None = None,
    methods: str | Sequence[str] | None = None,
    models: str | Sequence[str] | None = None,
    settings: Mapping[str, object] | None = None,
    seeds: Sequence[int] | None = None,
    orders: Sequence[str | Sequence[str]] | None = None,
    domains: str | Sequence[str] | None = None,
    intervals: bool = True,
    level: float = 0.95,
    sort_by: str = "last",
    scales: bool = False,
) -> DataFrame:
    """All complete runs as one table: one row per method and settings under the same conditions, best first.

    Only rows with equal ``conditions`` compare. A record that cannot be read is left out with a warning.

    Args:
        results: the folder of records.
        metric: ``iou``, ``boundary_iou``, ``dice``, ``mae`` or ``pixel_error``.
        protocol: only records of this protocol; None: of all.
        methods: only these; None: all.
        models: only runs of these base models; None: of all.
        settings: only runs with these values, by their keys, such as ``{"adapter.rank": 4}``; None: all.
        seeds: only these; None: all.
        orders: only these: ``stream``, ``reverse``, ``random:N`` or the first domains, each; None: all.
        domains: only these are part of the figures' means; None: all.
        intervals: fill the columns of intervals and ranks, for which the scores of all images are read.
        level: the intervals' nominal coverage, in (0, 1).
        sort_by: a column; the best first, other columns ascending. ``-`` before it reverses the order.
        scales: instead what each merge of a run with ``scales`` scores at other lengths; docs/methods.md explains it.
            Domains, intervals, level and ``sort_by`` do not apply.

    Returns:
        The columns of the leaderboard's CSV, which docs/records.md explains; ``attrs["notes"]`` lists what a reader
        must be told.

    Raises:
        CosamError: there is no record, or none that was asked for, or no metric, column or domain has this name.
    """
    from cosam_bench.evaluation.figures import FIGURES
    from cosam_bench.results.results_folder import read_leaderboard, read_scale_table

    chosen = selection(protocol=protocol, methods=methods, models=models, settings=settings, seeds=seeds, orders=orders)
    if scales:
        frame = read_scale_table(expanded(results), metric=metric, selection=chosen)
    else:
        frame = read_leaderboard(
            expanded(results),
            metric=metric,
            selection=chosen,
            domains=None if domains is None else names(domains),
            intervals=tuple(FIGURES) if intervals else (),
            level=level,
            sort_by=sort_by,
        )
    for problem in frame.attrs["unreadable"]:
        warnings.warn(f"Left out: {problem}", stacklevel=3)  # of the caller, beyond the checks
    return frame


@checked_arguments(first=COMPARED, second=COMPARED)
def compare(
    first: Record | str | Path,
    second: Record | str | Path,
    *,
    results: str | Path = "results",
    figure: str = "last",
    metric: str = "iou",
    protocol: str | None = None,
    level: float = 0.95,
) -> Comparison:
    """The difference of a figure between two methods or records, paired by seed, order and image.

    Args:
        first: a method's name, or a record: itself, or as ``load_record`` takes it.
        second: likewise; the difference is first minus second.
        results: the folder of records.
        figure: ``last``, ``ff``, or another column of the leaderboard except ``ff_max`` and ``ff_max_all``.
        metric: ``iou``, ``boundary_iou``, ``dice``, ``mae`` or ``pixel_error``.
        protocol: only records of this protocol; None: of all.
        level: the intervals' nominal coverage, in (0, 1).

    Raises:
        CosamError: a name is unknown, the two were not measured under the same conditions, or they have no seed, order
            or image in common.
    """
    from cosam_bench.results.comparing import compare as compared
    from cosam_bench.results.records import Record

    one, other = (asked if isinstance(asked, Record) else str(asked) for asked in (first, second))
    return compared(one, other, results=expanded(results), figure=figure, metric=metric, protocol=protocol, level=level)


@checked_arguments(settings=SETTINGS, seeds=ONLY_SEEDS, orders=ONLY_ORDERS)
def report(
    results: str | Path = "results",
    *,
    out: str | Path | None = None,
    protocol: str | None = None,
    methods: str | Sequence[str] | None = None,
    models: str | Sequence[str] | None = None,
    settings: Mapping[str, object] | None = None,
    seeds: Sequence[int] | None = None,
    orders: Sequence[str | Sequence[str]] | None = None,
    metric: str = "iou",
    images: bool = True,
) -> WrittenReport:
    """Write the recorded runs as one HTML page that needs no network; docs/report.md describes it.

    Args:
        results: the folder of records.
        out: the file; None: ``report.html`` in ``results``.
        protocol: only records of this protocol; None: of all.
        methods: only these; None: all.
        models: only runs of these base models; None: of all.
        settings: only runs with these values, by their keys, such as ``{"adapter.rank": 4}``; None: all.
        seeds: only these; None: all.
        orders: only these: ``stream``, ``reverse``, ``random:N`` or the first domains, each; None: all.
        metric: ``iou``, ``boundary_iou``, ``dice``, ``mae`` or ``pixel_error``.
        images: False: leave out the thumbnails of test images, whose licences may forbid it.

    Returns:
        The file's ``path`` and ``size_bytes``, the numbers of ranked ``methods`` and ``incomplete`` runs, and
        ``unreadable``, one message per record that was left out.

    Raises:
        CosamError: there are no records or none that was asked for, no metric has this name, or the file cannot be
            written.
    """
    from cosam_bench.results.report.page import write_report

    file = None if out is None else expanded(out)
    chosen = selection(protocol=protocol, methods=methods, models=models, settings=settings, seeds=seeds, orders=orders)
    return write_report(expanded(results), file, selection=chosen, metric=metric, has_images=images)
