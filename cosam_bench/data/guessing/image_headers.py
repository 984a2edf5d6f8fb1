"""Sizes, EXIF orientations and depths of images, mostly from their headers alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cosam_bench.core.errors import CosamError
from cosam_bench.data.decoding import check_image, exif_orientation, upright_size
from cosam_bench.data.image_files import read_bytes
from cosam_bench.data.pairing import Pair

LOOKED_AT = 500  # images, evenly spaced; sizes beyond them hardly matter
_MAY_BE_DEEP = (".png", ".tif", ".tiff", ".pgm", ".pnm", ".jp2")


@dataclass
class ImageHeaders:
    """What the headers of some images say.

    Attributes:
        sizes: width and height of each image, upright.
        turned: the pairs whose image an EXIF orientation turns, with it.
        deepest: the largest level of each image of 16 bits; 0 for others.
        faults: why images could not be read.
    """

    sizes: list[tuple[int, int]] = field(default_factory=list)
    turned: list[tuple[Pair, int]] = field(default_factory=list)
    deepest: list[int] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def described(self) -> str:
        """The sizes in words: one, or the smallest and the largest."""
        if not self.sizes:
            return "none could be read"
        different = sorted(set(self.sizes), key=lambda size: (size[0] * size[1], size))
        small, large = different[0], different[-1]
        if small == large:
            return f"{small[0]} x {small[1]} pixels"
        return f"{len(different)} sizes from {small[0]} x {small[1]} to {large[0]} x {large[1]} pixels"


def read_headers(pairs: Sequence[Pair]) -> ImageHeaders:
    """The headers of the images of some pairs, evenly spaced among all."""
    found = ImageHeaders()
    for pair in evenly(pairs, LOOKED_AT):
        name = str(pair.image)
        try:
            data = read_bytes(pair.image)
            height, width = upright_size(data, name=name)
            orientation = exif_orientation(data, name=name)
            deepest = check_image(data, name=name) if _may_be_deep(pair.image, data) else 0
        except CosamError as error:
            found.faults.append(str(error))
            continue
        found.sizes.append((width, height))
        found.turned += [(pair, orientation)] * (orientation > 1)
        found.deepest.append(deepest)
    return found


def _may_be_deep(path: Path, data: bytes) -> bool:
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return data[24:25] == b"\x10"  # the depth, in the header
    return path.suffix.lower() in _MAY_BE_DEEP


def evenly(pairs: Sequence[Pair], most: int) -> list[Pair]:
    """At most so many pairs, evenly spaced.

    >>> evenly(range(10), 3)
    [0, 3, 6]
    """
    if len(pairs) <= most:
        return list(pairs)
    return [pairs[number * len(pairs) // most] for number in range(most)]
