"""Tables of Markdown, and the marked places of a page that they are written to."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

DASH, NO_BREAK = "\N{EN DASH}", "\N{NO-BREAK SPACE}"


def markdown(lines: Sequence[Sequence[str]]) -> str:
    """Heads and lines as a table of Markdown.

    >>> print(markdown([["method", "Last"], ["`average`", "0.5"]]))
    | method | Last |
    | --- | --- |
    | `average` | 0.5 |
    """
    ruled = [lines[0], ["---"] * len(lines[0]), *lines[1:]]
    return "\n".join("| " + " | ".join(line) + " |" for line in ruled)


def with_deviation(mean: float, deviation: float | None) -> str:
    """A mean, and its deviation over runs if there are several, as a cell that no line break divides.

    >>> with_deviation(0.5123, None), with_deviation(0.5123, 0.02).split()
    ('0.512', ['0.512', '±', '0.020'])
    """
    return f"{mean:.3f}" if deviation is None else f"{mean:.3f}{NO_BREAK}±{NO_BREAK}{deviation:.3f}"


def places(page: str, kind: str) -> list[str]:
    """The names of the places of a kind, ``<!-- KIND: NAME -->``, in their order on the page."""
    return [found[2] for found in _marked(kind).finditer(page)]


def filled(page: str, kind: str, content: Callable[[str], str]) -> str:
    """The page with the content for its name at each place of a kind, which ends at ``<!-- end -->``.

    Raises:
        ValueError: a place has no end before the next one begins.
    """
    begun, whole = page.count(f"<!-- {kind}: "), len(places(page, kind))
    if begun != whole:
        raise ValueError(f"{begun} places of the kind {kind!r} begin on the page, and {whole} end. Add <!-- end -->.")
    return _marked(kind).sub(lambda place: f"{place[1]}\n{content(place[2])}\n\n{place[3]}", page)


def _marked(kind: str) -> re.Pattern[str]:
    return re.compile(rf"(<!-- {kind}: ([\w-]+) -->\n)(?:(?!<!-- {kind}: ).)*?(<!-- end -->)", flags=re.DOTALL)
