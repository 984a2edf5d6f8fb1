"""Records: one folder per run, written so that a reader never sees half a file.

``results/<protocol>/<method>/<hash>/`` holds ``run.json``, ``matrix.csv`` (step, domain, metric, value, count) and
``scores.csv`` (step, domain, key, then one column per metric). Numbers have full precision: reading a file back gives
the same bits. Folders whose name begins with ``_`` are shared by runs.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from cosam_bench.core.argument_checks import checked_arguments
from cosam_bench.core.errors import CosamError
from cosam_bench.core.files import write_atomically
from cosam_bench.core.hashing import sha256_file
from cosam_bench.core.reading import read_text
from cosam_bench.evaluation.false_positives import NegativeScore
from cosam_bench.evaluation.metrics import METRICS
from cosam_bench.evaluation.prompt_scores import PromptScore
from cosam_bench.evaluation.scales import Part, ScaleScore
from cosam_bench.evaluation.score_matrix import Cell, ScoreMatrix
from cosam_bench.results.protocol_match import differences
from cosam_bench.results.run_info import Cost, RunInfo, Status

if TYPE_CHECKING:
    from pandas import DataFrame

    from cosam_bench.evaluation.scoring import ImageScore

CSV_BYTES = 1 << 28  # of a file of scores: two million lines
_DIGITS = 12  # of the config's hash in a folder's name: 48 bits
_CELL_COLUMNS = tuple(column.name for column in fields(Cell))
SHARED = "_shared"
"""The folder, in a folder of results, of what runs share."""
STEPS = "steps"
"""The folder, in a record, of what its run has measured so far."""
TUNED = "_tune"
"""The folder there of tuned settings and their trials."""
TRIALS = "trials.log"
"""The file of the trials of one search."""
STATES = "states-"
"""How the folder beside it of one trial's states begins, which goes with the trial's end."""
BOARD = "leaderboard.csv"
"""The file there that runs make from the records."""
MATRIX_FILE = "matrix.csv"
SCORES_FILE = "scores.csv"
SCALES_FILE = "scales.csv"
PROMPTS_FILE = "prompts.csv"
NEGATIVES_FILE = "negatives.csv"
_SCALE_COLUMNS = tuple(column.name for column in fields(ScaleScore))
_PROMPT_COLUMNS = tuple(column.name for column in fields(PromptScore))
_NEGATIVE_COLUMNS = tuple(column.name for column in fields(NegativeScore))
_PARTS: Mapping[str, Part] = {part: part for part in get_args(Part)}
SCORE_COLUMNS = ("step", "domain", "key")


def record_folder(results: Path, *, protocol: str, method: str, digest: str) -> Path:
    """Where the run with the config hash ``digest`` is recorded.

    Characters of a method's name that file systems refuse (of a module or a file) become ``-``.
    """
    return results / _folder_name(protocol) / _folder_name(method) / digest[:_DIGITS]


def is_record_name(name: str) -> bool:
    """Whether a folder may be a record's by its name alone, also before the first file is in it."""
    return re.fullmatch(f"[0-9a-f]{{{_DIGITS}}}", name) is not None


def _folder_name(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).lstrip("._-") or "unnamed"


@dataclass(frozen=True)
class RecordWriter:
    """Writes the files of one record; each call replaces a whole file or nothing.

    Every method raises CosamError if the folder cannot be written or the disk is full.
    """

    folder: Path

    def write_info(self, info: RunInfo) -> None:
        """Replace ``run.json``."""
        write_atomically(self.folder / "run.json", info.to_json())

    def write_matrix(self, cells: Iterable[Cell]) -> None:
        """Replace ``matrix.csv``; rows are sorted by step, then by the domains' first appearance, then by metric."""
        cells = list(cells)
        place = {name: index for index, name in enumerate(dict.fromkeys(cell.domain for cell in cells))}
        metric = {name: index for index, name in enumerate(METRICS)}
        cells.sort(key=lambda cell: (cell.step, place[cell.domain], metric.get(cell.metric, len(metric))))
        write_atomically(self.folder / MATRIX_FILE, _csv_text([_CELL_COLUMNS, *map(_in_full, cells)]))

    def write_scores(self, steps: Mapping[int, Mapping[str, Sequence[ImageScore]]]) -> None:
        """Replace ``scores.csv`` by the scores of all steps, in their order.

        Args:
            steps: by the number of domains learned, by the domain's name, one score per image; ``nan`` is written for
                a metric that it lacks.
        """
        rows = [row for step, scores in sorted(steps.items()) for row in _score_rows(step, scores)]
        write_atomically(self.folder / SCORES_FILE, _csv_text([(*SCORE_COLUMNS, *METRICS), *rows]))

    def write_scales(self, scores: Sequence[ScaleScore]) -> None:
        """Replace ``scales.csv`` by the scores at several lengths; without any, leave it out."""
        if scores:
            write_atomically(self.folder / SCALES_FILE, _csv_text([_SCALE_COLUMNS, *map(_in_full, scores)]))

    def write_prompts(self, scores: Sequence[PromptScore]) -> None:
        """Replace ``prompts.csv`` by the scores under further prompts; without any, leave it out."""
        if scores:
            write_atomically(self.folder / PROMPTS_FILE, _csv_text([_PROMPT_COLUMNS, *map(_in_full, scores)]))

    def write_negatives(self, scores: Sequence[NegativeScore]) -> None:
        """Replace ``negatives.csv`` by what was found in images without foreground; without any, leave it out."""
        if scores:
            write_atomically(self.folder / NEGATIVES_FILE, _csv_text([_NEGATIVE_COLUMNS, *map(_in_full, scores)]))


def _in_full(row: Cell | ScaleScore | PromptScore | NegativeScore) -> list[object]:
    """The fields of a row, floats with all their digits."""
    return [repr(part) if isinstance(part, float) else part for part in astuple(row)]


def _score_rows(step: int, scores: Mapping[str, Sequence[ImageScore]]) -> list[list[str]]:
    return [
        [str(step), domain, score.key, *(repr(score.values.get(name, math.nan)) for name in METRICS)]
        for domain, images in scores.items()
        for score in images
    ]


def _csv_text(rows: Iterable[Sequence[object]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _read_csv(path: Path, columns: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """The header, which must begin with ``columns``, and the rows, each as long as the header."""
    try:
        rows = list(csv.reader(io.StringIO(read_text(path, limit_bytes=CSV_BYTES), newline=""), strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise CosamError(f"{path} cannot be read: {error}. Run it again.") from None
    is_exact = columns in (
        _CELL_COLUMNS,
        _SCALE_COLUMNS,
        _PROMPT_COLUMNS,
        _NEGATIVE_COLUMNS,
    )  # a file of scores has a column per metric, too
    if not rows or rows[0][: None if is_exact else len(columns)] != list(columns):
        found = ", ".join(rows[0]) if rows else "nothing"
        raise CosamError(f"{path} begins with {found}, expected the columns {', '.join(columns)}. Run it again.")
    header, *rows = rows
    for number, row in enumerate(rows, start=2):
        if len(row) != len(header):
            raise CosamError(f"{path}, line {number}, has {len(row)} values, expected {len(header)}. Run it again.")
    return header, rows


def read_cells(path: Path, *, metric: str | None = None) -> list[Cell]:
    """The cells of a ``matrix.csv``, bit for bit as written; of one metric, or of all.

    Raises:
        CosamError: the file is missing or damaged, or holds a score that its metric cannot have.
    """
    cells = []
    _, rows = _read_csv(path, _CELL_COLUMNS)
    for number, (step, domain, name, value, count) in enumerate(rows, start=2):
        if metric not in (None, name):
            continue
        try:
            cell = Cell(int(step), domain, name, float(value), int(count))
            if name in METRICS and not METRICS[name].is_possible(cell.value):
                raise ValueError(f"{name} is {cell.value}, outside {METRICS[name].range}")
            cells.append(cell)
        except ValueError as error:
            raise CosamError(f"{path}, line {number}: {error}. Run it again.") from None
    return cells


def read_scales(path: Path) -> list[ScaleScore]:
    """The rows of a ``scales.csv``, bit for bit as written.

    Raises:
        CosamError: the file is missing or damaged, or holds a scale that is not above 0.
    """
    found = []
    _, rows = _read_csv(path, _SCALE_COLUMNS)
    for number, (step, scale, part, domain, metric, value, count) in enumerate(rows, start=2):
        try:
            row = ScaleScore(int(step), float(scale), _PARTS[part], domain, metric, float(value), int(count))
            if not 0 < row.scale < math.inf:
                raise ValueError(f"scale is {row.scale}, expected a number above 0")
        except (KeyError, ValueError) as error:
            raise CosamError(f"{path}, line {number}: {error}. Run it again.") from None
        found.append(row)
    return found


def read_prompt_scores(path: Path) -> list[PromptScore]:
    """The rows of a ``prompts.csv``, bit for bit as written.

    Raises:
        CosamError: the file is missing or damaged.
    """
    found = []
    _, rows = _read_csv(path, _PROMPT_COLUMNS)
    for number, (prompt, step, domain, metric, value, count) in enumerate(rows, start=2):
        try:
            found.append(PromptScore(prompt, int(step), domain, metric, float(value), int(count)))
        except ValueError as error:
            raise CosamError(f"{path}, line {number}: {error}. Run it again.") from None
    return found


def read_negatives(path: Path) -> list[NegativeScore]:
    """The rows of a ``negatives.csv``, bit for bit as written.

    Raises:
        CosamError: the file is missing or damaged, or holds a share that is not in [0, 1].
    """
    found = []
    _, rows = _read_csv(path, _NEGATIVE_COLUMNS)
    for number, (step, domain, key, area) in enumerate(rows, start=2):
        try:
            row = NegativeScore(int(step), domain, key, float(area))
            if not 0 <= row.area <= 1:
                raise ValueError(f"area is {area}, outside [0, 1]")
        except ValueError as error:
            raise CosamError(f"{path}, line {number}: {error}. Run it again.") from None
        found.append(row)
    return found


@dataclass(frozen=True)
class Record:
    """One recorded run.

    Attributes:
        folder: holds the files.
        info: all of ``run.json``: conditions, versions, hardware, and more than the properties below show.
    """

    folder: Path
    info: RunInfo = field(repr=False)

    @property
    def name(self) -> str:
        """``protocol/method/hash``, which ``load_record`` finds again."""
        return "/".join(self.folder.resolve().parts[-3:])

    @property
    def protocol(self) -> str:
        """The protocol's name."""
        return self.info.protocol

    @property
    def method(self) -> str:
        """The method's name."""
        return self.info.method

    @property
    def settings(self) -> dict[str, Any]:
        """The method's own settings, defaults included."""
        return dict(self.info.settings)

    @property
    def seed(self) -> int:
        """The run's seed."""
        return self.info.seed

    @property
    def order(self) -> tuple[str, ...]:
        """The domains in the order in which they were learned."""
        return self.info.order

    @property
    def differs(self) -> str:
        """What differs from the protocol, such as ``stream mine.toml, model tiny``; empty if nothing does."""
        return differences(self.info)

    @property
    def status(self) -> Status:
        """``complete``, ``failed``, ``interrupted``, or ``running``, also if the process was killed."""
        return self.info.status

    @property
    def has_scores(self) -> bool:
        """Whether there is a matrix, or must be one: a run that failed early, or has just begun, has none."""
        return self.status == "complete" or (self.folder / MATRIX_FILE).is_file()

    @property
    def summary(self) -> dict[str, dict[str, float]]:
        """By metric, every figure by name: ``record.summary["iou"]["last"]``; NaN if undefined."""
        return {metric: dict(figures) for metric, figures in self.info.summary.items()}

    @property
    def cost(self) -> Cost:
        """Seconds, bytes and encoder passes."""
        return self.info.cost

    @checked_arguments()
    def checked_file(self, name: str) -> Path:
        """The path of one of the record's files, which may be missing, but has not been changed since the run.

        Records of schema 1, and runs that are not complete, have no hashes to compare with.

        Raises:
            CosamError: the file has another sha256 than ``run.json`` says.
        """
        path = self.folder / name
        expected = self.info.files.get(name)
        if expected is not None and path.is_file() and sha256_file(path) != expected:
            raise CosamError(
                f"{path} was changed since the run wrote it: its sha256 is not the one in run.json. Run it again, or "
                "restore the file."
            )
        return path

    @checked_arguments()
    def matrix(self, metric: str = "iou") -> DataFrame:
        """The score matrix by one metric as a table: one row per step, one column per domain; NaN if not measured.

        Raises:
            CosamError: ``matrix.csv`` is missing or damaged, or no metric has this name.
        """
        return self.score_matrix(metric).to_frame()

    def scale_scores(self) -> list[ScaleScore]:
        """The scores of each merge at several lengths; none unless the run had ``--scales``.

        Raises:
            CosamError: ``scales.csv`` is damaged.
        """
        path = self.checked_file(SCALES_FILE)
        return read_scales(path) if path.is_file() else []

    def prompt_scores(self) -> list[PromptScore]:
        """The scores of frozen SAM and the final model under further prompts; none unless the run asked for some.

        Raises:
            CosamError: ``prompts.csv`` is damaged.
        """
        path = self.checked_file(PROMPTS_FILE)
        return read_prompt_scores(path) if path.is_file() else []

    def negative_scores(self) -> list[NegativeScore]:
        """What was found in test images without foreground; none unless a card says ``empty = "keep"``.

        Raises:
            CosamError: ``negatives.csv`` is damaged.
        """
        path = self.checked_file(NEGATIVES_FILE)
        return read_negatives(path) if path.is_file() else []

    @checked_arguments()
    def score_matrix(self, metric: str = "iou") -> ScoreMatrix:
        """The score matrix by one metric, read from ``matrix.csv``.

        Raises:
            CosamError: the file is missing or damaged, or no metric has this name.
        """
        path = self.checked_file(MATRIX_FILE)
        cells = read_cells(path, metric=metric)
        try:
            return ScoreMatrix.from_cells(cells, metric=metric, domains=self.info.order, retention=self.info.retention)
        except CosamError as error:
            raise CosamError(f"{path}: {error}") from None
