"""The output of ``cosam-bench data check``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cosam_bench.core.console import plain_table, results_console

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table

    from cosam_bench.data.acquire.check import DomainReport

_SHOWN = 5  # faults of one kind


def show_reports(reports: Sequence[DomainReport], leaks: Sequence[str], alike: Sequence[str]) -> None:
    """Print one row per domain, and below them all faults and notes.

    Args:
        reports: in the order of their rows.
        leaks: faults between domains.
        alike: notes on images of different domains that look the same.
    """
    from cosam_bench.data.acquire.check import KINDS

    console = results_console()
    kinds = [kind for kind in KINDS if any(report.faults[kind] for report in reports)]
    table = _table(reports, kinds)
    wide = console.options.update(width=10 * console.width)  # or a table would claim to fit everywhere
    if console.measure(table, options=wide).maximum > console.width:
        table = _table(reports, [])
    console.print(table)
    for report in reports:
        _show_faults(console, report)
    for fault in leaks:
        _line(console, "between domains", fault, style="bold red")
    for note in alike:
        _line(console, "between domains", note, style="bold")


def _table(reports: Sequence[DomainReport], kinds: Sequence[str]) -> Table:
    """A row per domain, with a column per kind of fault, or one column for all if no kinds are given."""
    table = plain_table("domain", "layout", "found", "stated", "samples", *(kinds or ["faults"]), "split")
    for report in reports:
        table.add_row(*_cells(report, kinds))
    return table


def _cells(report: DomainReport, kinds: Sequence[str]) -> list[RenderableType]:
    from rich.text import Text

    found = f"{report.train}/{report.test}" if report.layout else "missing"
    stated = f"{report.expected.train}/{report.expected.test}" if report.expected else ""
    counts = [len(report.faults[kind]) for kind in kinds] if kinds else [report.fault_count]
    cells = [Text(f"{count}", style="bold red" if count else "green") for count in counts]
    return [report.name, report.layout, found, stated, f"{report.samples}", *cells, report.digest[:12]]


def _show_faults(console: Console, report: DomainReport) -> None:
    from cosam_bench.data.acquire.check import KINDS

    for kind, meaning in KINDS.items():
        faults = report.faults[kind]
        if not faults:
            continue
        _line(console, report.name, f"{meaning}: {len(faults)}", style="bold red")
        for fault in faults[:_SHOWN]:
            console.print(f"  {legible(fault)}", soft_wrap=True)
        if len(faults) > _SHOWN:
            console.print(f"  and {len(faults) - _SHOWN} more")
    for note in report.notes[:_SHOWN]:
        _line(console, report.name, note, style="bold")
    if len(report.notes) > _SHOWN:
        _line(console, report.name, f"and {len(report.notes) - _SHOWN} more notes", style="bold")


def _line(console: Console, head: str, text: str, *, style: str) -> None:
    from rich.text import Text

    console.print(Text.assemble((f"{head}: ", style), legible(text)), soft_wrap=True)


def legible(text: str) -> str:
    r"""A text whose control characters and bytes that are not UTF-8 are escaped.

    >>> print(legible("caf\xe9 \x1b[31m"))
    café \x1b[31m
    """
    return "".join(char if char.isprintable() or char == "\n" else ascii(char)[1:-1] for char in text)
