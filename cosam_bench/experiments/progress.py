"""How far a run is: a bar on a terminal, a plain line now and then elsewhere. All on the standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self, TextIO

from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column

from cosam_bench.core.console import notes_console

_LINE_SECONDS = 20.0  # between two plain lines of one and the same activity
_SPEED_SECONDS = 300.0  # the bar's speed is a mean over these: one batch of a large model takes a minute


class BarReporter:
    """A bar with what is being done, the share done, and the time spent and left; gone when the run ends."""

    def __init__(self) -> None:
        self._progress = Progress(
            TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True, min_width=30)),
            BarColumn(bar_width=None),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=notes_console(),
            expand=True,
            transient=True,
            refresh_per_second=4,
            speed_estimate_period=_SPEED_SECONDS,
        )
        self._task = self._progress.add_task("", total=None)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._progress.stop()

    def begin(self, total: float) -> None:
        """A run of ``total`` units of work starts."""
        self._progress.update(self._task, total=total)

    def say(self, text: str) -> None:
        """Show what is being done now."""
        self._progress.update(self._task, description=text)

    def note(self, text: str) -> None:
        """Write a line above the bar."""
        self._progress.console.print(text, markup=False, highlight=False)

    def advance(self, units: float) -> None:
        """Move the bar."""
        self._progress.advance(self._task, units)


class LineReporter:
    """Plain lines: one for each new activity, and one every 20 seconds within one."""

    def __init__(self, stream: TextIO | None = None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream or sys.stderr
        self._clock = clock
        self._opened = self._begun = self._shown = clock()
        self._done = 0.0
        self._total = 0.0
        self._text = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        """Nothing is left open."""

    def begin(self, total: float) -> None:
        """A run of ``total`` units of work starts."""
        self._begun, self._total = self._clock(), total

    def say(self, text: str) -> None:
        """Write what is being done now."""
        self._text = text
        self._write()

    def note(self, text: str) -> None:
        """Write a line of its own."""
        print(text, file=self._stream, flush=True)

    def advance(self, units: float) -> None:
        """Write a line where the last one is old."""
        self._done += units
        if self._clock() - self._shown >= _LINE_SECONDS:
            self._write()

    def _write(self) -> None:
        self._shown = self._clock()
        parts = [spent(self._shown - self._opened), f"{self._share():4.0%}", f"{self._left():>12}", self._text]
        print("  ".join(parts).rstrip(), file=self._stream, flush=True)

    def _share(self) -> float:
        """At most 99 %: the total is an estimate, and a run is over when it says so."""
        return min(self._done / self._total, 0.99) if self._total else 0.0

    def _left(self) -> str:
        share, seconds = self._share(), self._shown - self._begun
        return f"{spent(seconds / share - seconds)} left" if share > 0 and seconds > 0 else ""


def spent(seconds: float) -> str:
    """A duration as people write it.

    >>> spent(75), spent(3675)
    ('1:15', '1:01:15')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def progress_reporter() -> BarReporter | LineReporter:
    """The reporter that suits the standard error; FORCE_COLOR alone makes no terminal of a log."""
    return BarReporter() if sys.stderr.isatty() and notes_console().is_interactive else LineReporter()
