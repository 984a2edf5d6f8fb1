"""Whether located files are those that a card's manifest lists."""

from __future__ import annotations

from collections.abc import Sequence

from cosam_bench.core.hashing import sha256_file
from cosam_bench.data.cards import Card
from cosam_bench.data.faults import refuse
from cosam_bench.data.pairing import Pair


def check_contents(card: Card, pairs: Sequence[Pair]) -> None:
    """Compare each file with its hash in the card's manifest; without a manifest, do nothing.

    Raises:
        CosamError: a file has other bytes.
    """
    faults = []
    for pair in pairs if card.split.kind == "manifest" else ():
        hashes = sha256_file(pair.image), sha256_file(pair.mask)
        faults += pair.changed_files(image_sha256=hashes[0], mask_sha256=hashes[1])
    if faults:
        count = f"{len(faults)} of {2 * len(pairs)} files differ from the card's manifest"
        refuse(card, [count, *faults], advice="Get the data again from the source that the card names.")
