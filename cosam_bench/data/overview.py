"""An overview of a stream's domains, without opening a file or importing torch."""

from __future__ import annotations

from dataclasses import dataclass

from cosam_bench.data.availability import next_step
from cosam_bench.data.cards import Card
from cosam_bench.data.pairing import Pairing, pair_files, pairing_error
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
        licence: its name.
        licence_is_checked: somebody has read the licence at the source.
        expected: images that the source states, both parts together; None if it states none.
        found: pairs of image and mask, or images to be drawn; 0 if there is a fault.
        fault: why the domain cannot be opened; empty if its files pair.
        is_missing: the fault is that the data is not on this machine.
        step: the command that gets missing data; empty if the user's own folder is missing.
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
    """One row per domain, in the order of learning, then the retention domains."""
    learned = [domain_row(stream.card(name), role="learned") for name in stream.order]
    return learned + [domain_row(stream.card(name), role="retention") for name in stream.retention]


def domain_row(card: Card, *, role: str = "") -> DomainRow:
    """The row of one card."""
    pairing = pair_files(card) if card.kind == "files" else Pairing()
    error = pairing_error(card, pairing)
    found = len(pairing.pairs) if card.kind == "files" else sum(card.split.counts.values())
    return DomainRow(
        name=card.name,
        title=card.full_title if card.own else card.title,
        role=role,
        kind=card.kind,
        source=card.source,
        licence=card.licence,
        licence_is_checked="licence" in card.verified,
        expected=card.expected.train + card.expected.test if card.expected else None,
        found=0 if error else found,
        fault=pairing.faults[0].text if pairing.is_missing else str(error or ""),
        is_missing=pairing.is_missing,
        step=next_step(card).partition(" (")[0] if pairing.is_missing and card.layouts and not card.root else "",
    )
