"""A stream's domains at a glance, without opening a file or importing torch."""

from __future__ import annotations

from dataclasses import dataclass

from cosam_bench.core.errors import CosamError
from cosam_bench.data.cards import Card
from cosam_bench.data.pairing import find_pairs, next_step, why_missing
from cosam_bench.data.streams import Stream


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
        licence_is_checked: somebody has read the licence at the source.
        expected: images that the source states, both parts together; None where the card does not say.
        found: pairs of image and mask, or images to be drawn; 0 where there is a fault.
        fault: why the domain cannot be opened; empty if its files are in place.
        is_missing: the fault is that the data is not here.
        step: the command that brings missing data here; empty where the user's own folder is missing.
    """

    name: str
    title: str
    role: str
    kind: str
    source: str
    licence: str
    licence_is_checked: bool
    expected: int | None
    found: int
    fault: str
    is_missing: bool
    step: str


def domain_overview(stream: Stream) -> list[DomainRow]:
    """One row a domain, in the order of learning, then the retention domains."""
    learned = [domain_row(stream.card(name), role="learned") for name in stream.order]
    return learned + [domain_row(stream.card(name), role="retention") for name in stream.retention]


def domain_row(card: Card, *, role: str = "") -> DomainRow:
    """The row of one card."""
    found, fault = 0, ""
    missing = why_missing(card) if card.kind == "files" else ""
    try:
        if not missing:
            found = sum(card.split.counts.values()) if card.kind == "synthetic" else len(find_pairs(card))
    except CosamError as error:
        fault = str(error)
    return DomainRow(
        name=card.name,
        title=card.full_title if card.own else card.title,
        role=role,
        kind=card.kind,
        source=card.source,
        licence=card.licence,
        licence_is_checked="licence" in card.verified,
        expected=card.expected.train + card.expected.test if card.expected else None,
        found=found,
        fault=missing or fault,
        is_missing=bool(missing),
        step=next_step(card).partition(" (")[0] if missing and card.layouts and not card.root else "",
    )
