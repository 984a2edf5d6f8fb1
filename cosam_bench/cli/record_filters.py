"""Options that say which of the recorded runs to show."""

from __future__ import annotations

import reprlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from cosam_bench.core.errors import CosamError

if TYPE_CHECKING:
    from cosam_bench.results.selection import Selection

FILTERS = "Which runs"

Protocols = Annotated[
    list[str] | None,
    typer.Option("--protocol", metavar="NAME,...", help="Only these protocols.", rich_help_panel=FILTERS),
]
Models = Annotated[
    list[str] | None,
    typer.Option("--model", metavar="NAME,...", help="Only these base models.", rich_help_panel=FILTERS),
]
Methods = Annotated[
    list[str] | None,
    typer.Option("--method", metavar="NAME,...", help="Only these methods.", rich_help_panel=FILTERS),
]
RunSettings = Annotated[
    list[str] | None,
    typer.Option(
        "--setting", metavar="KEY=VALUE", help="Only runs with this setting; repeatable.", rich_help_panel=FILTERS
    ),
]
Seeds = Annotated[
    str | None,
    typer.Option("--seeds", metavar="N,...", help="Only these seeds, as 0,1 or 0-4.", rich_help_panel=FILTERS),
]
Orders = Annotated[
    list[str] | None,
    typer.Option(
        "--orders",
        metavar="ORDER",
        help="Only this order: stream, reverse, random:N, or the first domains as a,b; repeatable.",
        rich_help_panel=FILTERS,
    ),
]


def selection_of(
    *,
    protocol: Sequence[str] | None,
    model: Sequence[str] | None,
    method: Sequence[str] | None,
    setting: Sequence[str] | None,
    seeds: str | None,
    orders: Sequence[str] | None,
) -> Selection:
    """What the options of this module choose.

    Raises:
        CosamError: an option is empty, or what it names is no seed.
    """
    from cosam_bench.results.selection import Selection

    return Selection(
        protocols=listed("--protocol", protocol),
        models=listed("--model", model),
        methods=listed("--method", method),
        settings=tuple(setting or ()),
        seeds=_ranges(seeds),
        orders=tuple(orders or ()),
    )


def listed(option: str, texts: Sequence[str] | None) -> tuple[str, ...]:
    """The names in an option that may be repeated and hold several, separated by commas."""
    names = tuple(name.strip() for text in texts or () for name in text.split(",") if name.strip())
    if texts and not names:
        raise CosamError(f"{option} is empty. Name at least one, or leave it out.")
    return names


def _ranges(text: str | None) -> tuple[range, ...]:
    """The seeds in ``0,1`` or ``0-4``."""
    from cosam_bench.data.orders import MOST_DIGITS

    found = []
    for part in listed("--seeds", None if text is None else [text]):
        first, dash, last = part.partition("-")
        if max(len(first), len(last)) > MOST_DIGITS:
            shown = reprlib.repr(part)
            raise CosamError(f"--seeds {shown} is too long: a seed has at most {MOST_DIGITS} digits.")
        if not first.isdecimal() or (dash and not last.isdecimal()) or int(last or first) < int(first):
            raise CosamError(f"--seeds {part!r} is not a seed or a range of them. Write 0,1,2 or 0-4.")
        found.append(range(int(first), int(last or first) + 1))
    return tuple(found)


def seed_numbers(text: str) -> list[int]:
    """The seeds that ``run --seeds`` names, one by one.

    Raises:
        CosamError: it is not a list of numbers and ranges, or it is one number, or there are too many.
    """
    from cosam_bench.experiments.repeats import MOST_SEEDS

    if text.strip().isdecimal():  # which `sweep --seeds` takes as their number
        raise CosamError(f"--seeds {text} names one seed alone. Write --seed {text}, or a list or range: 0,1,2 or 0-4.")
    ranges = _ranges(text)
    if sum(map(len, ranges)) > MOST_SEEDS:
        raise CosamError(f"--seeds {text!r} names more than {MOST_SEEDS} seeds. Name fewer.")
    return [seed for one in ranges for seed in one]
