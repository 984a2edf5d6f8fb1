"""Everything that is wrong with a domain's files: unlike opening it, this opens every file and lists every fault."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import permutations

from cosam_bench.core.errors import CosamError
from cosam_bench.core.progress_bar import no_progress
from cosam_bench.data.acquire.unused_masks import unused_masks
from cosam_bench.data.annotations import SizeMismatch, annotation_name
from cosam_bench.data.cards import Card, Expected
from cosam_bench.data.decoding import DEEPEST, decode_image
from cosam_bench.data.faults import first_few
from cosam_bench.data.image_counts import count_difference
from cosam_bench.data.image_files import make_splits, no_samples, read_bytes, scan_pair, too_dark, unknown_labels
from cosam_bench.data.image_groups import shared_groups
from cosam_bench.data.leakage import check_leaks
from cosam_bench.data.near_copies import ImagePrint, image_print, near_copies
from cosam_bench.data.opened_images import OpenedImages
from cosam_bench.data.opening import empty_parts
from cosam_bench.data.pairing import Pair, Pairing, pair_files
from cosam_bench.data.samples import Domain, Split, empty_split
from cosam_bench.data.splits import FileSample, assign_parts, shared_images

# What can be wrong, in the order in which it is shown.
KINDS = {
    "no mask": "images without a mask",
    "no image": "masks without an image",
    "unclear": "images whose mask is ambiguous",
    "empty": "masks without foreground",
    "size": "masks that do not have the size of their image",
    "broken": "files that cannot be read",
    "twice": "images in training and in test",
    "group": "groups with images in training and in test",
    "other": "other faults",
}
_PAIRING_KINDS = {
    "no mask": "no mask",
    "several masks": "unclear",
    "name": "unclear",
    "unread": "broken",
    "other": "other",
}


@dataclass
class DomainReport:
    """The result of checking all of a domain's files.

    Attributes:
        name: of the domain.
        layout: of its files; empty if they are missing.
        train: number of images for training.
        test: number of images for testing.
        samples: number of samples of both parts.
        expected: the images that the source states.
        faults: a line each, by their kind (see ``KINDS``).
        notes: what is as the card says, but worth knowing.
        prints: of each image, to find near copies, by the sha256 of its bytes.
        digest: of both splits, as in records; empty if there are faults.
        domain: the opened domain with its card, if the files could be divided.
    """

    name: str
    layout: str = ""
    train: int = 0
    test: int = 0
    samples: int = 0
    expected: Expected | None = None
    faults: dict[str, list[str]] = field(default_factory=lambda: {kind: [] for kind in KINDS})
    notes: list[str] = field(default_factory=list)
    prints: dict[str, ImagePrint] = field(default_factory=dict, repr=False)
    digest: str = ""
    domain: tuple[Card, Domain] | None = None

    @property
    def fault_count(self) -> int:
        """The number of all faults."""
        return sum(len(faults) for faults in self.faults.values())


def check_domain(
    card: Card,
    *,
    is_retention: bool | None = None,
    begin: Callable[[int], None] = no_progress,
    advance: Callable[[int], None] = no_progress,
) -> DomainReport:
    """Decode every file of a domain, and report its content and all faults.

    Args:
        card: with its root filled in, if its data has been located.
        is_retention: the stream only tests this domain; None without a stream: as the card's split suggests.
        begin: called with the number of bytes to read.
        advance: called with the number of bytes of each pair that was read.
    """
    report = DomainReport(card.name, expected=card.expected)
    is_test_only = card.split.is_test_only if is_retention is None else is_retention
    if card.kind == "synthetic":
        _count_drawn(card, report, is_test_only=is_test_only)
        return report
    pairing = pair_files(card)
    _report_pairing(card, pairing, report)
    if pairing.is_missing:
        return report
    report.layout = card.layout or "own"
    begin(sum(_size_bytes(pair) for pair in pairing.pairs))
    samples: list[FileSample] = []
    deepest: list[int] = []
    turned: list[str] = []
    labels: list[frozenset[str]] = []
    left_out = 0
    for pair in pairing.pairs:
        left_out += _check_pair(card, pair, samples, deepest, turned, labels, report)
        advance(_size_bytes(pair))
    if turned:
        report.notes.append(_may_be_turned(turned))
    if fault := too_dark(card, deepest):
        report.faults["other"].append(fault)
    if not report.faults["broken"] and (fault := unknown_labels(card, labels)):
        report.faults["other"].append(fault)
    if left_out:
        little = "empty masks" if card.min_pixels == 1 else f"fewer than {card.min_pixels} pixels"
        report.notes.append(f"left out, as the card says: {left_out} with {little}")
    if samples:
        _divide(card, samples, report, is_test_only=is_test_only)
    elif pairing.pairs and len(report.faults["empty"]) == len(pairing.pairs):
        report.notes.append(no_samples(card, pairing.pairs))
    elif not report.fault_count:
        report.faults["other"].append(no_samples(card, pairing.pairs))
    _compare_expected(card, pairing, report, is_test_only=is_test_only)
    return report


def _count_drawn(card: Card, report: DomainReport, *, is_test_only: bool) -> None:
    counts = card.split.counts
    report.layout, report.train, report.test = "drawn", 0 if is_test_only else counts["train"], counts["test"]
    report.samples = report.train + report.test
    report.faults["other"] += empty_parts(report.train, report.test, is_retention=is_test_only)


def find_leaks(reports: Sequence[DomainReport], *, stream: str) -> str:
    """What one domain of a stream trains on and another is tested on; empty if nothing."""
    try:
        check_leaks([report.domain for report in reports if report.domain is not None], stream=stream)
    except CosamError as error:
        return str(error)
    return ""


def find_near_copies(reports: Sequence[DomainReport]) -> list[str]:
    """What one domain trains on and another tests on that looks the same: a line for each two such domains."""
    found = []
    for report, other in permutations(reports, 2):
        if alike := _alike(report, other):
            seen = f"{len(alike)} test images of {other.name} look like one that {report.name} trains on"
            found.append(f"{seen} ({_examples(alike)})")
    return found


def _alike(report: DomainReport, other: DomainReport) -> list[tuple[str, str]]:
    """The training images of one domain and the test images of another that look the same, by name.

    Images of the same bytes are left out, since they are faults.
    """
    if report.domain is None or other.domain is None:
        return []
    train, test = _names(report.domain[1].train), _names(other.domain[1].test)
    both = train.keys() & test.keys()
    return near_copies(
        {name: report.prints[digest] for digest, name in train.items() if digest not in both},
        {name: other.prints[digest] for digest, name in test.items() if digest not in both},
    )


def _names(split: Split) -> dict[str, str]:
    """The paths of a split's images, without suffix, by the sha256 of their bytes; none if they are drawn."""
    entries = split.manifest.entries
    return {entry.image_sha256: entry.key.rpartition("#")[0] or entry.key for entry in entries if entry.image_name}


def _examples(alike: Sequence[tuple[str, str]]) -> str:
    return first_few([f"{trained} and {tested}" for trained, tested in alike], shown=2)


def _size_bytes(pair: Pair) -> int:
    paths = (pair.image,) if pair.listed_as else (pair.image, *pair.mask_files)
    return sum(path.stat().st_size for path in paths if path.is_file())


def _report_pairing(card: Card, pairing: Pairing, report: DomainReport) -> None:
    for fault in pairing.faults:
        report.faults[_PAIRING_KINDS[fault.kind]].append(fault.text)
    if pairing.skipped:
        report.notes.append(f"left out, as the card says: {len(pairing.skipped)} images without a mask")
    if not pairing.is_missing:
        report.faults["no image"] += unused_masks(card, pairing)


def _may_be_turned(masks: Sequence[str]) -> str:
    return (
        "masks taken as upright, though an EXIF orientation turns their images and the sizes fit both ways: "
        f'{len(masks)} ({first_few(masks, shown=2)}). Look at one of them, and say orientation = "upright" or '
        '"stored" in the card'
    )


def _check_pair(
    card: Card,
    pair: Pair,
    samples: list[FileSample],
    deepest: list[int],
    turned: list[str],
    labels: list[frozenset[str]],
    report: DomainReport,
) -> int:
    """Read both files of a pair; returns how many of its samples the card leaves out as too small or empty."""
    try:
        found = scan_pair(card, pair, opened=OpenedImages())
    except CosamError as error:
        report.faults["size" if isinstance(error, SizeMismatch) else "broken"].append(str(error))
        return 0
    samples += found.samples
    if found.samples:
        report.prints[found.samples[0].entry.image_sha256] = _print_of(card, pair)
    deepest.append(found.deepest)
    labels.append(found.labels)
    turned += [pair.mask.name] * found.may_be_turned
    if found.is_empty and card.empty is None:
        report.faults["empty"].append(annotation_name(pair))
        return 0
    return found.left_out


def _print_of(card: Card, pair: Pair) -> ImagePrint:
    white = card.levels or DEEPEST
    return image_print(decode_image(read_bytes(pair.image), name=str(pair.image), white=white))


def _divide(card: Card, samples: Sequence[FileSample], report: DomainReport, *, is_test_only: bool) -> None:
    try:
        train, test = assign_parts(card, samples)
        trained, tested, negatives = make_splits(card, train, test, 0)
    except CosamError as error:
        report.faults["other"].append(str(error))
        return
    report.faults["twice"] += shared_images(train, test)
    if card.group:
        keys = ([sample.pair.key for sample in part] for part in (train, test))
        report.faults["group"] += shared_groups(card.group, *keys)
    report.train, report.test = (len({sample.pair.key for sample in part}) for part in (train, test))
    report.samples = len(train) + len(test)
    if card.empty == "keep":
        kept = 0 if is_test_only else trained.manifest.empty_count, 0 if negatives is None else len(negatives)
        report.notes.append("kept, as the card says: {} training and {} test images with empty masks".format(*kept))
    is_without = any(part.points_file is None for part in (trained, tested) if len(part))
    if card.points and is_without and not card.layout:  # layouts may lack it
        report.notes.append(f"there is no file {card.points}, which prompts.published = true needs")
    report.faults["other"] += empty_parts(len(train), len(tested), is_retention=is_test_only)
    trained = empty_split(card.name, part="train") if is_test_only else trained
    domain = Domain(card.name, card.full_title, trained, tested, negatives)
    report.domain = card, domain
    if alike := _alike(report, report):
        report.notes.append(f"test images that look like one in training: {len(alike)} ({_examples(alike)})")
    report.digest = "" if report.fault_count else domain.digest


def _compare_expected(card: Card, pairing: Pairing, report: DomainReport, *, is_test_only: bool) -> None:
    """Compare the number of images with the one that the source states."""
    if card.expected is None or count_difference(card, pairing, is_test_only=is_test_only) is None:
        return
    text = f"images for training and test: {report.train} and {report.test}"
    stated_both = f"{card.expected.train} and {card.expected.test}"
    if "expected" in card.verified:
        report.faults["other"].append(f"{text}; the source states {stated_both}")
    else:
        report.notes.append(f"{text}; the card states {stated_both}, which nobody has checked")
