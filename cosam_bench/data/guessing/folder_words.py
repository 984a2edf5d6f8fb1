"""What the names of folders and files say: images or masks, training or test."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal

Role = Literal["image", "mask"]
Division = Literal["train", "test", "validation"]

_MASK_WORDS = {
    *("mask", "masks", "gt", "gts", "groundtruth", "ground_truth", "label", "labels", "lbl", "annotation"),
    *("annotations", "annot", "annots", "ann", "seg", "segs", "segmentation", "segmentations", "segmentationclass"),
    *("segmentationobject", "target", "targets", "matte", "mattes", "trimap", "trimaps", "manual"),
}
_IMAGE_WORDS = {
    *("image", "images", "img", "imgs", "im", "jpegimages", "photo", "photos", "picture", "pictures", "raw", "rgb"),
    *("input", "inputs", "data", "source", "original", "originals", "frame", "frames", "scan", "scans"),
}
_DIVISIONS: dict[str, Division] = {
    "train": "train",
    "training": "train",
    "trn": "train",
    "train2017": "train",
    "train2014": "train",
    "test": "test",
    "testing": "test",
    "tst": "test",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "dev": "validation",
    "val2017": "validation",
    "val2014": "validation",
}
_WORDS = re.compile(r"[A-Z]?[a-z]+[0-9]*|[A-Z]+(?![a-z])|[0-9]+")


def words_of(name: str) -> list[str]:
    """The words of a name in small letters, and the name as a whole.

    >>> words_of("train_Masks")
    ['train', 'masks', 'train_masks']
    """
    found = [word.lower() for word in _WORDS.findall(name)]
    return [*found, *([name.lower()] if found != [name.lower()] else [])]


def role_of(name: str) -> Role | None:
    """Whether a name speaks of images or of masks; ``mask_images`` are masks."""
    words = {word.rstrip("0123456789") for word in words_of(name)}
    if words & _MASK_WORDS or {"ground", "truth"} <= words:
        return "mask"
    return "image" if words & _IMAGE_WORDS else None


def folder_role(folder: Iterable[str]) -> Role | None:
    """The role of a folder: that of the last of its components that has one."""
    return next((role for name in reversed(tuple(folder)) if (role := role_of(name))), None)


def division_of(name: str) -> Division | None:
    """The part of a division that a name speaks of."""
    return next((_DIVISIONS[word] for word in words_of(name) if word in _DIVISIONS), None)


def without_division(name: str, other: str) -> str:
    """A name with another text in the place of the word that names a part.

    >>> without_division("train_images", "{part}")
    '{part}_images'
    """
    found = next((word for word in _WORDS.finditer(name) if word[0].lower() in _DIVISIONS), None)
    return name if found is None else name[: found.start()] + other + name[found.end() :]


def is_division(name: str) -> bool:
    """Whether a name says nothing but the part of a division, or that and a role: ``train``, ``test_images``."""
    words = [word for word in _WORDS.findall(name.lower()) if not word.isdecimal()]
    return division_of(name) is not None and all(word in _DIVISIONS or role_of(word) for word in words)


def folder_division(folder: Iterable[str]) -> Division | None:
    """The part that a folder belongs to, by the last of its components that names one."""
    return next((part for name in reversed(tuple(folder)) if (part := division_of(name))), None)
