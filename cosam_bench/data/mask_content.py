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
MOST_COLOURS = 4_096  # of one file, the most frequent ones; a file with more is a photograph

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

    @property
    def foremost(self) -> Value:
        """The most frequent value that is not the background; 1 or white if there is none."""
        is_colour = self.unit == "colours"
        background: Value = (0, 0, 0) if is_colour else 0
        others = [value for value in self.values if value != background]
        return max(others, key=lambda value: self.counts[value], default=(255, 255, 255) if is_colour else 1)

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
    """The values of a decoded mask file, as it stores them; alpha is laid over black."""
    mode = _MODES.get(image.mode, "16 bit grey" if image.mode.startswith("I") else image.mode)
    if image.mode == "P":
        indices = _counted(np.asarray(image))
        colours = np.array(image.getpalette("RGB"), dtype=np.int64).reshape(-1, 3)
        used = (value for value in indices if isinstance(value, int) and value < len(colours))
        return MaskContent(mode, "indices", indices, {value: _colour(colours[value]) for value in used})
    if image.mode in ("1", "L") or image.mode.startswith("I"):
        return MaskContent(mode, "levels", _counted(np.asarray(image).astype(np.int64)))
    rgba = np.array(image.convert("RGBA")).astype(np.int64)
    pixels = rgba[..., :3] * rgba[..., 3:] // 255
    if (pixels == pixels[..., :1]).all():
        return MaskContent(mode, "levels", _counted(pixels[..., 0]))
    packed = pixels @ np.array([1 << 16, 1 << 8, 1])
    found, numbers = np.unique(packed, return_counts=True)
    kept = np.argsort(-numbers, kind="stable")[:MOST_COLOURS]
    colours = np.stack([found >> 16, found >> 8 & 255, found & 255], axis=-1)[kept]
    return MaskContent(mode, "colours", dict(zip(map(_colour, colours), numbers[kept].tolist(), strict=True)))


def by_colour(content: MaskContent) -> MaskContent:
    """The content of a palette image by its colours; indices without a colour are left out."""
    counts: Counter[Value] = Counter()
    for index, colour in content.palette.items():
        counts[colour] += content.counts[index]
    return MaskContent(content.mode, "colours", counts)


class JoinedContents:
    """The contents of many masks: one for each kind of pixels and unit, in the order in which they first occur.

    Palettes in which the same index has two colours are joined by colours.
    """

    def __init__(self) -> None:
        self._counts: dict[tuple[str, Unit], Counter[Value]] = {}
        self._palettes: dict[str, dict[int, Colour]] = {}

    def add(self, content: MaskContent) -> None:
        """Add the content of one mask."""
        palette = self._palettes.setdefault(content.mode, {})
        if content.unit == "indices":
            is_by_colour = (content.mode, "colours") in self._counts
            if is_by_colour or any(palette.get(index, colour) != colour for index, colour in content.palette.items()):
                earlier = self._counts.pop((content.mode, "indices"), None)
                if earlier is not None:
                    self.add(by_colour(MaskContent(content.mode, "indices", earlier, dict(palette))))
                content = by_colour(content)
            else:
                palette.update(content.palette)
        self._counts.setdefault((content.mode, content.unit), Counter()).update(content.counts)

    def contents(self) -> list[MaskContent]:
        """What has been added."""
        return [
            MaskContent(mode, unit, counts, self._palettes[mode] if unit == "indices" else {})
            for (mode, unit), counts in self._counts.items()
        ]


def _counted(values: NDArray[Any]) -> dict[Value, int]:
    found, counts = np.unique(values, return_counts=True)
    return dict(zip(found.tolist(), counts.tolist(), strict=True))


def _colour(row: NDArray[Any]) -> Colour:
    red, green, blue = row.tolist()
    return red, green, blue
