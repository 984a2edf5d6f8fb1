"""Progress of a run: a bar on a terminal or in a notebook, plain lines elsewhere, or nothing. All on standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self, TextIO

from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column

from cosam_bench.core.console import notes_console
from cosam_bench.core.terminal_text import terminal_text

if TYPE_CHECKING:
    from cosam_bench.training.fit import TrainingStep

    StepHook = Callable[[TrainingStep], None]

_LINE_SECONDS = 20.0  # between two plain lines about the same activity
_SPEED_SECONDS = 300.0  # the bar's speed is a mean over this time: one batch of a large model takes a minute


class Reporter(Protocol):
    """Shows the progress of one run; the runner calls it.

    Attributes:
        on_step: called after each step of an adapter's training; None: steps are not reported.
    """

    on_step: StepHook | None

    def begin(self, total: float) -> None:
        """A run of about ``total`` units of work starts; one unit is an encoder pass over one image."""

    def say(self, text: str) -> None:
        """Name the current activity."""

    def note(self, text: str) -> None:
        """Show a message that stays visible."""

    def advance(self, units: float) -> None:
        """Count finished work."""


class SilentReporter:
    """Shows nothing; like every reporter made here, it is opened and closed as a context."""

    on_step: StepHook | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        """Nothing to close."""

    def begin(self, total: float) -> None:
        """Nothing."""

    def say(self, text: str) -> None:
        """Nothing."""

    def note(self, text: str) -> None:
        """Nothing."""

    def advance(self, units: float) -> None:
        """Nothing."""


class BarReporter(SilentReporter):
    """A bar with the current activity, the share done, and the time spent and left; removed when the run ends."""

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
        """Remove the bar."""
        self._progress.stop()

    def begin(self, total: float) -> None:
        """Start the bar at zero of ``total``."""
        self._progress.update(self._task, total=total)

    def say(self, text: str) -> None:
        """Show the activity beside the bar."""
        self._progress.update(self._task, description=text)

    def note(self, text: str) -> None:
        """Write a line above the bar."""
        self._progress.console.print(text, markup=False, highlight=False)

    def advance(self, units: float) -> None:
        """Move the bar."""
        self._progress.advance(self._task, units)


class LineReporter(SilentReporter):
    """Plain lines: one for each new activity, and one every 20 seconds during an activity."""

    def __init__(self, stream: TextIO | None = None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream or sys.stderr
        self._clock = clock
        self._opened = self._begun = self._shown = clock()
        self._done = 0.0
        self._total = 0.0
        self._text = ""

    def begin(self, total: float) -> None:
        """Count from now on towards ``total``."""
        self._begun, self._total = self._clock(), total

    def say(self, text: str) -> None:
        """Write a line with the activity."""
        self._text = text
        self._write()

    def note(self, text: str) -> None:
        """Write the message as a line."""
        self._print(text)

    def advance(self, units: float) -> None:
        """Write a line if the last one is old."""
        self._done += units
        if self._clock() - self._shown >= _LINE_SECONDS:
            self._write()

    def _write(self) -> None:
        self._shown = self._clock()
        parts = [duration(self._shown - self._opened), f"{self._share():4.0%}", f"{self._left():>12}", self._text]
        self._print("  ".join(parts).rstrip())

    def _print(self, text: str) -> None:
        with suppress(OSError):  # a full disk or a closed pipe must not end a run that only reports to it
            print(terminal_text(text, self._stream.encoding or "utf-8"), file=self._stream, flush=True)

    def _share(self) -> float:
        """At most 99 %: the total is an estimate, and only the runner knows that a run has ended."""
        return min(self._done / self._total, 0.99) if self._total else 0.0

    def _left(self) -> str:
        share, seconds = self._share(), self._shown - self._begun
        return f"{duration(seconds / share - seconds)} left" if share > 0 and seconds > 0 else ""


def duration(seconds: float) -> str:
    """Seconds as ``minutes:seconds`` or ``hours:minutes:seconds``.

    >>> duration(75), duration(3675)
    ('1:15', '1:01:15')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def make_reporter(
    progress: bool | None, on_step: StepHook | None = None
) -> BarReporter | LineReporter | SilentReporter:
    """The reporter for this process's standard error.

    Args:
        progress: True: a bar on a terminal or in a notebook, plain lines elsewhere; None: the same, but nothing
            outside of a terminal or notebook; False: nothing. A notebook without ipywidgets gets plain lines.
        on_step: called after each step of an adapter's training.
    """
    reporter = _shown(progress)
    reporter.on_step = on_step
    return reporter


def _shown(progress: bool | None) -> BarReporter | LineReporter | SilentReporter:
    if progress is False:
        return SilentReporter()
    console = notes_console()
    if console.is_jupyter:
        return BarReporter() if find_spec("ipywidgets") else LineReporter()  # rich draws its bar as a widget
    if sys.stderr.isatty() and console.is_interactive:  # FORCE_COLOR alone does not make a log a terminal
        return BarReporter()
    return LineReporter() if progress else SilentReporter()
