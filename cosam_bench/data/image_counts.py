"""Whether a domain's folder holds as many images as its card states."""

from __future__ import annotations

from collections.abc import Iterable

from cosam_bench.data.cards import Card
from cosam_bench.data.pairing import Pairing, pair_files
from cosam_bench.data.streams import Stream


def count_difference(card: Card, pairing: Pairing, *, is_test_only: bool) -> tuple[int, int] | None:
    """The number of images found and the one that the card states; None if they agree or it states none.

    Images with faults count, too; those without a mask that the card says to skip do not.

    Args:
        card: of the domain.
        pairing: its files.
        is_test_only: nothing is trained on the domain.
    """
    if card.expected is None:
        return None
    found = len(pairing.images) - len(pairing.skipped)
    stated = card.expected.test + (0 if is_test_only else card.expected.train)
    return None if found == stated else (found, stated)


def count_differences(stream: Stream) -> dict[str, tuple[int, int]]:
    """By the names of a stream's domains whose number of images is not the one stated, both numbers."""
    found = {}
    for card, is_test_only in _used(stream):
        if card.kind == "files" and card.expected is not None:
            difference = count_difference(card, pair_files(card), is_test_only=is_test_only)
            if difference is not None:
                found[card.name] = difference
    return found


def _used(stream: Stream) -> Iterable[tuple[Card, bool]]:
    yield from ((stream.card(name), False) for name in stream.order)
    yield from ((stream.card(name), True) for name in stream.retention)
