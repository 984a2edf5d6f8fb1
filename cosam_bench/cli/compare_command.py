"""``cosam-bench compare``: the difference between two methods, and where it comes from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cosam_bench.cli.records_commands import Metric, Results
from cosam_bench.core.console import plain_table, results_console, say
from cosam_bench.core.errors import CosamError
from cosam_bench.evaluation.figures import FIGURES
from cosam_bench.evaluation.metrics import METRICS
from cosam_bench.results.cell_text import MISSING, number

if TYPE_CHECKING:
    from rich.table import Table

    from cosam_bench.evaluation.intervals import Interval
    from cosam_bench.results.comparison import Comparison, ImageDifference

_WHAT = "A method's name, or a record as for show."
_LINEAR = ", ".join(figure.name for figure in FIGURES.values() if figure.is_linear)


def compare(
    first: Annotated[str, typer.Argument(metavar="A", help=_WHAT)],
    second: Annotated[str, typer.Argument(metavar="B", help=_WHAT)],
    *,
    by: Annotated[
        Literal["domain"] | None, typer.Option(metavar="domain", help="Show each domain's part of the difference.")
    ] = None,
    figure: Annotated[str, typer.Option(metavar="NAME", help=f"One of {_LINEAR}.")] = "last",
    metric: Metric = "iou",
    protocol: Annotated[str | None, typer.Option(metavar="NAME", help="Only records of this protocol.")] = None,
    level: Annotated[float, typer.Option(metavar="P", help="The intervals' coverage.")] = 0.95,
    images: Annotated[int, typer.Option(metavar="N", help="Show the N images that differ most.")] = 5,
    results: Results = Path("results"),
) -> None:
    """Compare two methods or records, paired by seed, order and image.

    The difference is A minus B. It is computed from the scores of the images that both have, with an interval; what is
    not measured under the same conditions is refused.
    """
    from cosam_bench.results.comparing import compare as compared

    if images < 0:
        raise CosamError(f"--images is {images}. Give 0 or more.")
    found = compared(first, second, results=results, figure=figure, metric=metric, protocol=protocol, level=level)
    console = results_console()
    for line in _summary(found):
        console.print(line)
    if by == "domain":
        console.print("\nDomains: scores of the final models, and the domain's part of the difference")
        console.print(_domains(found))
    differing = [one for one in found.images if one.part][:images]
    if differing:
        console.print("\nImages that differ most: scores of the final models, and the image's part of the difference")
        console.print(_images(found, differing))
    for note in found.notes:
        say("Note", note, style="yellow")


def _summary(found: Comparison) -> list[str]:
    title = f"{METRICS[found.metric].title} {FIGURES[found.figure].title}"
    whole = found.difference
    runs = f"{_count(len(found.seeds), 'common seed')}, {_count(found.orders, 'order')}"
    total = sum(domain.images for domain in found.domains)
    lines = [
        f"{found.first} and {found.second} on {found.protocol}",
        f"{title}: {found.first} {number(found.first_value)}, {found.second} {number(found.second_value)}",
        f"difference: {_interval(whole)}, {100 * whole.level:g}% interval, p {_p(whole.p)}",
        _verdict(found),
        f"It is based on {runs} and {_count(total, 'image')} of {_count(len(found.domains), 'domain')}.",
    ]
    if whole.basis == "images":
        lines.append("With one run the interval is of images only and says nothing about the seed or order.")
    return lines


def _verdict(found: Comparison) -> str:
    whole = found.difference
    if not whole.p < 1 - whole.level:
        return f"The two cannot be told apart at the level of {100 * whole.level:g}%."
    is_first = (whole.estimate > 0) == found.is_higher_better
    return f"{found.first if is_first else found.second} is better."


def _domains(found: Comparison) -> Table:
    table = plain_table("domain", "images", found.first, found.second, "part", "p (Holm)")
    for one in sorted(found.domains, key=lambda one: -abs(one.part.estimate)):
        parts = number(one.first), number(one.second)
        table.add_row(one.domain, str(one.images), *parts, _interval(one.part), _p(one.adjusted_p).removeprefix("= "))
    return table


def _images(found: Comparison, images: Sequence[ImageDifference]) -> Table:
    table = plain_table("domain", "image", found.first, found.second, "part")
    for one in images:
        table.add_row(one.domain, one.image, number(one.first), number(one.second), f"{one.part:+.4f}")
    table.columns[1].overflow = "fold"
    return table


def _interval(found: Interval) -> str:
    return f"{_signed(found.estimate)} [{_signed(found.low)}, {_signed(found.high)}]"


def _signed(value: float) -> str:
    return MISSING if math.isnan(value) else f"{round(value, 3) + 0.0:+.3f}"


def _p(value: float) -> str:
    """Three decimals, or a bound for smaller ones.

    >>> _p(0.0412), _p(1e-9)
    ('= 0.041', '< 0.001')
    """
    return "unknown" if math.isnan(value) else "< 0.001" if value < 0.001 else f"= {number(value)}"


def _count(count: int, thing: str) -> str:
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"
