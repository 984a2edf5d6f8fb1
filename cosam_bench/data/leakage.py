"""Images that one domain of a stream trains on and another tests on."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations
from pathlib import PurePath

from cosam_bench.core.errors import CosamError
from cosam_bench.data.cards import Card
from cosam_bench.data.samples import Domain, Split


def check_leaks(opened: Sequence[tuple[Card, Domain]], *, stream: str) -> None:
    """Refuse a domain that trains on an image that another is tested on.

    Two images are the same if their bytes are, or if their cards draw on the same pool and their names
    differ only in the suffix.

    Raises:
        CosamError: there are such domains; all are named, with the numbers of images.
    """
    faults = []
    for (card, domain), (other_card, other) in permutations(opened, 2):
        same_pool = bool(card.pool) and card.pool == other_card.pool
        if shared := _shared(domain.train, other, by_name=same_pool):
            faults.append(f"{card.name!r} trains on {shared} of the images that {other_card.name!r} is tested on")
    if faults:
        raise CosamError(f"Stream {stream!r}: {'; '.join(faults)}. Leave out one of each two.")


def _shared(train: Split, other: Domain, *, by_name: bool) -> int:
    """The number of distinct images that another domain is tested on and that are also in ``train``."""
    negatives = () if other.negatives is None else other.negatives.manifest.entries
    trained = {entry.image_sha256 for entry in train.manifest.entries}
    names = {PurePath(entry.image_name).stem for entry in train.manifest.entries} if by_name else set()
    return len(
        {
            entry.image_sha256
            for entry in (*other.test.manifest.entries, *negatives)
            if entry.image_sha256 in trained or PurePath(entry.image_name).stem in names
        }
    )
