"""A run on the terminal: its score matrix as a coloured table, its figures and its costs."""

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

from cosam_bench.evaluation.false_positives import false_positives
from cosam_bench.evaluation.figures import FIGURES, summary
from cosam_bench.evaluation.metrics import METRICS
from cosam_bench.evaluation.score_matrix import ScoreMatrix
from cosam_bench.results.cell_text import amount, number, short_code
from cosam_bench.results.costs import COSTS, CostColumn
from cosam_bench.results.prompt_gaps import gap_text, prompt_gaps
from cosam_bench.results.protocol_match import protocol_title
from cosam_bench.results.records import Record
from cosam_bench.results.run_info import AT_ONCE, Cost, RunInfo


def render_summary(record: Record) -> Group:
    """The figures of one run in every metric, then its costs."""
    info = record.info
    summaries = [summary(record.score_matrix(metric)) for metric in METRICS]
    figures = Table(box=box.SIMPLE_HEAD, title=_run_title(record), title_justify="left")
    figures.add_column("")
    for metric in METRICS.values():
        figures.add_column(metric.title.replace(" ", "\n"), justify="right")
    figures.add_column("", style="dim")
    for name in summaries[0]:
        values = [one[name] for one in summaries]
        if not all(map(math.isnan, values)):
            figures.add_row(FIGURES[name].title, *map(number, values), FIGURES[name].meaning)
    return Group(figures, _facts(info))


def render_run(record: Record) -> Group:
    """One run without its figures: its title, status, error and costs."""
    return Group(_run_title(record), _facts(record.info))


def _run_title(record: Record) -> Text:
    info = record.info
    experiment = protocol_title(info.protocol, info.protocol_version, record.differs)
    return Text(f"{info.method} on {experiment}, seed {info.seed}", style="bold")


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
    if info.budget:
        facts.add_row("budget", Text(info.budget))
    if info.tuned:
        facts.add_row("tuned", Text(info.tuned))
    facts.add_row("order", Text(", ".join(info.order)))
    if info.rule:
        facts.add_row("code", Text(short_code(info.rule)))
    for column in COSTS.values():
        value = _cost_text(column, info.cost)
        if value:
            facts.add_row(column.label, value)
    for name, values in info.cost.reported.items():
        facts.add_row(Text(name.replace("_", " ")), _reported_text(values))
    facts.add_row("machine", Text(" ".join([info.device, *_machine(info)])))
    return facts


def _reported_text(values: Sequence[float]) -> str:
    """The range over the steps that have a value."""
    known = [value for value in values if not math.isnan(value)]
    ends = dict.fromkeys(f"{value:.3g}" for value in (min(known), max(known))) if known else {}
    return " to ".join(ends)


def _machine(info: RunInfo) -> list[str]:
    return [f"({info.hardware[key]})" for key in ("gpu", "processor") if info.hardware.get(key)][:1]


def _cost_text(column: CostColumn, cost: Cost) -> str:
    """The cost with its unit; empty if it was not measured."""
    value = column.combined([cost])
    if isinstance(value, str):
        return value
    if math.isnan(value):
        return ""
    return f"{value:,.0f} {column.unit}" if column.kind == "count" else f"{amount(value)} {column.unit}"


def render_matrix(record: Record, metric: str = "iou", *, width: int = 100) -> Table:
    """The score matrix as a table coloured by score: one row per step, one column per domain.

    The diagonal (each domain right after it was learned) is bold and underlined, ``seen`` is the mean over the
    domains learned so far, and the retention domains follow after a vertical line. If the domains' names do not
    fit into ``width`` characters, the columns are numbered by step and explained below the table. Rows that were
    not measured are left out.
    """
    matrix = record.score_matrix(metric)
    at_once = AT_ONCE in record.info.marks
    learned = ["all at once"] * matrix.steps if at_once else matrix.domains
    labels = ["0 frozen", *(f"{step} {name}" for step, name in enumerate(learned, start=1))]
    heads = [name.replace("_", "_\n") for name in matrix.columns]  # names break only here
    pad = " "
    after = "" if at_once else "; underlined: right after learning"
    caption = f"{METRICS[metric].title}{after}; n: test images"
    if _table_width(labels, heads, pad) > width:
        pad = ""
        heads = [str(step) for step in range(1, matrix.steps + 1)]
        heads += [f"r{place}" for place in range(1, len(matrix.retention) + 1)]
        keys = zip(heads, matrix.columns, strict=True)
        caption += "\n" + ", ".join(f"{key}\N{NO-BREAK SPACE}{name}" for key, name in keys)
    table = _heatmap(matrix, labels, heads, pad=pad, mark_learned=not at_once)
    table.title = _run_title(record)
    table.caption = caption
    return table


def render_prompt_gaps(record: Record, metric: str = "iou") -> Text | None:
    """What frozen SAM and the last model score by prompt; None if the run has one prompt alone.

    Raises:
        CosamError: the file of these scores is damaged.
    """
    gaps = prompt_gaps(record, metric=metric)
    if not gaps:
        return None
    frozen = ", ".join(f"{one.prompt} {number(one.frozen)}" for one in gaps)
    return Text(f"Last by prompt ({METRICS[metric].title}): {gap_text(gaps)}; frozen SAM: {frozen}", style="bold")


def render_false_positives(record: Record) -> Group | None:
    """What frozen SAM and the last model find in images without foreground; None if the run scored none.

    Raises:
        CosamError: the file of these images is damaged.
    """
    scores = record.negative_scores()
    if not scores:
        return None
    steps = {"frozen": 0, "last": max(row.step for row in scores)}
    rows = {label: false_positives(scores, step=step) for label, step in steps.items()}
    title = "Images with empty masks: share of pixels found as foreground, share of images with any"
    table = Table(box=None, padding=(0, 1))
    table.add_column("")
    for name, found in rows["last"].items():
        table.add_column(f"{name}\nn={found.count}", justify="right", vertical="bottom")
    for label, by_domain in rows.items():
        table.add_row(label, *(f"{number(found.area)}  {number(found.rate)}" for found in by_domain.values()))
    return Group(Text(title, style="bold"), table)


def _table_width(labels: Sequence[str], heads: Sequence[str], pad: str) -> int:
    return max(map(len, labels)) + 1 + sum(_width(head, pad) for head in ("seen", *heads)) + 1


def _width(head: str, pad: str) -> int:
    """A column's width: its longest line or a score, with a space before."""
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
        row = matrix.values[step]
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
    """Right-aligned by explicit spaces: rich would strip those that have a colour."""
    return Text("\n".join((line + pad).rjust(width) for line in lines.split("\n")))


def _range(matrix: ScoreMatrix) -> tuple[float, float]:
    measured = matrix.values[matrix.count > 0]
    return (float(measured.min()), float(measured.max())) if measured.size else (0.0, 1.0)


def _share(score: float, low: float, high: float, metric: str) -> float:
    """0 for the table's worst score, 1 for its best, NaN where not measured."""
    share = (score - low) / (high - low) if high > low else 0.5
    return share if METRICS[metric].better == "higher" else 1 - share


# Distinct in grey and for the colour-blind.
_LOW, _MIDDLE, _HIGH = (59, 41, 99), (45, 140, 140), (247, 226, 110)


def _shade(cell: Text, share: float, *, learned: bool) -> Text:
    """The cell on a background from dark for the table's worst score to bright for its best."""
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
