"""A stream's domains at a glance, without opening a file or importing torch."""

from __future__ import annotations

from dataclasses import dataclass

from cosam_bench.domains.cards import Card, Stream
from cosam_bench.domains.pairs import find_pairs
from cosam_bench.errors import CosamError


@dataclass(frozen=True)
class DomainRow:
    """One domain, as ``cosam-bench domains`` lists it.

    Attributes:
        name: as on its card.
        title: one line for people.
        role: ``learned`` or ``retention``.
        kind: ``files`` or ``synthetic``.
        source: address the data comes from.
        licence: its terms.
        expected: images that the source states, both parts together; None where the card does not say.
        found: pairs of image and mask, or images to be drawn; 0 where there is a fault.
        fault: why the domain cannot be opened; empty if its files are in place.
    """

    name: str
    title: str
    role: str
    kind: str
    source: str
    licence: str
    expected: int | None
    found: int
    fault: str


def domain_overview(stream: Stream) -> list[DomainRow]:
    """One row a domain, in the order of learning, then the retention domains."""
    learned = [_row(stream.card(name), role="learned") for name in stream.order]
    return learned + [_row(stream.card(name), role="retention") for name in stream.retention]


def _row(card: Card, *, role: str) -> DomainRow:
    found, fault = 0, ""
    try:
        found = sum(card.split.counts.values()) if card.kind == "synthetic" else len(find_pairs(card))
    except CosamError as error:
        fault = str(error)
    return DomainRow(
        name=card.name,
        title=card.title,
        role=role,
        kind=card.kind,
        source=card.source,
        licence=card.licence,
        expected=card.expected.train + card.expected.test if card.expected else None,
        found=found,
        fault=fault,
    )
