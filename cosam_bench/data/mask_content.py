"""What a mask file holds: its kind of pixels, and how many pixels have each level, palette index or colour."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cosam_bench.data.foreground import Colour, share

SHOWN = 6

Value = int | Colour
Unit = Literal["levels", "indices", "colours"]
_MODES = {"1": "1 bit", "L": "8 bit grey", "P": "palette", "RGB": "RGB", "RGBA": "RGBA", "LA": "grey with alpha"}


@dataclass(frozen=True)
class MaskContent:
    """The values of one mask, or of several of one kind.

    Attributes:
        mode: kind of pixels, for people: ``8 bit grey``, ``palette``.
        unit: what the values are: ``levels`` of a grey image, ``indices`` of a palette, ``colours`` (RGB).
        counts: number of pixels by value.
        palette: colours of the indices in use; empty for other units.
    """

    mode: str
    unit: Unit
    counts: Mapping[Value, int]
    palette: Mapping[int, Colour] = field(default_factory=dict)

    @property
    def values(self) -> list[Value]:
        """The values in use: levels and indices from the smallest, colours from the most frequent."""
        if self.unit == "colours":
            return sorted(self.counts, key=lambda value: (-self.counts[value], value))
        return sorted(self.counts)

    def share(self, value: Value) -> str:
        """The share of the pixels that have this value, such as ``12.5 %``."""
        return share(self.counts[value], sum(self.counts.values()))

    def described(self) -> str:
        """The first values with their shares, such as ``levels 0: 75.0 %, 7: 25.0 %``."""
        values = self.values
        shown = [f"{self._named(value)}: {self.share(value)}" for value in values[:SHOWN]]
        more = [f"... ({len(values)} in all)"] if len(values) > SHOWN else []
        return f"{self.unit} {', '.join([*shown, *more])}"

    def _named(self, value: Value) -> str:
        colour = self.palette.get(value) if isinstance(value, int) else value
        text = "" if colour is None else f"[{', '.join(map(str, colour))}]"
        return text if value == colour else f"{value} {text}".strip()


def mask_content(image: Image.Image) -> MaskContent:
    """The values of a decoded mask file, as it stores them; alpha is left out."""
    mode = _MODES.get(image.mode, "16 bit grey" if image.mode.startswith("I") else image.mode)
    if image.mode == "P":
        indices = _counted(np.asarray(image))
        colours = np.array(image.getpalette("RGB"), dtype=np.int64).reshape(-1, 3)
        used = (value for value in indices if isinstance(value, int) and value < len(colours))
        return MaskContent(mode, "indices", indices, {value: _colour(colours[value]) for value in used})
    if image.mode in ("1", "L") or image.mode.startswith("I"):
        return MaskContent(mode, "levels", _counted(np.asarray(image).astype(np.int64)))
    pixels = np.array(image.convert("RGB"))
    if (pixels == pixels[..., :1]).all():
        return MaskContent(mode, "levels", _counted(pixels[..., 0]))
    packed = pixels.astype(np.int64) @ np.array([1 << 16, 1 << 8, 1])
    found, numbers = np.unique(packed, return_counts=True)
    colours = np.stack([found >> 16, found >> 8 & 255, found & 255], axis=-1)
    return MaskContent(mode, "colours", dict(zip(map(_colour, colours), numbers.tolist(), strict=True)))


def joined(contents: list[MaskContent]) -> list[MaskContent]:
    """One content for each kind of pixels and unit, in the order in which they first occur."""
    merged: dict[tuple[str, Unit], MaskContent] = {}
    for one in contents:
        before = merged.get((one.mode, one.unit), MaskContent(one.mode, one.unit, {}))
        counts = Counter(before.counts) + Counter(one.counts)
        merged[one.mode, one.unit] = MaskContent(one.mode, one.unit, counts, {**before.palette, **one.palette})
    return list(merged.values())


def _counted(values: NDArray[Any]) -> dict[Value, int]:
    found, counts = np.unique(values, return_counts=True)
    return dict(zip(found.tolist(), counts.tolist(), strict=True))


def _colour(row: NDArray[Any]) -> Colour:
    red, green, blue = row.tolist()
    return red, green, blue
