"""Exceptions as one clear message and an exit code: users see no traceback.

Exit codes: 2 for bad input, 1 if a method or a check failed, 130 after Ctrl-C, 143 and 129 after SIGTERM and SIGHUP,
70 for a defect in this package.
``COSAM_BENCH_DEBUG=1`` lets every exception through.
"""

from __future__ import annotations

import errno
import functools
import os
import platform
import sys
import tempfile
import traceback
from collections.abc import Callable
from typing import ParamSpec

import typer

from cosam_bench import __version__
from cosam_bench.cli.signals import exit_code, ignore_further
from cosam_bench.core.console import say
from cosam_bench.core.errors import CosamError, ran_out_of_files, ran_out_of_memory

BAD_INPUT = 2
FAILED = 1
DEFECT = 70  # EX_SOFTWARE of BSD's sysexits

# What a write to the standard output may end in; files that are written by name say so themselves.
_OUTPUT_FAILS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF)

_LESS_MEMORY = (
    "Lower score.batch_size or fit.batch_size (--set score.batch_size=1), or choose a smaller --model. "
    "Each of these changes the experiment, so the leaderboard lists it separately."
)

_MORE_FILES = "Let the process have more files open: `ulimit -n 1024`."

_Parameters = ParamSpec("_Parameters")


class Failed(CosamError):
    """The input was valid, but a method or a check failed: exit code 1."""


class Stopped(Exception):
    """Ctrl-C was pressed, or a signal came; the cause is a KeyboardInterrupt. The message says how to continue."""


def guarded(command: Callable[_Parameters, None]) -> Callable[_Parameters, None]:
    """The command, with its exceptions turned into messages and exit codes."""

    @functools.wraps(command)
    def wrapped(*args: _Parameters.args, **kwargs: _Parameters.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except (typer.Exit, typer.Abort, BrokenPipeError):
            raise  # typer ends these quietly
        except (Exception, KeyboardInterrupt) as error:
            if os.environ.get("COSAM_BENCH_DEBUG") == "1":
                raise
            raise typer.Exit(explain(error)) from None

    return wrapped


def explain(error: BaseException) -> int:
    """Print what happened, and return the exit code."""
    if isinstance(error, Stopped | KeyboardInterrupt):
        ignore_further()
        say("Stopped", str(error) or "No file was left half written.", style="bold yellow")
        return exit_code(error.__cause__ or error)
    causes = [error] if error.__cause__ is None else [error, error.__cause__]
    if any(map(ran_out_of_memory, causes)):
        say("Error", f"Out of memory: {_first_line(error)} {_LESS_MEMORY}", style="bold red")
        return FAILED
    if any(map(ran_out_of_files, causes)):
        say("Error", f"{_first_line(error)}. {_MORE_FILES}", style="bold red")
        return FAILED
    if isinstance(error, CosamError):
        say("Error", str(error), style="bold red")
        return FAILED if isinstance(error, Failed) else BAD_INPUT
    if isinstance(error, OSError) and (error.filename is not None or error.errno in _OUTPUT_FAILS):
        what = "The output cannot be written" if error.filename is None else error.filename
        say("Error", f"{what}: {error.strerror or error}.", style="bold red")
        return BAD_INPUT
    say("Error", f"{_defect(error)} The traceback is in {_keep_traceback(error)}.", style="bold red")
    return DEFECT


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _defect(error: BaseException) -> str:
    return f"This is a defect in cosam-bench: {type(error).__name__}: {_first_line(error)}."


def _keep_traceback(error: BaseException) -> str:
    """The path of a new file with the traceback and the command line."""
    handle, path = tempfile.mkstemp(prefix="cosam-bench-", suffix=".txt")
    with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
        file.write(f"cosam-bench {__version__}, Python {platform.python_version()}, {platform.platform()}\n")
        file.write(f"Called as: {sys.argv}\n\n")
        file.write("".join(traceback.format_exception(error)))
    return path
