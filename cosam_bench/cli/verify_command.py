"""``cosam-bench verify``: whether records are what was computed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cosam_bench.cli.error_handling import Failed
from cosam_bench.cli.records_commands import Results
from cosam_bench.core.console import results_console, say
from cosam_bench.core.errors import CosamError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cosam_bench.experiments.rescoring import Rescoring
    from cosam_bench.results.score_lines import Fault
    from cosam_bench.results.verification import Verification

_SHOWN = 10  # faults of one record: a damaged file may have thousands


def verify(
    records: Annotated[
        list[str] | None, typer.Argument(metavar="[RECORD]...", help="Folders, or parts of protocol/method/hash.")
    ] = None,
    *,
    all_records: Annotated[bool, typer.Option("--all", help="Every record in the folder of results.")] = False,
    is_rescored: Annotated[
        bool, typer.Option("--rescore", help="Also score the final model again: needs the data and update or state.")
    ] = False,
    device: Annotated[
        str | None, typer.Option(metavar="NAME", help="For --rescore: auto, cpu, cuda or cuda:N; default: as the run.")
    ] = None,
    results: Results = Path("results"),
) -> None:
    """Check that records are what was computed: cells, figures and files.

    Every cell of matrix.csv is computed again from scores.csv, the summary in run.json from the matrix, and every
    file is compared with its sha256 in run.json. The exit code is 0 if all records verify, 1 if one does not, and 2
    if one cannot be found or scored again.
    """
    from cosam_bench.results.verification import verify_record

    if device is not None and not is_rescored:
        raise CosamError("--device is for scoring again. Add --rescore, or leave it out.")
    bad = unscored = 0
    notes: dict[str, list[str]] = {}
    paths = _run_files(records or [], is_all=all_records, results=results)
    for path in paths:
        verification = verify_record(path.parent)
        faults = verification.faults
        _show(verification)
        for note in verification.notes:
            notes.setdefault(note, []).append(_name(path.parent))
        if is_rescored and not faults:
            try:
                rescoring = _rescored(path.parent, device=device)
            except CosamError as error:
                if len(paths) == 1:
                    raise
                results_console().print(f"  cannot be scored again: {error}", soft_wrap=True)
                bad += isinstance(error, Failed)
                unscored += not isinstance(error, Failed)
                continue
            faults = rescoring.faults
            _show_rescoring(rescoring)
        bad += bool(faults)
    for note, names in notes.items():
        say("Note", f"{', '.join(names[:3])}{_and_more(len(names) - 3)}: {note}.", style="bold yellow")
    if bad:
        raise Failed(f"{bad} of {len(paths)} records {'does' if bad == 1 else 'do'} not verify.")
    if unscored:
        raise CosamError(f"{unscored} of {len(paths)} records could not be scored again, for the reasons above.")


def _run_files(asked: Sequence[str], *, is_all: bool, results: Path) -> list[Path]:
    from cosam_bench.results.results_folder import find_run_file, run_files

    if is_all == bool(asked):
        raise CosamError("Name the records to verify, or give --all for every record in the folder of results.")
    if not is_all:
        return [find_run_file(one, results=results) for one in asked]
    found = run_files(results)
    if not found:
        raise CosamError(f"{results} has no record of a run. Give another folder with --results.")
    return found


def _show(verification: Verification) -> None:
    name = _name(verification.folder)
    console = results_console()
    if verification.faults:
        console.print(f"{name}: does not verify", soft_wrap=True)
        _show_faults(verification.faults)
    else:
        counts = f"{verification.cells:,} cells from {verification.images:,} image scores"
        console.print(f"{name}: verified, {counts}", soft_wrap=True)


def _name(folder: Path) -> str:
    return "/".join(folder.resolve().parts[-3:])


def _and_more(count: int) -> str:
    return f" and {count:,} more" if count > 0 else ""


def _show_faults(faults: Sequence[Fault]) -> None:
    console = results_console()
    for fault in faults[:_SHOWN]:
        console.print(f"  {fault}", soft_wrap=True)
    if len(faults) > _SHOWN:
        console.print(f"  and {len(faults) - _SHOWN:,} more")


def _rescored(folder: Path, *, device: str | None) -> Rescoring:
    from cosam_bench.experiments.method_faults import MethodFailed
    from cosam_bench.experiments.progress import make_reporter
    from cosam_bench.experiments.rescoring import rescore
    from cosam_bench.results.results_folder import load_record
    from cosam_bench.sam.batch_size import ImageDoesNotFit

    try:
        with make_reporter(None) as reporter:
            return rescore(load_record(folder), device=device, reporter=reporter)
    except (MethodFailed, ImageDoesNotFit) as error:
        raise Failed(str(error)) from error.__cause__


def _show_rescoring(rescoring: Rescoring) -> None:
    from cosam_bench.experiments.rescoring import MEAN_TOLERANCE

    how = (
        "the same machine and libraries as the run's, so equal bits are asked for"
        if rescoring.is_exact
        else f"a GPU, or another machine or library than the run's, so a domain's mean may differ by {MEAN_TOLERANCE}"
    )
    verdict = "does not verify" if rescoring.faults else "verified"
    differing = f"{rescoring.differing:,} of {rescoring.images:,} images differ"
    if rescoring.differing:
        differing += f", at most by {rescoring.largest:.2g}, a domain's mean by {rescoring.largest_mean:.2g}"
    if rescoring.further_prompts:
        differing += f"; also scored under {' and '.join(rescoring.further_prompts)} prompts"
    results_console().print(f"  {rescoring.served} scored again: {verdict}; {differing} ({how})", soft_wrap=True)
    _show_faults(rescoring.faults)
