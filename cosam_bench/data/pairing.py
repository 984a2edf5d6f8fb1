"""The image and mask files of a card, paired, and everything that does not pair.

Only names are read, and COCO's annotation files; no image is opened. ``run``, ``domains`` and ``data check`` all use
:func:`pair_files`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from cosam_bench.core.errors import CosamError
from cosam_bench.data.availability import missing_reason
from cosam_bench.data.cards import Card, Part
from cosam_bench.data.coco_files import CocoIndex, annotation_files
from cosam_bench.data.faults import domain_error, first_few
from cosam_bench.data.file_patterns import (
    ImageIds,
    MaskLookup,
    image_globs,
    is_image,
    is_utf8,
    mask_globs,
    mask_patterns,
    matching_paths,
    relative,
)
from cosam_bench.data.split_manifests import ListedImage, listed_images
from cosam_bench.data.unread_files import no_files, unread_images, unread_masks

_DIGITS = 18  # of a number in a file's name
_COMPOSED_OTHERWISE = (
    " (one looks the same, but its accents are composed otherwise, in Unicode's NFC or NFD; rename it)"
)


@dataclass(frozen=True)
class Pair:
    """One image file and its mask file.

    Attributes:
        key: the image's path relative to the root, without suffix.
        image: absolute path.
        mask: absolute path; an image, or an annotation file.
        part: the part that the image belongs to if the card splits by folders or has a manifest.
        image_sha256: of the image file, if the card has a manifest.
        mask_sha256: of the mask file, likewise.
        listed_as: the image's name in the mask file if that is one of COCO's, which holds many images.
        more_masks: the other mask files, if the card takes the union of several.
    """

    key: str
    image: Path
    mask: Path
    part: Part | None = None
    image_sha256: str = ""
    mask_sha256: str = ""
    listed_as: str = ""
    more_masks: tuple[Path, ...] = ()

    @property
    def mask_files(self) -> tuple[Path, ...]:
        """All its mask files."""
        return (self.mask, *self.more_masks)

    def changed_files(self, *, image_sha256: str, mask_sha256: str) -> list[str]:
        """The files, with their hashes, that are not those of the card's manifest; none without a manifest."""
        hashes = ((self.image, image_sha256, self.image_sha256), (self.mask, mask_sha256, self.mask_sha256))
        return [
            f"{path} is not the file that the manifest lists (sha256 {found[:12]}..., not {listed[:12]}...)"
            for path, found, listed in hashes
            if listed not in ("", found)
        ]


@dataclass(frozen=True)
class ImageFile:
    """An image file, and the part that it belongs to if the card splits by folders."""

    path: Path
    part: Part | None = None


@dataclass(frozen=True)
class PairingFault:
    """One reason why a domain's files cannot be used.

    Attributes:
        kind: ``name`` is a path that cannot be used: shared with another image, sharing its mask, or not UTF-8;
            ``unread`` is a file that cannot be read or is not looked at; ``other`` concerns whole folders.
        text: what is wrong, with the file's path relative to the root.
        name: that path, if an image has no mask.
    """

    kind: Literal["no mask", "several masks", "name", "unread", "other"]
    text: str
    name: str = ""


@dataclass(frozen=True)
class Pairing:
    """The files of a card of kind ``files``.

    Attributes:
        pairs: images with exactly one mask that no other image has, in order of the images' paths.
        faults: everything that keeps the domain from being opened.
        images: all images that the card takes, with or without a mask.
        skipped: images without a mask that the card says to skip, relative to the root.
        is_missing: there is no folder to look into; the only fault says why.
    """

    pairs: tuple[Pair, ...] = ()
    faults: tuple[PairingFault, ...] = ()
    images: tuple[ImageFile, ...] = ()
    skipped: tuple[str, ...] = ()
    is_missing: bool = False


def find_pairs(card: Card) -> tuple[Pair, ...]:
    """All pairs of a card of kind ``files``.

    Raises:
        CosamError: the pairing has faults.
    """
    pairing = pair_files(card)
    if error := pairing_error(card, pairing):
        raise error
    return pairing.pairs


def pairing_error(card: Card, pairing: Pairing) -> CosamError | None:
    """The error for the faults of a pairing; None if there are none."""
    if not pairing.faults:
        return None
    advice = ""
    if {"no mask", "several masks"} & {fault.kind for fault in pairing.faults}:
        # The patterns of a recognised layout are not the user's to correct.
        key = "annotations" if card.annotations else "masks"
        value = card.annotations or card.masks
        advice = "Complete the data." if card.layout else f"Complete the data or correct {key} = {value!r}."
    return domain_error(card, [fault.text for fault in pairing.faults], advice=advice)


def pair_files(card: Card) -> Pairing:
    """The images and masks of a card of kind ``files``, paired by name or by position as the card says."""
    if reason := missing_reason(card):
        return Pairing(faults=(PairingFault("other", reason),), is_missing=True)
    root = Path(card.root)
    faults: list[PairingFault] = []
    found: list[ImageFile] = []
    others: set[Path] = set()
    for part, patterns in image_globs(card).items():
        found += [ImageFile(path, part) for path in _matches(root, patterns, faults, others)]
    images = _without_tested(card, found)
    try:
        listed = listed_images(card)
    except CosamError as error:
        return Pairing(faults=(PairingFault("other", str(error)),))
    if listed and card.pairing == "name":  # by position, an image that is not listed still has its mask
        images = [image for image in images if relative(image.path, root) in listed]
    skipped: list[str] = []
    if card.annotations:
        pairs, skipped = _pair_by_annotations(card, root, images, faults)
    elif card.pairing == "sorted":
        pairs = _pair_by_position(card, root, images, faults)
    else:
        pairs, skipped = _pair_by_name(card, root, images, faults, others)
    only_masks = {mask for pair in pairs for mask in pair.mask_files} - {pair.image for pair in pairs}
    images = [image for image in images if image.path not in only_masks]
    unique = _unique(pairs, root, faults)
    if listed:
        faults += _missing(card, images, root, listed)
        images, unique = _as_listed(images, unique, root, listed)
    return Pairing(tuple(unique), tuple(faults), tuple(images), tuple(skipped))


def _missing(
    card: Card, images: Sequence[ImageFile], root: Path, listed: Mapping[str, ListedImage]
) -> list[PairingFault]:
    """The fault of images that the manifest lists and the patterns do not match."""
    missing = sorted(set(listed) - {relative(image.path, root) for image in images})
    named = first_few(missing, shown=2)
    text = f"{len(missing)} of the {len(listed)} images in {card.split.file} are not in {root}: {named}"
    return [PairingFault("other", text)] if missing else []


def _as_listed(
    images: Sequence[ImageFile], pairs: Sequence[Pair], root: Path, listed: Mapping[str, ListedImage]
) -> tuple[list[ImageFile], list[Pair]]:
    """The images and pairs that a manifest lists, with what it says of them."""
    found = [(listed.get(relative(image.path, root)), image) for image in images]
    taken = [replace(image, part=line.part) for line, image in found if line is not None]
    lines = [(listed.get(relative(pair.image, root)), pair) for pair in pairs]
    return taken, [
        replace(pair, part=line.part, image_sha256=line.image_sha256, mask_sha256=line.mask_sha256)
        for line, pair in lines
        if line is not None
    ]


def _matches(root: Path, patterns: Sequence[str], faults: list[PairingFault], others: set[Path]) -> list[Path]:
    """The image files that the globs match, sorted by path, each once; ``others`` receives what else they match."""
    found: set[Path] = set()
    for pattern in patterns:
        matches = set(matching_paths(root, pattern))
        matched = {path for path in matches if is_image(path)}
        faults += [PairingFault("unread", text) for text in no_files(sorted(matches - matched - others), root)]
        others |= matches - matched
        if not matched:
            text = f"no image matches {pattern!r} in {root}; {_folder_content(root, pattern)}"
            faults.append(PairingFault("other", text))
        found |= matched
    return sorted(found, key=lambda path: path.as_posix())


def _folder_content(root: Path, pattern: str) -> str:
    """What is in the folder that a pattern names: most often the suffix or the folder is another."""
    folder = root / pattern.split("*")[0].rpartition("/")[0]
    if not folder.is_dir():
        return f"there is no folder {folder}"
    kinds = Counter(path.suffix or "without suffix" for path in folder.iterdir() if path.is_file())
    listed = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(4))
    return f"that folder holds {listed or 'no files'}"


def _without_tested(card: Card, images: list[ImageFile]) -> list[ImageFile]:
    """The images without those for training that ``without_test`` leaves out by name."""
    if not card.split.without_test:
        return images
    tested = {image.path.stem for image in images if image.part == "test"}
    return [image for image in images if image.part == "test" or image.path.stem not in tested]


def _pair_by_position(card: Card, root: Path, images: Sequence[ImageFile], faults: list[PairingFault]) -> list[Pair]:
    """Pairs by position; if there are not as many masks as images, by stem, which shows the missing ones."""
    pairs: list[Pair] = []
    for part, patterns in mask_globs(card).items():
        own = sorted((image for image in images if part in (None, image.part)), key=lambda image: image.path.as_posix())
        masks = _matches(root, patterns, faults, set())
        if len(own) == len(masks):
            paired = [_pair(image, mask, root) for image, mask in zip(own, masks, strict=True)]
            faults += _numbered_otherwise(paired, root)
            pairs += paired
            continue
        where = f" for {part}" if part else ""
        text = f"{len(own)} images but {len(masks)} masks{where}; sorted pairing needs one mask per image"
        faults.append(PairingFault("other", text))
        by_stem: dict[str, list[Path]] = {}
        for mask in masks:
            by_stem.setdefault(mask.stem, []).append(mask)
        for image in own:
            candidates = by_stem.get(image.path.stem, [])
            if len(candidates) == 1:
                pairs.append(_pair(image, candidates[0], root))
            else:
                faults.append(_not_one_mask(image, candidates, root, wanted=f"called {image.path.stem}"))
    return pairs


def _numbered_otherwise(pairs: Sequence[Pair], root: Path) -> list[PairingFault]:
    """The fault of images and masks with the same numbers in their names that the order of paths pairs otherwise."""
    images = [_numbers(pair.image) for pair in pairs]
    masks = [_numbers(pair.mask) for pair in pairs]
    if images == masks or sorted(images) != sorted(masks) or len(set(images)) < len(images):
        return []
    first = next(pair for pair, image, mask in zip(pairs, images, masks, strict=True) if image != mask)
    text = f"sorted pairing gives {relative(first.image, root)} the mask {relative(first.mask, root)}, but their "
    return [PairingFault("other", text + "numbers say otherwise; give all numbers the same digits, as in 01 and 10")]


def _numbers(path: Path) -> tuple[int, ...]:
    return tuple(int(digits[-_DIGITS:]) for digits in re.findall(r"[0-9]+", path.stem))


def _pair_by_name(
    card: Card, root: Path, images: Sequence[ImageFile], faults: list[PairingFault], others: set[Path]
) -> tuple[list[Pair], list[str]]:
    """Pairs by name, and the images without a mask that are skipped."""
    lookup = MaskLookup(root, mask_patterns(card), ImageIds(card))
    pairs: list[Pair] = []
    without: list[ImageFile] = []
    for image in images:
        candidates = lookup.masks_of(image.path)
        if len(candidates) == 1 or (candidates and card.several == "union"):
            pairs.append(replace(_pair(image, candidates[0], root), more_masks=tuple(candidates[1:])))
        elif candidates:
            faults.append(_not_one_mask(image, candidates, root))
        else:
            without.append(image)
    used = {mask for pair in pairs for mask in pair.mask_files}
    without = [image for image in without if image.path not in used]
    faults += [PairingFault("unread", text) for text in unread_images(others, root, lookup, used)]
    is_skipped = card.unlabelled == "skip" and bool(pairs)
    named: set[Path] = set()
    for image in without:
        texts = no_files(lookup.broken_masks_of(image.path), root)
        texts += unread_masks(image.path, root, lookup, is_skipped=is_skipped)
        named |= {image.path} if texts else set()
        faults += [PairingFault("unread", text) for text in texts]
    if is_skipped:
        return pairs, [relative(image.path, root) for image in without]
    lacking = [image for image in without if image.path not in named]
    for image in lacking:
        note = _COMPOSED_OTHERWISE if lookup.composed_otherwise(image.path) else ""
        faults.append(_not_one_mask(image, [], root, wanted=lookup.filled(image.path) + note))
    return pairs, []


def _pair_by_annotations(
    card: Card, root: Path, images: Sequence[ImageFile], faults: list[PairingFault]
) -> tuple[list[Pair], list[str]]:
    """Pairs of images and what COCO's files list for them, and the unlisted images that are skipped."""
    try:
        files = annotation_files(card, root)
    except CosamError as error:
        faults.append(PairingFault("other", str(error).rstrip(".")))
        return [], []
    index = CocoIndex(root, files)
    pairs: list[Pair] = []
    without: list[ImageFile] = []
    for image in images:
        listings = index.listings(image.path)
        if len(listings) == 1:
            file, name = listings[0]
            pairs.append(replace(_pair(image, file.path, root), listed_as=name))
        elif listings:
            listed = ", ".join(f"{name} in {file.path.name}" for file, name in listings[:3])
            faults.append(PairingFault("several masks", f"{relative(image.path, root)} is listed twice ({listed})"))
        else:
            without.append(image)
    if card.unlabelled == "skip" and pairs:
        return pairs, [relative(image.path, root) for image in without]
    named = ", ".join(relative(file.path, root) for file in files)
    names = [relative(image.path, root) for image in without]
    faults += [PairingFault("no mask", f"{name} is not listed in {named}", name) for name in names]
    return pairs, []


def _pair(image: ImageFile, mask: Path, root: Path) -> Pair:
    key = Path(relative(image.path, root)).with_suffix("").as_posix()
    return Pair(key, image.path, mask, image.part)


def _not_one_mask(image: ImageFile, masks: Sequence[Path], root: Path, *, wanted: str = "") -> PairingFault:
    name = relative(image.path, root)
    if masks:
        return PairingFault("several masks", f"{name} has several masks ({', '.join(mask.name for mask in masks)})")
    return PairingFault("no mask", f"{name} has no mask {wanted}", name)


def _unique(pairs: Sequence[Pair], root: Path, faults: list[PairingFault]) -> list[Pair]:
    """The pairs that share neither key nor mask with another and whose key can be hashed."""
    keys = Counter(pair.key for pair in pairs)
    masks = Counter((mask, pair.listed_as) for pair in pairs for mask in pair.mask_files)
    unique = []
    for pair in pairs:
        name = relative(pair.image, root)
        if not is_utf8(pair.key):
            faults.append(PairingFault("name", f"the path {pair.key!r} is not UTF-8; rename it"))
        elif keys[pair.key] > 1:
            faults.append(PairingFault("name", f"{name} shares its name with another image"))
        elif any(masks[mask, pair.listed_as] > 1 for mask in pair.mask_files):
            mask = f"{pair.listed_as} in {pair.mask.name}" if pair.listed_as else pair.mask.name
            is_json = not pair.listed_as and pair.mask.suffix.lower() == ".json"
            hint = "; if that is a COCO file, say annotations instead of masks" if is_json else ""
            faults.append(PairingFault("name", f"{name} shares its mask {mask} with another image{hint}"))
        else:
            unique.append(pair)
    return unique
