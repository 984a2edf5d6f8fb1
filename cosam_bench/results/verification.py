"""Whether a record is what was computed: everything in it that follows from something else is computed again.

Every cell of ``matrix.csv`` follows from ``scores.csv``, and the summary in ``run.json`` from the matrix; ``run.json``
also has the sha256 of every other file. This shows that a file was damaged or edited in one place. Whoever edits scores
and all that follows from them is found only by scoring the model again (``cosam_bench.experiments.rescoring``).
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cosam_bench.core.errors import CosamError
from cosam_bench.core.hashing import sha256_file
from cosam_bench.core.sums import plain_sum
from cosam_bench.evaluation.figures import summary
from cosam_bench.evaluation.score_matrix import Cell, ScoreMatrix
from cosam_bench.method.registry import is_built_in, load_method, short_name
from cosam_bench.results.records import MATRIX_FILE, SCORES_FILE, read_cells
from cosam_bench.results.row_intervals import COMPARABLE_MARKS
from cosam_bench.results.run_info import RunInfo, read_run_info
from cosam_bench.results.score_lines import Fault, ScoreLines, read_score_lines

FIGURE_TOLERANCE = 1e-12
"""Allowed in a figure of the summary. numpy does not promise in which order it adds, and for means of some hundred
scores the orders differ by less than this."""

REQUIRED = ("config.toml", MATRIX_FILE, SCORES_FILE)
"""What every record has beside ``run.json``; the state and the update may be left out of a submitted one."""

_COMPENSATED_SINCE = (3, 12)
"""From this version of Python on, the built-in ``sum``, by which older records' means were formed, corrects its errors:
"What's New In Python 3.12", Other Language Changes. The same scores then have means that may differ in the last bit."""


@dataclass(frozen=True)
class Verification:
    """What came of verifying one record.

    Attributes:
        folder: the record's.
        faults: all that is wrong; empty if the record verifies.
        notes: what could not be checked, and why.
        cells: how many cells of the score matrix were computed again.
        images: of how many scores of single images.
    """

    folder: Path
    faults: tuple[Fault, ...] = ()
    notes: tuple[str, ...] = ()
    cells: int = 0
    images: int = 0


def verify_record(folder: Path) -> Verification:
    """Compute the matrix and the summary of a record again, and compare its files with their hashes."""
    try:
        info = read_run_info(folder / "run.json")
    except CosamError as error:
        return Verification(folder, (Fault("run.json", str(error)),))
    if info.status != "complete":
        text = f"'status' is {info.status!r}, expected 'complete'. Complete the record by the same run again."
        return Verification(folder, (Fault("run.json", text),))
    return verify_files(folder, info)


def verify_files(folder: Path, info: RunInfo) -> Verification:
    """As ``verify_record``, for a record whose ``run.json`` has been read or is still to be written."""
    faults, notes = _file_faults(folder, info)
    faults += _config_faults(folder, info)
    faults += _mark_faults(info)
    try:
        scores = read_score_lines(folder, info)
    except CosamError as error:
        return Verification(folder, (*faults, Fault(SCORES_FILE, str(error))), tuple(notes))
    faults += scores.faults
    try:
        cells = read_cells(folder / MATRIX_FILE)
        faults += _cell_faults(cells, scores, means=_means_of(info))
        more, unknown = _summary_faults(cells, info)
    except CosamError as error:
        return Verification(folder, (*faults, Fault(MATRIX_FILE, str(error))), tuple(notes))
    images = sum(len(group.scores) for group in scores.groups.values())
    return Verification(folder, (*faults, *more), (*notes, *unknown), len(cells), images)


def _file_faults(folder: Path, info: RunInfo) -> tuple[list[Fault], list[str]]:
    """Files that are missing or changed, and notes of those that cannot be checked."""
    faults = [Fault(name, "the file is missing.") for name in REQUIRED if not (folder / name).is_file()]
    if not info.files:
        return faults, [
            "run.json has no hashes of the files, since an older version wrote it: edits of them may not show"
        ]
    unhashed = sorted(set(REQUIRED) - set(info.files))
    faults += [Fault("run.json", f"'files' has no sha256 of {name}.") for name in unhashed]
    absent = []
    for name, expected in info.files.items():
        path = folder / name
        if Path(name).name != name:
            faults.append(Fault("run.json", f"'files' names {name!r}, which is not a file of the record's own folder."))
        elif not path.is_file():
            absent += [] if name in REQUIRED else [name]
        elif (found := sha256_file(path)) != expected:
            faults.append(Fault(name, f"its sha256 is {found}, expected {expected} as in run.json."))
    return faults, [f"not in the folder, so not checked: {', '.join(absent)}"] if absent else []


def _config_faults(folder: Path, info: RunInfo) -> Iterator[Fault]:
    """Facts in ``run.json``, and keys of ``config.toml``, that differ from the configuration in ``run.json``."""
    protocol = info.config.get("protocol")
    named = protocol if isinstance(protocol, dict) else {}
    for name, found, expected in (
        ("seed", info.seed, info.config.get("seed")),
        ("protocol", info.protocol, named.get("name")),
        ("protocol_version", info.protocol_version, named.get("version")),
        ("method", info.method, short_name(str(info.config.get("method", "")))),
    ):
        if found != expected:
            yield Fault("run.json", f"{name!r} is {found!r}, expected {expected!r} as in its own 'config'.")
    settings, asked = (_without_null(one) for one in (info.settings, info.config.get("settings")))
    for key, one, other in _differences(settings, asked, "settings"):
        yield Fault("run.json", f"{key!r} is {one!r}, expected {other!r} as in its own 'config'.")
    path = folder / "config.toml"
    if not path.is_file():
        return
    try:
        written = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        yield Fault("config.toml", f"it cannot be read: {error}.")
        return
    for key, one, other in _differences(written, _without_null(info.config)):
        yield Fault("config.toml", f"{key!r} is {one!r}, expected {other!r} as in run.json.")


def _mark_faults(info: RunInfo) -> Iterator[Fault]:
    """Marks that take a built-in method out of the ranking, and that the record lacks."""
    if not is_built_in(info.method):
        return
    for mark in load_method(info.method).card.marks:
        if mark not in (*info.marks, *COMPARABLE_MARKS):
            yield Fault("run.json", f"'marks' lacks {mark!r}, which {info.method} has by its card.")


def _without_null(value: object) -> object:
    """The same without keys whose value is null, which TOML lacks."""
    if isinstance(value, dict):
        return {key: _without_null(inner) for key, inner in value.items() if inner is not None}
    return [_without_null(inner) for inner in value] if isinstance(value, list) else value


def _differences(one: object, other: object, name: str = "") -> Iterator[tuple[str, object, object]]:
    """The dotted keys at which two nested tables differ, with both values; None for a key that is absent."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in dict.fromkeys((*one, *other)):
            yield from _differences(one.get(key), other.get(key), f"{name}.{key}" if name else str(key))
    elif one != other:
        yield name, one, other


def _means_of(info: RunInfo) -> Callable[[Sequence[float]], tuple[float, ...]]:
    """The mean as the run may have formed it, to the last bit.

    Today's mean has the same bits on every version of Python. It was formed by ``sum`` before, which compensates since
    Python 3.12, so a record from there may hold either.
    """
    parts = info.versions.get("python", "").split(".")
    version = tuple(int(part) for part in parts[:2] if part.isdecimal())
    totals = (plain_sum, _compensated_sum) if version >= _COMPENSATED_SINCE else (plain_sum,)
    return lambda values: tuple(total(values) / len(values) for total in totals)


def _compensated_sum(values: Sequence[float]) -> float:
    """``sum`` from Python 3.12 on.

    Source: Neumaier, "Rundungsfehleranalyse einiger Verfahren zur Summation endlicher Summen", ZAMM 1974, algorithm IV.
    """
    total = lost = 0.0
    for value in values:
        new = total + value
        lost += (total - new) + value if abs(total) >= abs(value) else (value - new) + total
        total = new
    return total + lost


def _cell_faults(
    cells: Sequence[Cell], scores: ScoreLines, *, means: Callable[[Sequence[float]], tuple[float, ...]]
) -> list[Fault]:
    """Cells that are not the mean of their images' scores, that follow from none, or that are missing."""
    faults = []
    left = {(*place, metric) for place in scores.groups for metric in scores.metrics}
    for line, cell in enumerate(cells, start=2):
        named = f"{cell.metric} of {cell.domain!r} after step {cell.step}"
        place = (cell.step, cell.domain)
        if (*place, cell.metric) not in left:
            text = f"{named} is given twice or has no scores in {SCORES_FILE}."
            faults.append(Fault(MATRIX_FILE, text, line))
            continue
        left.remove((*place, cell.metric))
        group, column = scores.groups[place], scores.metrics.index(cell.metric)
        values = [image[column] for image in group.scores.values()]
        if cell.count != len(values):
            text = f"{named} counts {cell.count} images, expected {len(values)} as in {SCORES_FILE}."
            faults.append(Fault(MATRIX_FILE, text, line))
        if cell.value not in (expected := means(values)):
            lines = f"from line {group.first_line} of {SCORES_FILE}"
            text = f"{named} is {cell.value!r}, expected {expected[0]!r}, the mean of {len(values)} scores {lines} on."
            faults.append(Fault(MATRIX_FILE, text, line))
    faults += [
        Fault(MATRIX_FILE, f"{metric} of {domain!r} after step {step} is missing; {SCORES_FILE} has its scores.")
        for step, domain, metric in sorted(left)
    ]
    return faults


def _summary_faults(cells: Sequence[Cell], info: RunInfo) -> tuple[list[Fault], list[str]]:
    """Figures in ``run.json`` that are not those of the matrix, and notes of those that are not computed alike.

    Raises:
        CosamError: the cells are not those of a score matrix of this run.
    """
    faults, unknown = [], []
    metrics = dict.fromkeys(cell.metric for cell in cells)
    for metric in metrics.keys() | info.summary.keys():
        if metric not in metrics:  # a run writes a summary of every metric that it knows
            if any(not math.isnan(value) for value in info.summary[metric].values()):
                faults.append(Fault("run.json", f"'summary' has {metric}, which {SCORES_FILE} lacks."))
            continue
        matrix = ScoreMatrix.from_cells(cells, metric=metric, domains=info.order, retention=info.retention)
        computed, recorded = summary(matrix), info.summary.get(metric, {})
        for name in dict.fromkeys((*computed, *recorded)):
            if name not in computed or name not in recorded:
                unknown.append(f"{metric}.{name}")
            elif not _is_close(recorded[name], computed[name]):
                text = f"'summary.{metric}.{name}' is {recorded[name]!r}, expected {computed[name]!r}"
                faults.append(Fault("run.json", f"{text} by matrix.csv."))
    faults.sort(key=str)
    note = f"only in run.json or only in this version, so not compared: {', '.join(sorted(unknown))}"
    return faults, [note] if unknown else []


def _is_close(one: float, other: float) -> bool:
    return (math.isnan(one) and math.isnan(other)) or abs(one - other) <= FIGURE_TOLERANCE
