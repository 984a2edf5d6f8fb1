"""A run on the terminal: its score matrix as a coloured table, and what it came to."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from rich import box
from rich.color import Color
from rich.console import Group
from rich.style import Style
from rich.table import Table
from rich.text import Text

from cosam_bench.evaluation.metrics import HIGHER_IS_BETTER, METRICS
from cosam_bench.evaluation.score_matrix import ScoreMatrix, summary
from cosam_bench.results.records import Record
from cosam_bench.results.run_info import Cost, RunInfo

METRIC_TITLES = {
    "iou": "IoU",
    "boundary_iou": "boundary IoU",
    "dice": "Dice",
    "mae": "MAE",
    "pixel_error": "px error",
}
MISSING = "-"

FIGURE_TITLES = {
    "last": ("Last", "final model, mean over the stream"),
    "avg": ("Avg", "mean over steps of the mean over domains seen"),
    "ff": ("FF", "forgotten since each domain was learned"),
    "ff_max": ("FF max", "forgotten since each domain's best step"),
    "bwt": ("BWT", "backward transfer: the negative of FF"),
    "fwt": ("FWT", "gain on a domain before it is learned"),
    "fm": ("FM", "forgetting, divided by all domains"),
    "ft": ("FT", "score on the next, unseen domain"),
    "diagonal": ("Diagonal", "each domain right after it was learned"),
    "retention": ("Retention", "final model on the retention domains"),
    "retention_drop": ("Drop", "lost there against frozen SAM"),
    "frozen": ("Frozen", "frozen SAM, mean over the stream"),
}


def render_summary(record: Record) -> Group:
    """What one run came to: every figure by every metric, then what it cost."""
    info = record.info
    columns = [summary(record.matrix(metric)) for metric in METRICS]
    figures = Table(box=box.SIMPLE_HEAD, title=_run_title(info), title_justify="left", title_style="bold")
    figures.add_column("")
    for metric in METRICS:
        figures.add_column(METRIC_TITLES[metric].replace(" ", "\n"), justify="right")
    figures.add_column("", style="dim")
    for name, (title, meaning) in FIGURE_TITLES.items():
        if not all(math.isnan(column[name]) for column in columns):
            figures.add_row(title, *(number(column[name]) for column in columns), meaning)
    return Group(figures, _facts(info))


def _run_title(info: RunInfo) -> str:
    return f"{info.method} on {info.protocol} (version {info.protocol_version}), seed {info.seed}"


def _facts(info: RunInfo) -> Table:
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim")
    facts.add_column(overflow="fold")
    style = {"complete": "green", "running": "yellow"}.get(info.status, "red")
    facts.add_row("status", Text(info.status, style=style))
    if info.error:
        facts.add_row("error", Text(info.error))
    if info.marks:
        facts.add_row("marks", Text(", ".join(info.marks)))
    facts.add_row("order", Text(", ".join(info.order)))
    for name, value in _cost_lines(info.cost):
        facts.add_row(name, value)
    for name, figure in info.extra.items():
        facts.add_row(Text(name), number(figure))
    facts.add_row("machine", Text(" ".join([info.device, *_machine(info)])))
    return facts


def _machine(info: RunInfo) -> list[str]:
    return [f"({info.hardware[key]})" for key in ("gpu", "processor") if info.hardware.get(key)][:1]


def _cost_lines(cost: Cost) -> list[tuple[str, str]]:
    lines = [
        ("training", f"{amount(cost.total_train_seconds)} s"),
        ("merging", f"{amount(cost.total_merge_seconds)} s"),
        ("encoder passes", f"{amount(cost.encoder_passes_per_image)} an image"),
    ]
    if cost.peak_memory_bytes is not None:
        lines.append(("peak memory", f"{amount(cost.peak_memory_bytes / 2**20)} MiB"))
    if cost.trainable_parameters is not None:
        lines.append(("trainable", f"{cost.trainable_parameters:,} parameters"))
    if cost.state_bytes:
        growth = {True: ", grows with the domains", False: ", does not grow", None: ""}[cost.state_grows]
        lines.append(("state", f"{amount(cost.state_bytes[-1] / 2**10)} KiB at the end{growth}"))
    return lines


def render_matrix(record: Record, metric: str = "iou", *, width: int = 100) -> Table:
    """The score matrix as a table coloured by score: a row a step, a column a domain.

    The diagonal (each domain right after it was learned) is bold and underlined, ``seen`` the mean over the
    domains learned so far, and the retention domains stand behind a rule. Where the domains' names do not fit
    into ``width`` characters, the columns carry the steps' numbers instead, explained below the table. Rows
    that were not measured are left out.
    """
    matrix = record.matrix(metric)
    at_once = "all domains at once" in record.info.marks
    learned = ["all at once"] * matrix.steps if at_once else matrix.domains
    labels = ["0 frozen", *(f"{step} {name}" for step, name in enumerate(learned, start=1))]
    heads = [name.replace("_", "_\n") for name in matrix.columns]  # names break only here
    pad = " "
    after = "" if at_once else "; underlined: right after learning"
    caption = f"{METRIC_TITLES[metric]}{after}; n: test images"
    if _table_width(labels, heads, pad) > width:
        pad = ""
        heads = [str(step) for step in range(1, matrix.steps + 1)]
        heads += [f"r{place}" for place in range(1, len(matrix.retention) + 1)]
        keys = zip(heads, matrix.columns, strict=True)
        caption += "\n" + ", ".join(f"{key}\N{NO-BREAK SPACE}{name}" for key, name in keys)
    table = _heatmap(matrix, labels, heads, pad=pad, mark_learned=not at_once)
    table.title = _run_title(record.info)
    table.caption = caption
    return table


def _table_width(labels: Sequence[str], heads: Sequence[str], pad: str) -> int:
    return max(map(len, labels)) + 1 + sum(_width(head, pad) for head in ("seen", *heads)) + 1


def _width(head: str, pad: str) -> int:
    """A column's width: its longest line or a score, with a blank before."""
    return 1 + max(5, *map(len, head.split("\n"))) + len(pad)


def _heatmap(
    matrix: ScoreMatrix, labels: Sequence[str], heads: Sequence[str], *, pad: str, mark_learned: bool
) -> Table:
    table = Table(box=None, padding=0, title_justify="left", title_style="bold", caption_justify="left")
    counts = [f"n={count}" if count else "" for count in matrix.count.max(axis=0)]
    titles = [f"{head}\n{count}" for head, count in zip(heads, counts, strict=True)]
    widths = [_width(title, pad) for title in titles]
    seen_width = _width("seen", pad)
    rule = [Text("│", style="dim")] if matrix.retention else []
    table.add_column("after ", style="bold", no_wrap=True, vertical="bottom")
    for title, width in zip(titles[: matrix.steps], widths, strict=False):
        table.add_column(_right(title, width, pad), vertical="bottom")
    table.add_column(_right("seen\n", seen_width, pad), style="dim", vertical="bottom")
    for _ in rule:
        table.add_column(Text("│\n│", style="dim"), vertical="bottom")
    for title, width in zip(titles[matrix.steps :], widths[matrix.steps :], strict=True):
        table.add_column(_right(title, width, pad), vertical="bottom")
    low, high = _range(matrix)
    for step, label in enumerate(labels):
        row = matrix.row(step)
        if np.isnan(row).all():
            continue
        shares = [_share(score, low, high, matrix.metric) for score in row.tolist()]
        scores = [
            _shade(_right(number(score), width, pad), share, learned=mark_learned and column == step - 1)
            for column, (score, share, width) in enumerate(zip(row.tolist(), shares, widths, strict=True))
        ]
        seen = _right(number(float(row[:step].mean())) if step else "", seen_width, pad)
        table.add_row(Text(f"{label} "), *scores[: matrix.steps], seen, *rule, *scores[matrix.steps :])
    return table


def _right(lines: str, width: int, pad: str) -> Text:
    """Right-aligned by blanks of our own: rich would strip those that carry a colour."""
    return Text("\n".join((line + pad).rjust(width) for line in lines.split("\n")))


def _range(matrix: ScoreMatrix) -> tuple[float, float]:
    measured = matrix.values[matrix.count > 0]
    return (float(measured.min()), float(measured.max())) if measured.size else (0.0, 1.0)


def _share(score: float, low: float, high: float, metric: str) -> float:
    """0 for the table's worst score, 1 for its best, NaN where not measured."""
    share = (score - low) / (high - low) if high > low else 0.5
    return share if HIGHER_IS_BETTER[metric] else 1 - share


_LOW, _MIDDLE, _HIGH = (
    (59, 41, 99),
    (45, 140, 140),
    (247, 226, 110),
)  # distinct in grey and to the colour-blind


def _shade(cell: Text, share: float, *, learned: bool) -> Text:
    """The cell on a ground from dark for the worst score of the table to bright for the best."""
    if math.isnan(share):
        cell.stylize("dim")
        return cell
    start, end, part = (_LOW, _MIDDLE, 2 * share) if share < 0.5 else (_MIDDLE, _HIGH, 2 * share - 1)
    red, green, blue = (a + (b - a) * part for a, b in zip(start, end, strict=True))
    bright = 0.299 * red + 0.587 * green + 0.114 * blue > 130
    cell.stylize(Style(color="black" if bright else "white", bgcolor=Color.from_rgb(red, green, blue)))
    if learned:
        digits = len(cell) - len(cell.plain.lstrip())
        cell.stylize(Style(bold=True, underline=True), digits, len(cell.plain.rstrip()))
    return cell


def number(value: float) -> str:
    """A score as it is shown: three decimals."""
    return MISSING if math.isnan(value) else f"{round(value, 3) + 0.0:.3f}"  # no minus in front of nought


def amount(value: float) -> str:
    """A quantity as it is shown: as many digits as a reader compares."""
    if math.isnan(value):
        return MISSING
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 1 else f"{value:.2f}"
