"""Cards that may fit a folder: which files are images, where the mask of each is, and how they are divided."""

from __future__ import annotations

import glob
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cosam_bench.data.cards import Card
from cosam_bench.data.file_patterns import has_image_name
from cosam_bench.data.guessing.file_groups import FileGroup, file_groups
from cosam_bench.data.guessing.folder_listing import Folder, FolderListing
from cosam_bench.data.guessing.folder_words import Division, role_of
from cosam_bench.data.guessing.name_patterns import NamePattern, name_patterns
from cosam_bench.data.pairing import Pairing, pair_files

ENDINGS = {"masks": ".*", "labelme": ".json", "yolo": ".txt"}


@dataclass(frozen=True)
class Candidate:
    """A card that may fit.

    Attributes:
        kind: ``masks`` (images), ``labelme``, ``yolo`` or ``coco``.
        keys: of the card, without name and root.
        notes: what somebody should know of it.
        pairing: of its files, once they have been looked for.
    """

    kind: str
    keys: dict[str, Any]
    notes: tuple[str, ...] = ()
    pairing: Pairing = field(default_factory=Pairing, compare=False)

    def card(self, root: Path) -> Card:
        """The card with its data in a folder."""
        return Card.model_validate({"name": "guess", "root": str(root)} | self.keys)

    def paired(self, root: Path) -> Candidate:
        """The same with its files paired."""
        return replace(self, pairing=pair_files(self.card(root)))


def best_candidate(paired: Sequence[Candidate]) -> Candidate | None:
    """The candidate with most pairs, then fewest faults, then most masks, then the first; None if none has a pair."""
    fitting = [candidate for candidate in paired if candidate.pairing.pairs]
    return max(fitting, key=_fit, default=None)


def _fit(candidate: Candidate) -> tuple[int, int, int]:
    pairing = candidate.pairing
    return len(pairing.pairs), -len(pairing.faults), sum(len(pair.mask_files) for pair in pairing.pairs)


def mask_candidates(listing: FolderListing, *, kind: str, files: Sequence[Path] | None = None) -> list[Candidate]:
    """The cards whose images have masks of one kind: an image, or an annotation file each.

    Args:
        listing: of the data.
        kind: a key of ``ENDINGS``.
        files: that may be masks; None for all images.
    """
    images = file_groups(listing, lambda name: has_image_name(Path(name)))
    if files is None:
        masks = [group for group in images if group.role != "image"]
        sources = [group for group in images if group.role != "mask"]
    else:
        known = {path.name for path in files}
        masks, sources = file_groups(listing, known.__contains__), images
    found: list[Candidate] = []
    for source in sources:
        for mask in masks:
            found += _candidates(source, mask, kind=kind, is_image=files is None)
    return _distinct(found)


def _distinct(candidates: Sequence[Candidate]) -> list[Candidate]:
    found: dict[str, Candidate] = {}
    for candidate in candidates:
        found.setdefault(repr(candidate.keys), candidate)
    return list(found.values())


def _candidates(images: FileGroup, masks: FileGroup, *, kind: str, is_image: bool) -> Iterator[Candidate]:
    same = images.template == masks.template
    image_names, mask_names = images.names, masks.names
    if same and is_image:
        image_names, mask_names = _told_apart(images)
    elif is_image and masks.role != "mask" and images.role != "image":
        return  # two folders of which neither name says what it holds
    patterns = name_patterns(image_names, mask_names, ending=ENDINGS[kind], same=same and is_image)
    if is_image and not same and images.is_by_case and masks.is_by_case:
        has_several = any(len(names) > 1 for names in masks.folders.values())
        patterns.append(NamePattern("*", "*.*", has_several=has_several))
    for names in patterns:
        if names.has_several and kind != "masks":
            continue
        for folders in _mask_folders(images, masks):
            yield _candidate(images, names, folders, kind=kind)


def _told_apart(group: FileGroup) -> tuple[list[str], list[str]]:
    """The names of images and of masks in the same folders, by words in them, by suffixes, or by what is longer."""
    names = group.names
    masks = [name for name in names if role_of(Path(name).stem) == "mask"]
    if masks and len(masks) < len(names):
        return [name for name in names if name not in set(masks)], masks
    suffixes = {Path(name).suffix.lower() for name in names}
    if len(suffixes) == 2 and ".png" in suffixes:
        masks = [name for name in names if name.lower().endswith(".png")]
        return [name for name in names if name not in set(masks)], masks
    stems = {Path(name).stem for name in names}
    masks = [name for name in names if any(Path(name).stem[:end] in stems for end in range(1, len(Path(name).stem)))]
    return [name for name in names if name not in set(masks)], masks


def _mask_folders(images: FileGroup, masks: FileGroup) -> Iterator[list[str]]:
    """The folders of the masks, as the heads of patterns: one, or one for each part."""
    varying = masks.varying()
    if images.template == masks.template:
        yield [_joined(images.template) if not varying else "{folder}"]
    elif not varying:
        yield [_joined(masks.template)]
    elif images.template[: varying[-1] + 1] == masks.template[: varying[-1] + 1]:
        shared = varying[-1] + 1
        up = [".."] * (len(images.template) - shared)
        yield ["/".join(["{folder}", *up, *map(glob.escape, masks.template[shared:])])]
    elif varying == [len(masks.template) - 1] and images.template[-1:] == masks.template[-1:]:
        yield ["/".join([*map(glob.escape, masks.template[:-1]), "{parent}"])]
    else:
        yield [_joined(folder) for folder in sorted(masks.folders)]


def _joined(folder: Folder) -> str:
    return "/".join(map(glob.escape, folder))


def _candidate(images: FileGroup, names: NamePattern, folders: Sequence[str], *, kind: str) -> Candidate:
    keys: dict[str, Any] = {}
    masks = [f"{folder}/{names.masks}" if folder else names.masks for folder in folders]
    notes = _add_images(keys, images, names.images)
    keys["masks"] = masks[0] if len(masks) == 1 else masks
    if names.has_several:
        keys["several"] = "union"
    return Candidate(kind, keys, tuple(notes))


def _add_images(keys: dict[str, Any], images: FileGroup, name: str) -> list[str]:
    """Add the globs of images, or a split by folders if the paths name training and test; returns notes."""
    parts = images.divisions()
    test: Division = "test" if "test" in parts else "validation"
    if {"train", test} <= parts.keys():
        keys["split"] = {
            "kind": "folders",
            "train": _globs(images, parts["train"], name),
            "test": _globs(images, parts[test], name),
        }
        return _unused_validation(images, parts, name, test)
    keys["images"] = _globs(images, sorted(images.folders), name)
    if parts:
        return [f"All images are in folders for {' and '.join(sorted(parts))}; a fifth of them is kept for testing."]
    return []


def _unused_validation(images: FileGroup, parts: dict[Division, list[Folder]], name: str, test: Division) -> list[str]:
    if test == "validation":
        return ["The folders for validation are the test part, since there are none for test."]
    if "validation" not in parts:
        return []
    count = sum(len(images.folders[folder]) for folder in parts["validation"])
    globs = _globs(images, parts["validation"], name)
    listed = globs if isinstance(globs, str) else ", ".join(globs)
    return [f"{count} images for validation ({listed}) are in neither part; add them to train or test if you want."]


def _globs(images: FileGroup, folders: Sequence[Folder], name: str) -> str | list[str]:
    """The globs of the images in some of a group's folders; one if they differ in one component that may be any."""
    found: dict[str, None] = {}
    places = [place for place in images.varying() if images.template[place] == "*"]
    for folder in folders:
        parts = ["*" if place in places else glob.escape(part) for place, part in enumerate(folder)]
        found["/".join([*parts, name])] = None
    return list(found) if len(found) > 1 else next(iter(found))
