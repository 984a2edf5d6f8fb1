"""Domains of files: images and masks are found, hashed, compared and divided into samples."""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from cosam_bench.core.errors import CosamError
from cosam_bench.core.hashing import sha256_bytes
from cosam_bench.core.prefetch import prefetch_map
from cosam_bench.core.reading import read_file
from cosam_bench.data.annotations import AnnotatedMask, SizeMismatch, is_annotated, read_annotation
from cosam_bench.data.cards import Card, Part
from cosam_bench.data.decoding import (
    DEEPEST,
    TWELVE_BITS,
    decode_image,
    exif_orientation,
    read_mask_content,
    upright_size,
)
from cosam_bench.data.faults import DataFault, first_few, refuse
from cosam_bench.data.image_groups import GroupPattern
from cosam_bench.data.mask_files import MaskFile, decode_ignored_pixels, decode_masks
from cosam_bench.data.opened_images import OpenedImages
from cosam_bench.data.pairing import Pair, find_pairs
from cosam_bench.data.samples import Entry, Manifest, Split
from cosam_bench.data.splits import FileSample, divide, parts_by_name

_FILE_BYTES = 1 << 30  # of an image or a mask; Pillow's own limit of pixels is 89 million
_MOST_THREADS = 4
_BY_OBJECT = ("polygon", "instance")


def open_files(card: Card, *, is_training_only: bool = False) -> tuple[Split, Split, Split | None]:
    """The training part of a domain of files, the test part, and its samples with empty masks if they are kept.

    Args:
        card: of the domain.
        is_training_only: read no file of an image that is known by its name to be for testing; the test part then
            lacks these.

    Raises:
        CosamError: files are missing or damaged, or images and masks do not fit.
    """
    pairs = find_pairs(card)
    parts = parts_by_name(card, pairs) if is_training_only else {}
    if parts:
        pairs = tuple(pair for pair in pairs if parts.get(pair.key) == "train")
    opened = OpenedImages.of_this_machine()
    scans: list[PairScan] = []
    faults: list[str] = []

    def scanned(pair: Pair) -> PairScan | CosamError:
        try:
            return scan_pair(card, pair, opened=opened)
        except CosamError as error:
            return error

    with closing(prefetch_map(scanned, pairs, workers=_threads(), depth=2 * _threads())) as results:
        for found in results:
            if isinstance(found, PairScan):
                scans.append(found)
            else:
                faults.append(str(found))
    opened.save()
    if fault := too_dark(card, [scan.deepest for scan in scans]):
        faults.append(fault)
    if not parts and not faults and (fault := unknown_labels(card, [scan.labels for scan in scans])):
        faults.append(fault)
    if faults:
        refuse(card, faults)
    samples = [sample for scan in scans for sample in scan.samples]
    left_out = sum(scan.left_out for scan in scans)
    if not samples:
        refuse(card, [no_samples(card, pairs)])
    train, test = (samples, []) if parts else divide(card, samples)
    return make_splits(card, train, test, left_out)


def _threads() -> int:
    """Decoding releases Python's lock."""
    return min(_MOST_THREADS, os.cpu_count() or 1)


def no_samples(card: Card, pairs: Sequence[Pair]) -> str:
    """The fault of a domain whose masks have too little foreground, with what the first one holds."""
    little = "are empty" if card.min_pixels == 1 else f"have fewer than {card.min_pixels} foreground pixels"
    return f"all {len(pairs)} masks {little}{_held(pairs[0])}; check which pixels are foreground"


def _held(pair: Pair) -> str:
    """What a mask holds, if it is an image, in brackets."""
    if is_annotated(pair):
        return ""
    content = read_mask_content(read_bytes(pair.mask), name=str(pair.mask))
    return f" ({pair.mask.name} has {content.described()})"


def components(mask: Tensor) -> Tensor:
    """Connected components (8 neighbours), int64 ``(H, W)``: 0 is background, the first component 1.

    Args:
        mask: bool, ``(H, W)``. Components are numbered in the order of their first pixels, row by row.
    """
    labels, _ = ndimage.label(mask.numpy(), structure=np.ones((3, 3)))
    return torch.from_numpy(labels.astype(np.int64))


@dataclass(frozen=True)
class FilePixels:
    """Decodes the files of samples."""

    card: Card
    samples: tuple[FileSample, ...]

    def image(self, index: int) -> Tensor:
        """uint8, ``(3, H, W)``."""
        path = self.samples[index].pair.image
        with _data_at_fault():
            return decode_image(read_bytes(path), name=str(path), white=self.card.levels or DEEPEST)

    def mask(self, index: int) -> Tensor:
        """bool, ``(H, W)``."""
        with _data_at_fault():
            return self._mask(index)

    def ignored(self, index: int) -> Tensor | None:
        """bool, ``(H, W)``; None if all pixels count."""
        pair, card = self.samples[index].pair, self.card
        with _data_at_fault():
            if is_annotated(pair):
                return self._annotated(pair).ignored()
            return decode_ignored_pixels(card, _mask_files(pair), orientation=self._orientation(pair))

    def _mask(self, index: int) -> Tensor:
        sample, card = self.samples[index], self.card
        if is_annotated(sample.pair):
            annotated = self._annotated(sample.pair)
            if sample.component and card.samples in _BY_OBJECT:
                return annotated.draw(sample.component)
            mask = annotated.draw()
        else:
            mask = decode_masks(card, _mask_files(sample.pair), orientation=self._orientation(sample.pair))
        return components(mask) == sample.component if sample.component else mask

    def _orientation(self, pair: Pair) -> int:
        """Of the image, if masks are turned with it."""
        if self.card.orientation != "stored":
            return 1
        return exif_orientation(read_bytes(pair.image), name=str(pair.image))

    def _annotated(self, pair: Pair) -> AnnotatedMask:
        size = upright_size(read_bytes(pair.image), name=str(pair.image))
        return read_annotation(self.card, pair, _annotation_bytes(pair), size=size)


def _mask_files(pair: Pair) -> list[MaskFile]:
    return [MaskFile(path, read_bytes(path)) for path in pair.mask_files]


def _annotation_bytes(pair: Pair) -> bytes:
    """Of a pair's annotation file; none of a file of many images, which is parsed once."""
    return b"" if pair.listed_as else read_bytes(pair.mask)


def read_bytes(path: Path) -> bytes:
    """A file's bytes.

    Raises:
        CosamError: it cannot be read.
    """
    try:
        return read_file(path, limit_bytes=_FILE_BYTES)
    except OSError as error:
        advice = " Check that it is still there." if isinstance(error, FileNotFoundError) else ""
        raise DataFault(f"{path} cannot be read: {error.strerror}.{advice}") from None


@contextmanager
def _data_at_fault() -> Iterator[None]:
    """Whoever asks for pixels, a method included: if they cannot be read, the data is at fault."""
    try:
        yield
    except DataFault:
        raise
    except CosamError as error:
        raise DataFault(str(error)) from error


@dataclass(frozen=True)
class PairScan:
    """The samples of one pair.

    Attributes:
        samples: those with enough foreground.
        left_out: the number of the others, at least one if there are no samples.
        is_empty: the mask has no foreground at all.
        deepest: the largest level of an image of 16 bits; 0 for other images.
        may_be_turned: an EXIF orientation turns the image, the card does not say whether masks are ``stored`` or
            ``upright``, and both have the same size.
        labels: of the objects in its annotation file; empty for COCO's, whose categories are known without them.
    """

    samples: tuple[FileSample, ...]
    left_out: int
    is_empty: bool
    deepest: int = 0
    may_be_turned: bool = False
    labels: frozenset[str] = frozenset()


def scan_pair(card: Card, pair: Pair, *, opened: OpenedImages) -> PairScan:
    """Hash both files of a pair, decode them once, and find its samples.

    Args:
        card: says how masks are read.
        pair: the files.
        opened: the images that need not be decoded.

    Raises:
        SizeMismatch: the mask does not have the image's size.
        CosamError: a file cannot be read or is not the one that a manifest lists, or the mask is not what the card
            says.
    """
    image, masks = read_bytes(pair.image), [MaskFile(pair.mask, b"")] if pair.listed_as else _mask_files(pair)
    mask = b"".join(file.data for file in masks)
    if changed := pair.changed_files(image_sha256=sha256_bytes(image), mask_sha256=sha256_bytes(mask)):
        raise CosamError("; ".join(changed))
    size, orientation = upright_size(image, name=str(pair.image)), exif_orientation(image, name=str(pair.image))
    annotated = read_annotation(card, pair, mask, size=size) if is_annotated(pair) else None
    sizes = _sample_sizes(card, pair, masks, annotated, size=size, orientation=orientation)
    hashes = sha256_bytes(image), sha256_bytes(mask, *(annotated.hashed() if annotated else ()))
    deepest = opened.check(image, sha256=hashes[0], name=str(pair.image))
    has_ignored = annotated is not None and annotated.ignored() is not None
    group = (GroupPattern(card.group).of(pair.key) or "") if card.group else ""
    found = []
    for number, pixels in sizes.items():
        key = f"{pair.key}#{number}" if number else pair.key
        if pixels >= card.min_pixels:
            entry = Entry(key, *hashes, pair.image.name, pair.mask.name, group=group)
            found.append(FileSample(pair, entry, number, has_ignored=has_ignored))
    left_out = max(len(sizes), 1) - len(found)
    is_turned = orientation > 1 and (orientation < 5 or size[0] == size[1])
    may_be_turned = is_turned and not annotated and card.orientation is None
    if may_be_turned:
        may_be_turned = exif_orientation(masks[0].data, name=str(pair.mask)) == 1  # with a tag of its own it is upright
    labels = frozenset(annotated.labels() if annotated and not pair.listed_as else ())
    is_empty = not any(sizes.values())
    if is_empty and card.empty == "keep":
        entry = Entry(pair.key, *hashes, pair.image.name, pair.mask.name, is_empty=True, group=group)
        kept = FileSample(pair, entry, has_ignored=has_ignored)
        return PairScan((kept,), 0, is_empty=True, deepest=deepest, may_be_turned=may_be_turned, labels=labels)
    return PairScan(
        tuple(found), left_out, is_empty=is_empty, deepest=deepest, may_be_turned=may_be_turned, labels=labels
    )


def unknown_labels(card: Card, found: Iterable[frozenset[str]]) -> str:
    """The fault of labels of the card that no object has, a mistyped one perhaps; empty if there is none.

    Args:
        card: of the domain.
        found: the labels in each annotation file of the domain; nothing of COCO's, see ``annotation_files``.
    """
    known = sorted(frozenset().union(*found))
    unknown = [label for label in card.labels if label not in known]
    if not unknown or card.annotations:
        return ""
    held = first_few(list(map(repr, known))) if known else "no objects"
    return f"labels has {', '.join(map(repr, unknown))}, but its annotation files hold {held}; correct labels"


def too_dark(card: Card, deepest: Sequence[int]) -> str:
    """The fault of images of 16 bits that all use 12 or fewer; empty if there is none, or the card gives levels.

    Args:
        card: of the domain.
        deepest: the largest level of each image of 16 bits; 0 for others.
    """
    found = max(deepest, default=0)
    if card.levels or not 0 < found <= TWELVE_BITS:
        return ""
    return (
        f"its images of 16 bits ({sum(level > 0 for level in deepest)}) hold levels up to {found} of {DEEPEST}, as if "
        f"they had 12; say levels = {TWELVE_BITS} in the card, or {DEEPEST} if they are meant to be that dark"
    )


def _sample_sizes(
    card: Card,
    pair: Pair,
    masks: Sequence[MaskFile],
    annotated: AnnotatedMask | None,
    *,
    size: tuple[int, int],
    orientation: int,
) -> dict[int, int]:
    """The pixels of each sample by its number; 0 is the number of a whole mask.

    Args:
        card: says how masks are read and divided.
        pair: the files.
        masks: its mask files.
        annotated: the mask if it is drawn from an annotation file.
        size: height and width of the upright image.
        orientation: of the image, as in EXIF.
    """
    if annotated:
        if card.samples in _BY_OBJECT:
            return {number: int(annotated.draw(number).sum()) for number in annotated.numbers()}
        mask = annotated.draw()
    else:
        if card.samples == "polygon":
            raise CosamError(f'{pair.mask.name} is an image; samples = "polygon" needs labelme files (.json)')
        mask = decode_masks(card, masks, orientation=orientation)
        if size != tuple(mask.shape):
            advice = ""
            if orientation >= 5 and size == tuple(mask.shape[::-1]) and card.orientation is None:
                advice = (
                    f", as the image's pixels are stored, before its EXIF orientation {orientation} turns them; if all "
                    'masks were drawn on them, say orientation = "stored" in the card, otherwise turn the mask'
                )
            raise SizeMismatch(
                f"{pair.image.name} is {size[1]} x {size[0]} pixels upright, "
                f"but its mask {pair.mask.name} is {mask.shape[1]} x {mask.shape[0]}{advice}"
            )
    if card.samples == "component":
        return dict(enumerate(components(mask).flatten().bincount()[1:].tolist(), start=1))
    return {0: int(mask.sum())}


def make_splits(
    card: Card, train: Sequence[FileSample], test: Sequence[FileSample], left_out: int
) -> tuple[Split, Split, Split | None]:
    """The splits of a card's domain: training, test, and the test samples with empty masks, None if there are none.

    Args:
        card: says how masks are read.
        train: the training samples; those with empty masks stay among them.
        test: the test samples.
        left_out: as for ``make_split``.

    Raises:
        CosamError: as ``make_split``.
    """
    negatives = [sample for sample in test if sample.entry.is_empty]
    tested = [sample for sample in test if not sample.entry.is_empty]
    apart = make_split(card, "test", negatives, left_out) if negatives else None
    return make_split(card, "train", train, left_out), make_split(card, "test", tested, left_out), apart


def make_split(card: Card, part: Part, samples: Sequence[FileSample], left_out: int) -> Split:
    """One part of a card's domain.

    Args:
        card: says how masks are read.
        part: which part.
        samples: its samples.
        left_out: number of samples of the whole domain that were too small.

    Raises:
        CosamError: there are several files of published points for this part.
    """
    rule = f"{card.foreground.model_dump_json(exclude_defaults=True)} {card.samples}"
    if card.labels:
        rule += f" labels={json.dumps(card.labels)}"
    if card.levels:
        rule += f" levels={card.levels}"
    if card.ignore:
        rule += f" ignore={card.ignore.model_dump_json(exclude_defaults=True)}"
    if card.empty == "keep":
        rule += " empty=keep"
    if card.orientation == "stored":
        rule += " orientation=stored"
    if card.several == "union":
        rule += " several=union"
    if card.holes:
        rule += f" holes={card.holes}"
    entries = tuple(sample.entry for sample in samples)
    has_ignored = card.ignore is not None or bool(card.annotations) or any(sample.has_ignored for sample in samples)
    manifest = Manifest(entries, rule, left_out, has_ignored=has_ignored)
    source = FilePixels(card, tuple(samples))
    return Split(card.name, part=part, manifest=manifest, source=source, points_file=_points_file(card, part))


def _points_file(card: Card, part: Part) -> Path | None:
    """The published points of one part; None if the card names no file or the file is missing."""
    if not card.points:
        return None
    root = Path(card.root)
    names = sorted(glob.glob(card.points.replace("{part}", part), root_dir=root))  # noqa: PTH207, as for images
    found = [root / name for name in names if (root / name).is_file()]
    if len(found) > 1:
        refuse(card, [f"there are several files of published points: {', '.join(map(str, found))}; keep one"])
    return found[0] if found else None
