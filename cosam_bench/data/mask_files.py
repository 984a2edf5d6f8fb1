"""The mask of an image from the one or several mask images that belong to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from cosam_bench.core.errors import CosamError
from cosam_bench.data.cards import Card
from cosam_bench.data.decoding import decode_ignored, decode_mask


@dataclass(frozen=True)
class MaskFile:
    """A mask image.

    Attributes:
        path: for errors.
        data: its bytes.
    """

    path: Path
    data: bytes


def decode_masks(card: Card, files: Sequence[MaskFile], *, orientation: int) -> Tensor:
    """The foreground of all files together, bool ``(H, W)``, upright.

    Args:
        card: which pixels are foreground, and whether masks are turned with their image.
        files: of one image.
        orientation: of the image, as in EXIF.

    Raises:
        CosamError: a file is damaged or ambiguous, or they have different sizes.
    """
    turn = orientation if card.orientation == "stored" else None
    masks = [
        decode_mask(file.data, name=str(file.path), foreground=card.foreground, ignore=card.ignore, orientation=turn)
        for file in files
    ]
    return _union(masks, files)


def decode_ignored_pixels(card: Card, files: Sequence[MaskFile], *, orientation: int) -> Tensor | None:
    """The pixels that are ignored in some file and foreground in none, bool ``(H, W)``; None if all count."""
    if card.ignore is None:
        return None
    turn = orientation if card.orientation == "stored" else None
    ignored = [
        decode_ignored(file.data, name=str(file.path), foreground=card.foreground, ignore=card.ignore, orientation=turn)
        for file in files
    ]
    if len(files) == 1:
        return ignored[0]
    return _union(ignored, files) & ~decode_masks(card, files, orientation=orientation)


def _union(masks: Sequence[Tensor], files: Sequence[MaskFile]) -> Tensor:
    first = masks[0]
    for mask, file in zip(masks[1:], files[1:], strict=True):
        if mask.shape != first.shape:
            raise CosamError(f"{file.path.name} and {files[0].path.name} are masks of one image, but of two sizes.")
        first = first | mask
    return first
