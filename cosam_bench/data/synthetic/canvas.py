"""The tools that paint every synthetic domain: noise, colour, light, and layers.

Pictures are float ``(size, size, 3)`` in [0, 1]; coordinates are in image widths, the centre of the
top left pixel at half a pixel, so that a scene looks the same at every size.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]
Mask = NDArray[np.bool_]
Picture = NDArray[np.uint8]


@lru_cache(maxsize=8)
def coordinates(size: int) -> tuple[Array, Array]:
    """Columns x and rows y of the pixel centres, each ``(size, size)`` in (0, 1); read-only."""
    line = (np.arange(size, dtype=np.float32) + 0.5) / size
    x, y = np.meshgrid(line, line)
    x.setflags(write=False)
    y.setflags(write=False)
    return x, y


def noise(rng: np.random.Generator, size: int, *, cells: int | tuple[int, int]) -> Array:
    """Smooth value noise, ``(size, size)`` in [-1, 1], with ``cells`` (rows, columns) bumps across.

    Formed element by element: a matrix product would round differently from one BLAS to the next.
    """
    rows, columns = (cells, cells) if isinstance(cells, int) else cells
    knots = rng.uniform(-1, 1, (rows + 1, columns + 1)).astype(np.float32)
    left, share = _between(size, columns)
    lines = knots[:, left] + (knots[:, left + 1] - knots[:, left]) * share
    above, share = _between(size, rows)
    smooth: Array = lines[above] + (lines[above + 1] - lines[above]) * share[:, None]
    return smooth


@lru_cache(maxsize=256)
def _between(size: int, cells: int) -> tuple[NDArray[np.intp], Array]:
    """For each pixel the knot before it, and the smoothed share of the way to the next."""
    place = (np.arange(size) + 0.5) / size * cells
    left = np.minimum(place.astype(np.intp), cells - 1)
    share = place - left
    return left, (share * share * (3 - 2 * share)).astype(np.float32)


def fractal(
    rng: np.random.Generator,
    size: int,
    *,
    cells: int | tuple[int, int],
    octaves: int = 3,
    fade: float = 0.5,
) -> Array:
    """Value noise summed over octaves, each twice as fine and ``fade`` as strong; about [-1, 1]."""
    rows, columns = (cells, cells) if isinstance(cells, int) else cells
    total = np.zeros((size, size), dtype=np.float32)
    strength, norm = 1.0, 0.0
    for octave in range(octaves):
        fine = (min(rows << octave, size), min(columns << octave, size))
        total += np.float32(strength) * noise(rng, size, cells=fine)
        norm += strength
        strength *= fade
    return total / np.float32(norm)


def grain(rng: np.random.Generator, size: int) -> Array:
    """White noise of deviation one, ``(size, size)``."""
    return rng.standard_normal((size, size), dtype=np.float32)


def fill(colour: Sequence[float] | Array, value: Array | float = 1.0, *, size: int) -> Array:
    """A picture of one colour whose brightness is multiplied by ``value``."""
    brightness = np.broadcast_to(np.asarray(value, dtype=np.float32), (size, size))
    return brightness[..., None] * np.asarray(colour, dtype=np.float32)


def ramp(value: Array, low: Sequence[float] | Array, high: Sequence[float] | Array) -> Array:
    """A picture that goes from colour ``low`` to colour ``high`` where ``value`` goes from 0 to 1."""
    share = np.clip(value, 0, 1)[..., None]
    return (1 - share) * np.asarray(low, dtype=np.float32) + share * np.asarray(high, dtype=np.float32)


def coverage(distance: Array, *, soft: float = 0.0) -> Array:
    """How much of each pixel a shape covers, [0, 1], from its signed distance (negative inside).

    ``soft`` widens the edge, in image widths, beyond the one pixel that smooths the staircase.
    """
    width = np.float32(1.0 / distance.shape[0] + soft)
    covered: Array = np.clip(0.5 - distance / width, 0, 1)
    return covered


def over(under: Array, layer: Array | Sequence[float], alpha: Array) -> Array:
    """``layer`` (a picture or one colour) laid over ``under`` where ``alpha`` is one."""
    share = alpha[..., None]
    return under * (1 - share) + np.asarray(layer, dtype=np.float32) * share


def light(picture: Array, gain: Array | float) -> Array:
    """The picture with its brightness multiplied."""
    return picture * np.asarray(gain, dtype=np.float32)[..., None]


def tone(red: float, green: float, blue: float) -> Array:
    """A colour ``(3,)`` for arithmetic."""
    return np.array([red, green, blue], dtype=np.float32)


def colour(rng: np.random.Generator, low: float = 0.1, high: float = 0.95) -> Array:
    """A random colour ``(3,)``: a grey level with a random tint."""
    level = rng.uniform(low, high)
    tint = rng.normal(0, 0.16, 3)
    return np.clip(level + tint, 0.02, 1).astype(np.float32)


def develop(rng: np.random.Generator, picture: Array, *, sensor: float = 0.012) -> Picture:
    """uint8 RGB ``(size, size, 3)``: sensor noise added, clipped and rounded."""
    noisy = picture + rng.standard_normal(picture.shape, dtype=np.float32) * np.float32(sensor)
    return np.clip(noisy * 255 + 0.5, 0, 255).astype(np.uint8)
