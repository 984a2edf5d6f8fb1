"""Reading a folder of results: all records, one by its name, or the leaderboard."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from cosam_bench.core.argument_checks import checked_arguments
from cosam_bench.core.errors import CosamError
from cosam_bench.core.files import expanded
from cosam_bench.results.leaderboard import leaderboard
from cosam_bench.results.published import Published, all_published
from cosam_bench.results.record_list import list_records
from cosam_bench.results.records import Record
from cosam_bench.results.row_intervals import RANKED_BY
from cosam_bench.results.run_info import read_run_info
from cosam_bench.results.scale_table import scale_table
from cosam_bench.results.selection import Selection

if TYPE_CHECKING:
    from pandas import DataFrame


_MOST_NAMED = 20  # records in one message


def find_records(results: Path) -> tuple[list[Record], list[str]]:
    """All records in a folder of results by name, and one message for each that cannot be read.

    Raises:
        CosamError: the folder does not exist.
    """
    records, problems = [], []
    for path in run_files(results):
        try:
            records.append(Record(path.parent, read_run_info(path)))
        except CosamError as error:
            problems.append(str(error))
    return records, problems


def no_records(results: Path, unreadable: Sequence[str]) -> CosamError:
    """What is wrong with a folder of results without any record that can be read."""
    if not unreadable:
        return CosamError(f"{results} has no record of a run. Make one: cosam-bench run --method regcl.")
    listed = "".join(f"\n  {problem}" for problem in unreadable[:_MOST_NAMED])
    more = f"\n  and {len(unreadable) - _MOST_NAMED} more." if len(unreadable) > _MOST_NAMED else ""
    return CosamError(f"No record in {results} can be read:{listed}{more}")


def run_files(results: Path) -> list[Path]:
    """Every ``run.json`` in a folder of results, sorted by path.

    Raises:
        CosamError: the folder does not exist.
    """
    if not results.is_dir():
        raise CosamError(f"No folder {results}. Give another folder of results, or run a method first.")
    found = results.glob("*/*/*/run.json")
    return sorted(path for path in found if not path.relative_to(results).parts[0].startswith(("_", ".")))


@checked_arguments()
def load_record(asked: str | Path, *, results: str | Path = "results") -> Record:
    """The record that ``asked`` names.

    Args:
        asked: a record's folder or its ``run.json``; or, within ``results``, ``protocol/method/hash`` with as
            many of its parts as make it unique, in order. The hash may be cut short.
        results: the folder of results.

    Raises:
        CosamError: no record or more than one fits, the record is damaged, or there is no folder of results.
    """
    path = find_run_file(asked, results=results)
    return Record(path.parent, read_run_info(path))


def find_run_file(asked: str | Path, *, results: str | Path) -> Path:
    """The ``run.json`` of the record that ``asked`` names, as in ``load_record``; it is not read.

    Raises:
        CosamError: no record or more than one fits, or there is no folder of results.
    """
    path, results = expanded(asked), expanded(results)
    for candidate in (path, path / "run.json"):
        if candidate.name == "run.json" and candidate.is_file():
            return candidate
    if path.exists() and not results.is_dir():
        raise _no_record(asked, results)
    files = run_files(results)
    fitting = [file for file in files if _fits(str(asked), file.parent.relative_to(results).parts)]
    if len(fitting) == 1:
        return fitting[0]
    offered = [file.parent.relative_to(results).as_posix() for file in fitting or files]
    listed = ", ".join(offered[:8]) + (f" and {len(offered) - 8} more" if len(offered) > 8 else "")
    if fitting:
        raise CosamError(
            f"{len(fitting)} records fit {str(asked)!r}. Name one of:{_told_apart(fitting, offered)}\n"
            "`cosam-bench records` lists all."
        )
    if path.exists():
        raise _no_record(asked, results)
    raise CosamError(f"No record in {results} fits {str(asked)!r}. Offered: {listed or 'none'}.")


def _no_record(asked: str | Path, results: Path) -> CosamError:
    return CosamError(
        f"{asked} is not the record of a run: it has no run.json. Give the folder of a run, or part of the name of one "
        f"in {results}."
    )


def _told_apart(files: Sequence[Path], names: Sequence[str]) -> str:
    """A line per record, with its seed, order and settings if it can be read."""
    readable: dict[str, Record] = {}
    for file, name in zip(files[:_MOST_NAMED], names, strict=False):
        with suppress(CosamError):
            readable[name] = Record(file.parent, read_run_info(file))
    facts = dict(zip(readable, list_records(list(readable.values())), strict=True))
    lines = ""
    for name in names[:_MOST_NAMED]:
        one = facts.get(name)
        lines += f"\n  {name}"
        if one is not None:
            settings = f"; {one.settings_text}" if one.settings or one.code else ""
            lines += f"  seed {one.seed}; order {','.join(one.order)}{settings}"
    more = len(names) - _MOST_NAMED
    return lines + (f"\n  and {more} more" if more > 0 else "")


def _fits(asked: str, name: tuple[str, ...]) -> bool:
    """Whether the parts of ``asked`` come in ``name`` in order; the hash, its last part, may be cut short."""
    *folders, digest = name
    parts = [part for part in asked.split("/") if part]
    if not parts:
        return False
    tails = [parts[:-1]] if digest.startswith(parts[-1]) else []
    return any(_in_order(wanted, folders) for wanted in (parts, *tails))


def _in_order(wanted: Sequence[str], names: Iterable[str]) -> bool:
    left = iter(names)
    return all(part in left for part in wanted)


def read_leaderboard(
    results: Path,
    *,
    metric: str = "iou",
    with_published: bool = False,
    selection: Selection | None = None,
    domains: Sequence[str] | None = None,
    intervals: Collection[str] = (),
    level: float = 0.95,
    sort_by: str = RANKED_BY,
) -> DataFrame:
    """The leaderboard of all records in a folder, or of those that are selected.

    Args:
        results: the folder; with published numbers it may be missing or empty.
        metric: of the scores.
        with_published: add what papers published on the selected protocols, as rows of their own.
        selection, domains, intervals, level, sort_by: as in ``leaderboard``.

    Returns:
        As ``leaderboard`` does; in ``attrs`` also ``unreadable``, one message for each record that cannot be read.

    Raises:
        CosamError: no metric or protocol has this name, or there is nothing to show; records that cannot be read are
            then named.
    """
    selection = selection or Selection()
    published = [one for one in all_published() if _is_of(one, selection.protocols)] if with_published else []
    records, unreadable = ([], []) if published and not results.exists() else find_records(results)
    if not records and not published:
        raise no_records(results, unreadable)
    if published and selection.protocols:
        records, selection = _without_published_alone(records, selection, published)
    frame = leaderboard(
        records,
        metric=metric,
        published=published,
        selection=selection,
        domains=domains,
        intervals=intervals,
        level=level,
        sort_by=sort_by,
    )
    if frame.empty and any(record.status == "complete" for record in selection.of(records)):
        raise no_records(results, [*unreadable, *frame.attrs["notes"]])
    records = [record for record in records if record.protocol in selection.protocols or not selection.protocols]
    notes = _published_notes(published, records, metric=metric) if with_published else []
    frame.attrs.update(notes=(*frame.attrs["notes"], *notes), unreadable=tuple(unreadable))
    return frame


def read_scale_table(results: Path, *, metric: str = "iou", selection: Selection | None = None) -> DataFrame:
    """The table of scales of the records in a folder; ``attrs`` as in ``read_leaderboard``.

    Raises:
        CosamError: as for ``scale_table``, or no record with scores at several lengths can be read.
    """
    records, unreadable = find_records(results)
    frame = scale_table(records, metric=metric, selection=selection)
    if frame.empty and any(record.status == "complete" for record in (selection or Selection()).of(records)):
        raise no_records(results, [*unreadable, *frame.attrs["notes"]])
    frame.attrs.update(unreadable=tuple(unreadable))
    return frame


def _without_published_alone(
    records: list[Record], selection: Selection, published: Sequence[Published]
) -> tuple[list[Record], Selection]:
    """What to show of the records if some of the wanted protocols have published numbers alone."""
    recorded = {record.protocol for record in records}
    alone = {name for one in published for name in one.protocols} - recorded
    kept = tuple(name for name in selection.protocols if name not in alone)
    return (records, replace(selection, protocols=kept)) if kept else ([], Selection())


def _is_of(published: Published, protocols: Sequence[str]) -> bool:
    return not protocols or not set(protocols).isdisjoint(published.protocols)


def _published_notes(published: Sequence[Published], records: Sequence[Record], *, metric: str) -> list[str]:
    """The sources of the published rows, and which tables have no other rows."""
    if not published:
        return ["no published numbers belong to this protocol."]
    recorded = {record.protocol for record in records if not record.differs}
    notes = []
    for one in published:
        notes += one.notes()
        if one.rows and not any(row.scores(metric) for row in one.rows):
            notes.append(f"{one.protocol}: nothing was published in {metric}.")
        if not recorded.intersection(one.protocols):
            command = f"cosam-bench run --protocol {one.protocol} --method {one.method}"
            notes.append(f"{one.protocol}: no run of this protocol is recorded here. Make one: {command}.")
    return notes
