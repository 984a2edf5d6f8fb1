"""The command ``cosam-bench``. Nothing on the way to ``--help`` and ``methods`` imports torch."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from io import TextIOWrapper
from typing import Annotated

import typer

from cosam_bench import __version__
from cosam_bench.cli import data_commands as data
from cosam_bench.cli.catalogue_commands import domains, models
from cosam_bench.cli.clean_command import clean
from cosam_bench.cli.command_usage import CommandUsage, RunUsage
from cosam_bench.cli.compare_command import compare
from cosam_bench.cli.doctor import doctor
from cosam_bench.cli.error_handling import explain, guarded
from cosam_bench.cli.export_command import export
from cosam_bench.cli.leaderboard_command import leaderboard
from cosam_bench.cli.log_command import log
from cosam_bench.cli.merge_command import merge
from cosam_bench.cli.methods_commands import check, methods, new_method
from cosam_bench.cli.option_values import with_checked_values
from cosam_bench.cli.predict_command import predict
from cosam_bench.cli.records_commands import records, show
from cosam_bench.cli.report_command import report
from cosam_bench.cli.run_command import run
from cosam_bench.cli.settings_command import settings
from cosam_bench.cli.signals import end_as_by_ctrl_c
from cosam_bench.cli.sweep_command import sweep
from cosam_bench.cli.tune_command import tune
from cosam_bench.cli.verify_command import verify

app = typer.Typer(
    name="cosam-bench",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

_PANELS: dict[str, tuple[Callable[..., None], ...]] = {
    "Measure": (run, sweep, tune, leaderboard, compare, show, records, report, verify),
    "Use a result": (predict, export, merge, log),
    "Look up": (methods, settings, domains, models),
    "Write a method": (new_method, check),
    "Troubleshoot": (doctor, clean),
}
for _panel, _commands in _PANELS.items():
    for _command in _commands:
        usage = RunUsage if _command is run else CommandUsage
        app.command(rich_help_panel=_panel, cls=usage)(guarded(with_checked_values(_command)))

_data = typer.Typer(no_args_is_help=True, help="Describe your own data, get published data, check every file.")
for _command in (data.init, data.fetch, data.prepare, data.check):
    _data.command(cls=CommandUsage)(guarded(with_checked_values(_command)))
app.add_typer(_data, name="data", rich_help_panel="Get data")


def _version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(f"cosam-bench {__version__}")
        raise typer.Exit


@app.callback()
def _benchmark(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Continual adaptation of the Segment Anything Model by model merging, measured."""


def main() -> None:
    """Run the command line."""
    # Set before torch loads OpenMP: threads that spin while waiting make a small model many times slower on a busy
    # machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    end_as_by_ctrl_c()
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # typer's help pages have characters that not every encoding has
    try:
        app()
    except OSError as error:  # typer's own output, such as a help page, on a full disk
        sys.exit(explain(error))
    finally:
        _give_up_unwritable_output()


def _give_up_unwritable_output() -> None:
    """Send what cannot be written to nowhere: Python would try again at its end, and fail with a traceback."""
    try:
        sys.stdout.flush()
    except OSError:
        with open(os.devnull, "w", encoding="utf-8") as nowhere:  # noqa: PTH123
            os.dup2(nowhere.fileno(), sys.stdout.fileno())


if __name__ == "__main__":
    main()
