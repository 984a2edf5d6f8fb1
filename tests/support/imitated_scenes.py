"""The pictures of the imitated data sets: ellipses on a textured ground, drawn the same every time."""

from __future__ import annotations

import json
import math
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw


@dataclass(frozen=True)
class Scene:
    """A picture and what is in it: uint8 ``(H, W, 3)``, and each ellipse's outline as x y points."""

    pixels: np.ndarray
    outlines: tuple[tuple[tuple[float, float], ...], ...]

    @property
    def mask(self) -> np.ndarray:
        """uint8, ``(H, W)``, 0 and 255."""
        height, width = self.pixels.shape[:2]
        canvas = Image.new("L", (width, height))
        for outline in self.outlines:
            ImageDraw.Draw(canvas).polygon(list(outline), fill=255, outline=255)
        return np.array(canvas)

    def one(self, number: int) -> Scene:
        """The same picture with one of its ellipses alone marked."""
        return Scene(self.pixels, self.outlines[number : number + 1])


def scene(kind: str, number: int, *, width: int = 96, height: int = 80, ellipses: int = 1) -> Scene:
    """The picture of that number in a domain; the same every time."""
    generator = np.random.default_rng([zlib.crc32(kind.encode()), number])
    colour = np.random.default_rng(zlib.crc32(kind.encode())).integers(30, 120, 3)
    noise = generator.normal(0, 8, (height, width, 3)) + 15 * np.sin(np.arange(width) / 5)[None, :, None]
    pixels = np.clip(colour + noise, 0, 255)
    outlines = []
    for place in range(ellipses):
        room = width / ellipses
        x, y = (place + generator.uniform(0.45, 0.55)) * room, generator.uniform(0.4, 0.6) * height
        across, down = generator.uniform(0.22, 0.32) * room, generator.uniform(0.2, 0.3) * height
        angles = [2 * math.pi * step / 24 for step in range(24)]
        outlines.append(tuple((float(x + across * math.cos(a)), float(y + down * math.sin(a))) for a in angles))
    drawn = Scene(np.zeros((height, width, 3), np.uint8), tuple(outlines))
    lit = np.clip(pixels + 90 + generator.normal(0, 6, pixels.shape), 0, 255)
    return Scene(np.where(drawn.mask[..., None] > 0, lit, pixels).astype(np.uint8), tuple(outlines))


def save(path: Path, pixels: np.ndarray) -> None:
    """Write an image in the format that the suffix names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **({"quality": 92} if path.suffix == ".jpg" else {}))


def grey_rgb(mask: np.ndarray) -> np.ndarray:
    """A mask with three equal channels, as Kvasir-SEG stores them."""
    return np.repeat(mask[..., None], 3, axis=2)


def points(masks: dict[str, np.ndarray]) -> str:
    """SAMCL's points file: by mask file name three points in 1024 x 1024 pixels, and their labels."""
    content = {}
    for name, mask in masks.items():
        rows, columns = np.nonzero(mask == 255)
        chosen = np.random.default_rng(zlib.crc32(name.encode())).integers(0, len(rows), 3)
        sides = 1024 / np.array([mask.shape[1], mask.shape[0]])
        xy = [[float(v) for v in (np.array([columns[i], rows[i]]) * sides).round()] for i in chosen]
        content[name] = [xy, [1, 1, 1]]
    return json.dumps(content)
