"""Where output goes: results to the standard output, everything else to the standard error."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

from cosam_bench.core.terminal_text import terminal_text

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_PIPED_WIDTH = 120  # characters per line if the width of the reader's window is unknown


def results_console() -> Console:
    """The console for results, on the standard output."""
    return _console(stderr=False)


def notes_console() -> Console:
    """The console for progress, notes and errors, on the standard error."""
    return _console(stderr=True)


def write_data(text: str) -> None:
    """Write what could be a file to the standard output: UTF-8, as files are; to a terminal, what it can show."""
    if sys.stdout.isatty():
        sys.stdout.write(terminal_text(text, sys.stdout.encoding))
    else:
        sys.stdout.flush()
        sys.stdout.buffer.write(text.encode())
    sys.stdout.flush()


def _console(*, stderr: bool) -> Console:
    from cosam_bench.core.safe_console import SafeConsole

    # Names, paths and messages are shown as they are: no markup, no emoji codes, no guessed colours.
    console = SafeConsole(stderr=stderr, markup=False, emoji=False, highlight=False)
    if not console.is_terminal and not os.environ.get("COLUMNS"):
        console.width = _PIPED_WIDTH
    return console


def say(head: str, text: str, *, style: str) -> None:
    """Print a message on the standard error, its head coloured; long lines are wrapped on a terminal only.

    If the standard error cannot be written, nobody is told: what was measured counts for more. Where memory does not
    suffice for colours, the message is plain.
    """
    with suppress(OSError):
        try:
            from rich.text import Text

            console = notes_console()
            message = Text.assemble((f"{head}: ", style), text)
            console.print(message, soft_wrap=not console.is_terminal)
        except (MemoryError, ImportError):
            print(f"{head}: {terminal_text(text)}", file=sys.stderr)


def plain_table(*heads: str) -> Table:
    """A table without rules, its first column bold and never wrapped."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for place, head in enumerate(heads):
        table.add_column(head, style="" if place else "bold", no_wrap=not place)
    return table
