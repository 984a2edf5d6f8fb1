"""Mask files whose compression may change levels: which they are, and where their levels can be cut."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from cosam_bench.data.foreground import JPEG_NOISE, Colour
from cosam_bench.data.mask_content import MaskContent, by_colour

NEUTRAL = 16  # channels of a grey JPEG that was stored in colour differ by less than this
_BRIGHT = 0.45  # of the brightest channel's largest level; at edges of objects, a JPEG's other channels reach 0.4 of it
_CHANGES = "whose compression changes levels"
_MAY_CHANGE = "whose compression may change levels"


def what_is_lost(image: Image.Image, data: bytes) -> str:
    """What an image file is if its compression may change levels, such as ``a JPEG, whose compression changes levels``.

    JPEG 2000 does not tell: with the reversible wavelet, too, a file may leave out the last bits of its coefficients.

    Args:
        image: opened, not necessarily decoded.
        data: the file's bytes.

    Returns:
        Half a sentence; empty if all levels are as they were saved.
    """
    if image.format in ("JPEG", "MPO"):
        return f"a {image.format}, {_CHANGES}"
    if image.format == "WEBP":
        return "" if _is_lossless_webp(data) else f"a lossy WEBP, {_CHANGES}"
    if image.format == "JPEG2000":
        return f"a JPEG2000, {_MAY_CHANGE}"
    compression = str(image.info.get("compression", "")) if image.format == "TIFF" else ""
    if compression in ("jpeg", "tiff_jpeg"):
        return f"a TIFF of JPEG's compression, {_CHANGES}"
    return f"a TIFF of WEBP's compression, {_MAY_CHANGE}" if compression == "webp" else ""


def _is_lossless_webp(data: bytes) -> bool:
    """Whether the image of a WebP file is stored as ``VP8L`` (WebP container specification, "RIFF file format")."""
    place, kinds = 12, set()
    while place + 8 <= len(data):
        kind, size = struct.unpack_from("<4sI", data, place)
        kinds.add(kind)
        place += 8 + size + size % 2  # chunks begin at even places
    return b"VP8L" in kinds and not {b"VP8 ", b"ANMF"} & kinds


def lossless_advice(loss: str) -> str:
    """What to do with a file of which ``what_is_lost`` says this, as the start of a sentence."""
    return "Convert it to PNG if it is lossless" if _MAY_CHANGE in loss else "Save masks as PNG"


@dataclass(frozen=True)
class MiddleCut:
    """A rule that takes the pixels above half of a mask's largest level.

    Attributes:
        above: the highest level that is background.
        channel: the one that is read; empty for grey masks.
        pixels: how many pixels it takes.
        share_of: of how many.
    """

    above: int
    channel: str
    pixels: int
    share_of: int

    @property
    def text(self) -> str:
        """The line of a card, as TOML."""
        channel = f', channel = "{self.channel}"' if self.channel else ""
        return f"foreground = {{ above = {self.above}{channel} }}"


def middle_cuts(contents: Sequence[MaskContent]) -> list[MiddleCut]:
    """The rules that cut lossy masks in the middle: of coloured ones, one per bright channel, the brightest first.

    Args:
        contents: what the masks hold.

    Returns:
        None if all levels may be noise of the compression.
    """
    colours = _by_colour(contents)
    is_grey = all(max(colour) - min(colour) < NEUTRAL for colour in colours)
    places = {"": 0} if is_grey else {"red": 0, "green": 1, "blue": 2}
    largest = {name: max((colour[place] for colour in colours), default=0) for name, place in places.items()}
    brightest = max(largest.values())
    cuts = []
    for name in sorted(places, key=lambda name: -largest[name]):
        above = max(JPEG_NOISE, largest[name] // 2)
        if largest[name] > max(above, _BRIGHT * brightest):
            taken = sum(count for colour, count in colours.items() if colour[places[name]] > above)
            cuts.append(MiddleCut(above, name, taken, colours.total()))
    return cuts


def _by_colour(contents: Sequence[MaskContent]) -> Counter[Colour]:
    """The number of pixels by colour; greys are colours of three equal channels."""
    colours: Counter[Colour] = Counter()
    for content in contents:
        shown = by_colour(content) if content.unit == "indices" else content
        for value, count in shown.counts.items():
            colours[value if isinstance(value, tuple) else (value, value, value)] += count
    return colours
