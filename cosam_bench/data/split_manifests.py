"""Split manifests: CSV files that list a domain's images by name, each with its part and the hashes of its files.

A manifest pins what a published archive does not: which images are used, and the bytes of each of them and of its
mask, whatever the archive around them looks like. Its columns are ``COLUMNS``; images are paths relative to the root.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable
from dataclasses import astuple, dataclass
from io import StringIO
from pathlib import Path

from cosam_bench.core.errors import CosamError
from cosam_bench.core.reading import read_text
from cosam_bench.data.cards import Card, Part

COLUMNS = ("part", "image", "image_sha256", "mask_sha256")

_FILE_BYTES = 1 << 28  # a million lines of 256 bytes
_PARTS: dict[str, Part] = {"train": "train", "test": "test"}
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class ListedImage:
    """One line of a manifest.

    Attributes:
        part: the part that the image belongs to.
        image: path relative to the root, with forward slashes.
        image_sha256: of the image file's bytes.
        mask_sha256: of the mask file's bytes.
    """

    part: Part
    image: str
    image_sha256: str
    mask_sha256: str


def listed_images(card: Card) -> dict[str, ListedImage]:
    """The images that a card's manifest lists, by their paths; empty if its split has none.

    Raises:
        CosamError: the file cannot be read, is no manifest, or lists other numbers of images than the card states.
    """
    if card.split.kind != "manifest":
        return {}
    listed = read_manifest(Path(card.split.file))
    for part, stated in card.split.counts.items():
        found = sum(image.part == part for image in listed)
        if found != stated:
            raise CosamError(
                f"split.{part} is {stated}, but the images that {card.split.file} lists for {part} are {found}."
            )
    return {image.image: image for image in listed}


def read_manifest(path: Path) -> tuple[ListedImage, ...]:
    """The lines of a manifest, in order.

    Raises:
        CosamError: the file cannot be read, or a line is not what a manifest has.
    """
    try:
        rows = list(csv.reader(StringIO(read_text(path, limit_bytes=_FILE_BYTES)), strict=True))
    except (OSError, ValueError, csv.Error) as error:
        raise CosamError(f"The manifest {path} cannot be read: {getattr(error, 'strerror', None) or error}.") from None
    if not rows or tuple(rows[0]) != COLUMNS:
        raise CosamError(f"{path} is not a manifest. Its first line must be {','.join(COLUMNS)}.")
    images = tuple(_listed(row, path=path, line=line) for line, row in enumerate(rows[1:], start=2))
    seen: set[str] = set()
    for image in images:
        if image.image in seen:
            raise CosamError(f"The manifest {path} lists {image.image} twice. Remove one of the lines.")
        seen.add(image.image)
    return images


def _listed(row: list[str], *, path: Path, line: int) -> ListedImage:
    if len(row) != len(COLUMNS) or not row[1] or not all(_SHA256.fullmatch(text) for text in row[2:]):
        raise CosamError(f"{path}, line {line}: it must have train or test, a path, and two sha256 of 64 digits.")
    part, image, image_sha256, mask_sha256 = row
    if part not in _PARTS:
        raise CosamError(f"{path}, line {line}: the part is {part!r}. Write train or test.")
    return ListedImage(_PARTS[part], image, image_sha256, mask_sha256)


def manifest_text(images: Iterable[ListedImage]) -> str:
    """The content of a manifest that lists these images in this order."""
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(astuple(image) for image in images)
    return text.getvalue()
