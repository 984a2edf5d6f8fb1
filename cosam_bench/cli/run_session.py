"""What `run` does with its runs: one after another, each shown or named, and compared at the end."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cosam_bench.cli.error_handling import Failed
from cosam_bench.cli.leaderboard_command import print_leaderboard
from cosam_bench.cli.records_commands import save_images, show_record
from cosam_bench.core.console import results_console, say
from cosam_bench.experiments.repeats import Repeat

if TYPE_CHECKING:
    from cosam_bench.experiments.run_methods import Outcome
    from cosam_bench.results.records import Record


class RunSession:
    """The runs of one command.

    Attributes:
        done: the outcomes with a complete record.
    """

    def __init__(
        self,
        results: Path,
        *,
        fresh: bool,
        isolated: bool | None,
        images: Path | None,
        is_quiet: bool,
        shows_matrices: bool,
    ) -> None:
        """A session without runs.

        Args:
            results: the folder of records.
            fresh: as for ``run_methods``.
            isolated: as for ``run_methods``.
            images: where example images are saved, a folder for each method; of several repeats, for each record.
            is_quiet: print nothing but each record's folder, and what went wrong.
            shows_matrices: print each run's matrix.
        """
        self._results, self._fresh, self._isolated = results, fresh, isolated
        self._images, self._is_quiet, self._shows_matrices = images, is_quiet, shows_matrices
        self.done: list[Outcome] = []
        self._failed: list[str] = []
        self._count, self._is_repeated = 0, False
        self._unshown: Exception | None = None

    @property
    def has_measured(self) -> bool:
        """Whether any record is new."""
        return not all(outcome.was_complete for outcome in self.done)

    def run(self, repeats: Sequence[Repeat]) -> None:
        """Run all methods of all repeats; one that fails stops no other, unless it is the only one."""
        from cosam_bench.sam.batch_size import ImageDoesNotFit

        self._count, self._is_repeated = sum(len(repeat.configs) for repeat in repeats), len(repeats) > 1
        try:
            for repeat in repeats:
                if repeat.label and not self._is_quiet:
                    say("Run", repeat.label, style="bold")
                self._run(repeat)
        except ImageDoesNotFit as error:  # not even frozen SAM can be run here
            raise Failed(str(error)) from None
        if self._unshown is not None:
            raise self._unshown

    def _run(self, repeat: Repeat) -> None:
        from cosam_bench.experiments.progress import make_reporter
        from cosam_bench.experiments.run_methods import run_methods

        for outcome in run_methods(
            repeat.configs,
            results=self._results,
            fresh=self._fresh,
            isolated=self._isolated,
            make_reporter=lambda: make_reporter(not self._is_quiet),
        ):
            if outcome.record is None:
                if self._count == 1:
                    raise Failed(str(outcome.failure)) from outcome.failure and outcome.failure.__cause__
                say("Failed", str(outcome.failure), style="bold red")
                self._failed.append(outcome.method + (f" ({repeat.label})" if repeat.label else ""))
                continue
            if outcome.was_complete and not self._is_quiet:
                started = outcome.record.info.started
                say("Note", f"Already complete since {started}; use --fresh to run it again.", style="bold yellow")
            self.done.append(outcome)
            if self._unshown is None:
                self._unshown = self._show(outcome.record)

    def _show(self, record: Record) -> Exception | None:
        """Show a record and save its images; what goes wrong is returned, so that what follows is measured first."""
        images = self._images and self._images / record.folder.parent.name
        if images and self._is_repeated:
            images = images / record.folder.name
        try:
            if self._shows_matrices and not self._is_quiet:
                show_record(record, images=images)
                return None
            console = results_console()
            console.print(f"{'' if self._is_quiet else 'Record: '}{record.folder}", soft_wrap=True)
            saved = images and save_images(record, images)
            if saved and not self._is_quiet:
                console.print(saved, soft_wrap=True)
        except Exception as error:  # a closed pipe, a full disk, or a damaged record
            return error
        return None

    def conclude(self) -> None:
        """Compare what was run, say if nothing was learned, and end with an error if anything failed.

        Raises:
            Failed: one of several runs failed.
        """
        from cosam_bench.results.learning_note import learning_note

        records = [outcome.record for outcome in self.done if outcome.record is not None]
        if len(records) > 1 and not self._is_quiet:
            print_leaderboard(records)
        if note := learning_note(records):
            say("Note", note, style="bold yellow")
        if self._failed:
            what = "runs" if self._is_repeated else "methods"
            raise Failed(f"{len(self._failed)} of {self._count} {what} failed: {', '.join(self._failed)}.")
