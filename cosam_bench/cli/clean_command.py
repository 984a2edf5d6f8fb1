"""``cosam-bench clean``: remove what killed runs left, and free what runs share to save time."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cosam_bench.core.console import results_console

if TYPE_CHECKING:
    from cosam_bench.results.cleaning import Removable

Results = Annotated[Path, typer.Option(metavar="DIR", help="The folder of records.")]
OlderThan = Annotated[
    float | None, typer.Option(metavar="DAYS", min=0, help="Also free cached files that were not used for so long.")
]
MaxGib = Annotated[
    float | None, typer.Option(metavar="GIB", min=0, help="Also free the oldest cached files above this total.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="List what would be removed, and remove nothing.")]


def clean(
    *,
    results: Results = Path("results"),
    older_than: OlderThan = None,
    max_gib: MaxGib = None,
    dry_run: DryRun = False,
) -> None:
    """Remove what killed runs left, and free cached experts and features.

    Half-written files, locks that no process holds, and steps of complete records go. Records stay, and so does what
    a stopped run needs to continue. Experts, features, image scores and rows of frozen SAM are computed again if a run
    needs them; what sweeps noted of their tasks is not.
    """
    from cosam_bench.results.cleaning import cached, leftovers, to_free

    left = leftovers(results)
    files = cached(results)
    limit = None if max_gib is None else round(Fraction(max_gib) * 2**30)
    freed = to_free(files, older_than_days=older_than, limit_bytes=limit)
    console = results_console()
    if dry_run:
        for one in (*left, *freed):
            console.print(one.path.as_posix(), soft_wrap=True)
    else:
        left, freed = ([one for one in chosen if one.remove()] for chosen in (left, freed))
    gone = {one.path for one in freed}
    verb = "Would remove" if dry_run else "Removed"
    console.print(f"{verb} {_count(left, 'leftover')} and {_count(freed, 'cached file')}.")
    console.print(f"Cached files that stay: {_count([one for one in files if one.path not in gone], 'file')}.")


def _count(files: Sequence[Removable], noun: str) -> str:
    mebibytes = sum(one.size_bytes for one in files) / 2**20
    return f"{len(files)} {noun}{'' if len(files) == 1 else 's'} ({mebibytes:,.1f} MiB)"
