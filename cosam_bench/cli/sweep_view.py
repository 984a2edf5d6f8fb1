"""How far a sweep is, as a table; on a terminal it is kept up to date while the sweep runs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from cosam_bench.core.console import notes_console, plain_table
from cosam_bench.core.errors import CosamError

if TYPE_CHECKING:
    from rich.console import Group

    from cosam_bench.sweeps.estimate import Estimate
    from cosam_bench.sweeps.status import Status

_SECONDS = 2.0  # between two looks at the files
_STORE_SECONDS = 15.0  # at those in a store, which takes one request per thousand
_UNITS = ((3600, "h"), (60, "min"), (1, "s"))
_SHOWN = 10  # rows of the leaderboard, running tasks and failures on one screen


@contextmanager
def live_view(place: Path | str) -> Iterator[None]:
    """The state of the sweep that runs, below what is printed; nothing unless on a terminal.

    Args:
        place: the folder of records, or the address of a store.
    """
    if not sys.stderr.isatty():
        yield
        return
    from rich.live import Live

    from cosam_bench.sweeps.status import StatusReader

    read = _steady(StatusReader(place).read)
    seconds = _SECONDS if isinstance(place, Path) else _STORE_SECONDS
    with Live(
        get_renderable=read,
        console=notes_console(),
        refresh_per_second=1 / seconds,
        transient=True,
    ):
        yield


def _steady(read: Callable[[], Status]) -> Callable[[], Group | str]:
    """The state of a sweep as a table; as it was if the store does not answer, for that thread may not fail."""
    last: list[Group] = []

    def shown() -> Group | str:
        with suppress(CosamError):
            last[:] = [status_view(read())]
        return last[0] if last else ""

    return shown


def status_view(status: Status) -> Group:
    """The state of a sweep: its tasks, the time left, what runs, what failed, and the leaderboard as it fills."""
    from rich.console import Group
    from rich.text import Text

    from cosam_bench.sweeps.status import STATES

    tasks = plain_table("task", *STATES)
    for kind, counts in status.counts.items():
        tasks.add_row(kind, *(f"{counts.get(state, 0):,}" for state in STATES))
    parts: list[object] = [tasks, Text(_left(status))]
    parts += [Text(f"Running: {words}") for words in status.running[:_SHOWN]]
    parts += [Text(f"Failed: {words}: {reason}") for words, reason in [*status.failed.items()][:_SHOWN]]
    if hidden := max(0, len(status.failed) - _SHOWN):
        parts.append(Text(f"{hidden:,} more tasks failed."))
    if status.standings:
        with_settings = any(one.settings for one in status.standings)
        leaders = plain_table("method", "model", *(["settings"] if with_settings else []), "runs", "iou")
        for one in status.standings[:_SHOWN]:
            settings = [one.settings] if with_settings else []
            leaders.add_row(one.method, one.model, *settings, f"{one.runs:,}", f"{100 * one.iou:.1f}")
        parts += [Text(""), leaders]
    return Group(*parts)  # type: ignore[arg-type]  # rich's protocol of what it can print is not a base class


def _left(status: Status) -> str:
    if not status.count("waiting", "running"):
        return "Nothing is left to do."
    return f"Left: {shown_time(status.left, processes=status.workers)} in {status.workers} processes."


def shown_time(estimate: Estimate, *, processes: int = 1) -> str:
    """The seconds of an estimate, divided among processes, and what is not part of it."""
    if not estimate.known:
        return "not measured yet" if estimate.unknown else "none"
    seconds = estimate.seconds / processes
    size, unit = next((size, unit) for size, unit in _UNITS if seconds >= 10 * size or size == 1)
    text = f"{seconds / size:.0f} {unit}"
    return f"{text} and {estimate.unknown:,} tasks not measured yet" if estimate.unknown else text
