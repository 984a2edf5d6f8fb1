"""The page itself: one HTML file that needs nothing else, and may load and run nothing else.

Its policy (``Content-Security-Policy``) allows its own script and style by their hashes, and pictures that are part of
the file. Every text from a record is escaped.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cosam_bench.core.environment import utc_now
from cosam_bench.core.files import check_is_file_name, write_atomically
from cosam_bench.core.version import __version__
from cosam_bench.evaluation.figures import FIGURES
from cosam_bench.evaluation.metrics import METRICS, find_metric
from cosam_bench.results.costs import COSTS
from cosam_bench.results.records import Record
from cosam_bench.results.report.boards import Board, boards_of
from cosam_bench.results.report.gallery import PAGE_BYTES, empty_gallery, gallery_of
from cosam_bench.results.report.matrices import scale_css
from cosam_bench.results.report.views import board_view
from cosam_bench.results.results_folder import find_records, no_records
from cosam_bench.results.row_intervals import COMPARABLE_MARKS, RANKED_BY
from cosam_bench.results.selection import Selection

FILE = "report.html"
_HERE = Path(__file__).parent


@dataclass(frozen=True)
class WrittenReport:
    """What was written.

    Attributes:
        methods: the number of ranked methods, each with its settings, over all boards.
        incomplete: the number of runs that are listed apart.
        unreadable: one message per record that cannot be read.
    """

    path: Path
    size_bytes: int
    methods: int
    incomplete: int
    unreadable: tuple[str, ...]


def write_report(
    results: Path,
    out: Path | None = None,
    *,
    selection: Selection | None = None,
    metric: str = "iou",
    has_images: bool = True,
) -> WrittenReport:
    """Write the report of a folder of results.

    Args:
        results: the folder of results.
        out: the file; by default ``report.html`` in ``results``.
        selection: which records to show; None: all.
        metric: of all scores.
        has_images: whether to show thumbnails of test images.

    Raises:
        CosamError: there are no records or none of those selected, an unknown metric, or the file cannot be written.
    """
    find_metric(metric)
    path = out or results / FILE
    check_is_file_name(path)
    records, unreadable = find_records(results)
    if not records:
        raise no_records(results, unreadable)
    chosen = (selection or Selection()).of(records)
    boards, notes = boards_of(chosen, metric=metric, experts_from=records)
    incomplete = [record for record in chosen if record.info.status != "complete"]
    page = render_page(boards, notes=[*notes, *unreadable], incomplete=incomplete, metric=metric, has_images=has_images)
    write_atomically(path, page)
    methods = sum(len(board.entries) for board in boards)
    return WrittenReport(path, len(page.encode()), methods, len(incomplete), tuple(unreadable))


def render_page(
    boards: Sequence[Board], *, notes: Sequence[str], incomplete: Sequence[Record], metric: str, has_images: bool
) -> str:
    """The page as text.

    Args:
        boards: what is compared.
        notes: for the reader, about whatever was left out or set apart.
        incomplete: runs to list apart.
        metric: of all scores.
        has_images: whether to show thumbnails of test images.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = (_HERE / "report.js").read_text(encoding="utf-8")
    style = (_HERE / "report.css").read_text(encoding="utf-8") + scale_css()
    render = partial(
        environment.get_template("report.html.jinja").render,
        policy=f"default-src 'none'; script-src {_source(script)}; style-src {_source(style)}; img-src data:; "
        "base-uri 'none'; form-action 'none'",
        script=Markup(script),
        style=Markup(style),
        markup=Markup,
        views=[board_view(board) for board in boards],
        provenances=[provenance(board) for board in boards],
        notes=notes,
        incomplete=incomplete,
        comparable_marks=COMPARABLE_MARKS,
        metric=METRICS[metric],
        metrics=METRICS.values(),
        figures=FIGURES.values(),
        costs=COSTS.values(),
        ranked=FIGURES[RANKED_BY],
        version=__version__,
        made=utc_now(),
    )
    text = render(gallery=empty_gallery(boards))
    if has_images:
        text = render(gallery=gallery_of(boards, budget_bytes=PAGE_BYTES - len(text.encode())))
    return text


def _source(text: str) -> str:
    """A text's hash as a policy names it."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


@dataclass(frozen=True)
class Provenance:
    """Where the numbers of a board come from.

    Attributes:
        config: the resolved protocol of the first run, as JSON.
        data: by domain, the digest of its images and masks.
        checkpoint: the digest of the base model's weights.
        settings: the digest of the protocol's settings.
        prompts: by split and seed, the digest of the frozen prompts.
        versions: by library, the versions in use.
        machines: each with the records that ran there, if there are several.
    """

    config: str
    data: tuple[tuple[str, str], ...]
    checkpoint: str
    settings: str
    prompts: tuple[tuple[str, str], ...]
    versions: tuple[tuple[str, str], ...]
    machines: tuple[tuple[str, int], ...]


def provenance(board: Board) -> Provenance:
    """Configuration, hashes, versions and machines of a board."""
    import json

    infos = [run.info for entry in board.entries for run in entry.runs]
    first = board.info
    prompts = {(f"{split}, seed {info.seed}", digest) for info in infos for split, digest in info.prompts.items()}
    names = dict.fromkeys(name for info in infos for name in info.versions)
    machines: dict[str, int] = {}
    for info in infos:
        facts = [f"device: {info.device}", *(f"{key}: {value}" for key, value in info.hardware.items())]
        machines["; ".join(facts)] = machines.get("; ".join(facts), 0) + 1
    return Provenance(
        config=json.dumps(first.config.get("protocol", first.config), indent=1),
        data=tuple(sorted(first.conditions.data.items())),
        checkpoint=first.base_weights_sha256,
        settings=first.conditions.config,
        prompts=tuple(sorted(prompts)),
        versions=tuple((name, _distinct(info.versions.get(name, "not stated") for info in infos)) for name in names),
        machines=tuple(machines.items()),
    )


def _distinct(values: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(values))
