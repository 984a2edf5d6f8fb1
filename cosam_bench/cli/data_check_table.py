"""How ``cosam-bench data check`` shows what it has found."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cosam_bench.core.console import plain_table, results_console

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table

    from cosam_bench.data.acquire.check import Report

_SHOWN = 5  # faults of one kind


def show_reports(reports: Sequence[Report], between: Sequence[str]) -> None:
    """Print one row a domain, and below all that is wrong or worth knowing.

    Args:
        reports: in the order of their rows.
        between: faults that concern several domains.
    """
    from cosam_bench.data.acquire.check import KINDS

    console = results_console()
    kinds = [kind for kind in KINDS if any(one.faults[kind] for one in reports)]
    table = _table(reports, kinds)
    wide = console.options.update(width=10 * console.width)  # else a table says that it has room everywhere
    if console.measure(table, options=wide).maximum > console.width:
        table = _table(reports, [])
    console.print(table)
    for one in reports:
        _show_faults(console, one)
    for fault in between:
        _line(console, "between domains", fault, style="bold red")


def _table(reports: Sequence[Report], kinds: Sequence[str]) -> Table:
    """A row a domain, with a column for each kind of fault, or one for all where no kinds are given."""
    table = plain_table("domain", "layout", "found", "stated", "samples", *(kinds or ["faults"]), "split")
    for one in reports:
        table.add_row(*_cells(one, kinds))
    return table


def _cells(one: Report, kinds: Sequence[str]) -> list[RenderableType]:
    from rich.text import Text

    found = f"{one.train}/{one.test}" if one.layout else "missing"
    stated = f"{one.expected.train}/{one.expected.test}" if one.expected else ""
    counts = [len(one.faults[kind]) for kind in kinds] if kinds else [one.fault_count]
    cells = [Text(f"{count}", style="bold red" if count else "green") for count in counts]
    return [one.name, one.layout, found, stated, f"{one.samples}", *cells, one.digest[:12]]


def _show_faults(console: Console, one: Report) -> None:
    from cosam_bench.data.acquire.check import KINDS

    for kind, meaning in KINDS.items():
        faults = one.faults[kind]
        if not faults:
            continue
        _line(console, one.name, f"{meaning}: {len(faults)}", style="bold red")
        for fault in faults[:_SHOWN]:
            console.print(f"  {legible(fault)}", soft_wrap=True)
        if len(faults) > _SHOWN:
            console.print(f"  and {len(faults) - _SHOWN} more")
    for note in one.notes[:_SHOWN]:
        _line(console, one.name, note, style="bold")
    if len(one.notes) > _SHOWN:
        _line(console, one.name, f"and {len(one.notes) - _SHOWN} more notes", style="bold")


def _line(console: Console, head: str, text: str, *, style: str) -> None:
    from rich.text import Text

    console.print(Text.assemble((f"{head}: ", style), legible(text)), soft_wrap=True)


def legible(text: str) -> str:
    r"""A text with what no terminal should be sent escaped: control characters, bytes of names that are not UTF-8.

    >>> print(legible("caf\xe9 \x1b[31m"))
    café \x1b[31m
    """
    return "".join(sign if sign.isprintable() or sign == "\n" else ascii(sign)[1:-1] for sign in text)
