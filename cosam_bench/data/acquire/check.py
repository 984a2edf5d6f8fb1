"""Everything that is wrong with a domain's files: unlike opening it, this does not stop at the first kind of fault."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from cosam_bench.core.errors import CosamError
from cosam_bench.core.progress_bar import silent
from cosam_bench.data.acquire.pairing_faults import Paired, pair_all
from cosam_bench.data.cards import Card, Expected
from cosam_bench.data.decoding import decode_image, decode_mask, upright_size
from cosam_bench.data.image_files import make_split, read_bytes, sample_sizes, scan_pair
from cosam_bench.data.labelme import SUFFIX
from cosam_bench.data.leakage import check_leaks
from cosam_bench.data.pairing import Pair, why_missing
from cosam_bench.data.samples import Domain, empty_split
from cosam_bench.data.splits import Item, divide

# What can be wrong, in the order in which it is told.
KINDS = {
    "no mask": "images without a mask",
    "no image": "masks without an image",
    "unclear": "images whose mask is not clear",
    "empty": "masks without foreground",
    "size": "masks of another size than their image",
    "broken": "files that cannot be read",
    "twice": "images in training and in test",
    "other": "other faults",
}


@dataclass
class Report:
    """What a look at all of a domain's files has found.

    Attributes:
        name: of the domain.
        layout: of its files; empty where they are not there.
        train: images for training.
        test: images for testing.
        samples: those of both parts together.
        expected: the images that the source states.
        faults: a line each, by their kind (see ``KINDS``).
        notes: what is as the card says, but worth knowing.
        digest: of both splits, as records have it; empty where there are faults.
        domain: the opened domain with its card, where the files could be divided.
    """

    name: str
    layout: str = ""
    train: int = 0
    test: int = 0
    samples: int = 0
    expected: Expected | None = None
    faults: dict[str, list[str]] = field(default_factory=lambda: {kind: [] for kind in KINDS})
    notes: list[str] = field(default_factory=list)
    digest: str = ""
    domain: tuple[Card, Domain] | None = None

    @property
    def fault_count(self) -> int:
        """The number of all faults."""
        return sum(len(faults) for faults in self.faults.values())


def report(
    card: Card,
    *,
    is_retention: bool = False,
    begin: Callable[[int], None] = silent,
    advance: Callable[[int], None] = silent,
) -> Report:
    """Look at every file of a domain, decode it, and tell what is there and what is wrong.

    Args:
        card: with its root filled in, where its data has been placed.
        is_retention: it is only tested.
        begin: told how many bytes will be read.
        advance: told of the bytes of each pair that has been read.
    """
    found = Report(card.name, expected=card.expected)
    if card.kind == "synthetic":
        counts = card.split.counts
        found.layout, found.train, found.test = "drawn", 0 if is_retention else counts["train"], counts["test"]
        found.samples = found.train + found.test
        return found
    if fault := why_missing(card):
        found.faults["other"].append(fault)
        return found
    found.layout = card.layout or "own"
    paired = pair_all(card)
    _tell_pairing(card, paired, found)
    begin(sum(_size(pair) for pair in paired.pairs))
    items: list[Item] = []
    left_out = 0
    for pair in paired.pairs:
        left_out += _look(card, pair, items, found)
        advance(_size(pair))
    only_tests = is_retention or (card.split.kind == "ratio" and card.split.test == 1)
    if left_out:
        found.notes.append(f"left out, as the card says: {left_out} with less than {card.min_pixels} pixels")
    _divide(card, items, found, only_tests=only_tests)
    _compare(card, paired, found, only_tests=only_tests)
    return found


def leaks(reports: Sequence[Report], *, stream: str) -> str:
    """What one domain of a stream trains on and another is tested on; empty if nothing."""
    try:
        check_leaks([found.domain for found in reports if found.domain is not None], stream=stream)
    except CosamError as error:
        return str(error)
    return ""


def _size(pair: Pair) -> int:
    return sum(path.stat().st_size for path in (pair.image, pair.mask) if path.is_file())


def _tell_pairing(card: Card, paired: Paired, found: Report) -> None:
    found.faults["other"] += [f"no image matches {pattern!r} in {card.root}" for pattern in paired.unmatched]
    found.faults["no image"] += paired.without_image
    found.faults["unclear"] += paired.confused
    if card.unlabelled == "refuse":
        found.faults["no mask"] += paired.without_mask
    elif paired.without_mask:
        found.notes.append(f"left out, as the card says: {len(paired.without_mask)} images without a mask")


def _look(card: Card, pair: Pair, items: list[Item], found: Report) -> int:
    """Read both files of a pair; returns how many of its samples are left out as too small, not as empty."""
    try:
        decode_image(read_bytes(pair.image), name=str(pair.image))
    except CosamError as error:
        found.faults["broken"].append(str(error))
        return 0
    try:
        own, left_out = scan_pair(card, pair)
    except CosamError as error:
        found.faults[_kind(card, pair)].append(str(error))
        return 0
    items += own
    if own:
        return left_out
    size = upright_size(read_bytes(pair.image), name=str(pair.image))
    if any(sample_sizes(card, pair, read_bytes(pair.mask), size=size).values()):
        return left_out
    found.faults["empty"].append(str(pair.mask))
    return 0


def _kind(card: Card, pair: Pair) -> str:
    """What is wrong with a pair whose image can be read."""
    if pair.mask.suffix == SUFFIX:
        return "broken"  # or drawn on another picture: the message tells
    try:
        mask = decode_mask(read_bytes(pair.mask), name=str(pair.mask), foreground=card.foreground)
    except CosamError:
        return "broken"
    return "size" if tuple(mask.shape) != upright_size(read_bytes(pair.image), name=str(pair.image)) else "other"


def _divide(card: Card, items: Sequence[Item], found: Report, *, only_tests: bool) -> None:
    # Images that lie in both parts are told one by one below, so here no two are alike.
    unlike = [replace(item, entry=replace(item.entry, image_sha256=item.entry.key)) for item in items]
    real = {item.entry.key: item for item in items}
    try:
        train, test = ([real[item.entry.key] for item in part] for part in divide(card, unlike))
    except CosamError as error:
        found.faults["other"].append(str(error))
        return
    tested = {item.entry.image_sha256: item.pair.key for item in test}
    if card.split.without_test:
        train = [item for item in train if item.entry.image_sha256 not in tested]
    twins = {item.pair.key: tested[item.entry.image_sha256] for item in train if item.entry.image_sha256 in tested}
    found.faults["twice"] += [f"{key} in training is {twin} in test" for key, twin in twins.items()]
    found.train, found.test = len({item.pair.key for item in train}), len({item.pair.key for item in test})
    found.samples = len(train) + len(test)
    if not train and not only_tests:
        found.faults["other"].append("the split leaves nothing to train on")
    if not test:
        found.faults["other"].append("the split leaves nothing to test on")
    splits = [make_split(card, "train", train, 0), make_split(card, "test", test, 0)]
    if only_tests:
        splits[0] = empty_split(card.name, part="train")
    domain = Domain(card.name, card.title or card.name, *splits)
    found.domain = card, domain
    found.digest = "" if found.fault_count else domain.digest


def _compare(card: Card, paired: Paired, found: Report, *, only_tests: bool) -> None:
    """Hold the images against those that the source states; what other faults explain is not told twice."""
    if card.expected is None:
        return
    stated = card.expected.test + (0 if only_tests else card.expected.train)
    without = 0 if card.unlabelled == "skip" else len(paired.without_mask)
    if len(paired.pairs) + without + len(paired.confused) == stated:
        return
    text = f"images for training and test: {found.train} and {found.test}"
    stated_both = f"{card.expected.train} and {card.expected.test}"
    if "expected" in card.verified:
        found.faults["other"].append(f"{text}; the source states {stated_both}")
    else:
        found.notes.append(f"{text}; the card states {stated_both}, which nobody has checked")
