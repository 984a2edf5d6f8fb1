"""A progress bar of bytes read or fetched, shown on a terminal only."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self


class ByteBar:
    """A bar of bytes on the standard error, with speed and time left.

    Args:
        label: what is being read or fetched.
        total_bytes: how much there is; None if unknown.
    """

    def __init__(self, label: str, *, total_bytes: int | None = None) -> None:
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
        from rich.table import Column

        from cosam_bench.core.console import notes_console

        self._progress = Progress(
            TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis")),
            BarColumn(bar_width=20),
            DownloadColumn(binary_units=True, table_column=Column(no_wrap=True)),
            TimeRemainingColumn(table_column=Column(no_wrap=True)),
            console=notes_console(),
            disable=not sys.stderr.isatty(),
            transient=True,
        )
        self._task = self._progress.add_task(label, total=total_bytes)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, done_bytes: int, total_bytes: int | None) -> None:
        """Set how far the bar is."""
        self._progress.update(self._task, completed=done_bytes, total=total_bytes)

    def advance(self, size_bytes: int) -> None:
        """Move the bar."""
        self._progress.advance(self._task, size_bytes)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Hide the bar while something else is written."""
        self._progress.stop()
        try:
            yield
        finally:
            self._progress.start()


def no_progress(size_bytes: int) -> None:
    """Show nothing."""
