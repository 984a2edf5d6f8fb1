"""Signed distances of shapes: negative inside, in image widths; exact or near enough for an edge."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from cosam_bench.data.synthetic import elementary
from cosam_bench.data.synthetic.canvas import Array, coordinates


def local(size: int, centre: tuple[float, float], angle: float = 0.0) -> tuple[Array, Array]:
    """Coordinates along and across a shape at ``centre`` (x, y), turned by ``angle`` radians."""
    x, y = coordinates(size)
    dx, dy = x - np.float32(centre[0]), y - np.float32(centre[1])
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return dx * cos + dy * sin, dy * cos - dx * sin


def blob(
    rng: np.random.Generator,
    size: int,
    centre: tuple[float, float],
    radius: float,
    *,
    aspect: float = 1.0,
    angle: float = 0.0,
    rough: float = 0.15,
    waves: int = 6,
) -> Array:
    """A round shape with a wavy outline: ``rough`` is the outline's deviation as a share of the radius."""
    u, v = local(size, centre, angle)
    stretch = np.float32(np.sqrt(aspect))
    u, v = u / stretch, v * stretch
    theta = elementary.arctan2(v, u)
    outline = np.full_like(theta, radius)
    for wave in range(2, 2 + waves):
        amplitude = radius * rough * rng.normal() / wave**0.8
        outline += np.float32(amplitude) * elementary.cos(wave * theta + np.float32(rng.uniform(0, 2 * np.pi)))
    distance: Array = elementary.hypot(u, v) - np.maximum(outline, np.float32(0.25 * radius))
    return distance


def ellipse(size: int, centre: tuple[float, float], radii: tuple[float, float], angle: float = 0.0) -> Array:
    """An ellipse with the given half axes."""
    u, v = local(size, centre, angle)
    scaled = elementary.hypot(u / np.float32(radii[0]), v / np.float32(radii[1]))
    distance: Array = (scaled - 1) * np.float32(min(radii))
    return distance


def box(
    size: int,
    centre: tuple[float, float],
    half: tuple[float, float],
    angle: float = 0.0,
    *,
    corner: float = 0.0,
) -> Array:
    """A rectangle of half sides ``half`` with corners rounded by ``corner``."""
    u, v = local(size, centre, angle)
    qu, qv = np.abs(u) - np.float32(half[0] - corner), np.abs(v) - np.float32(half[1] - corner)
    outside = elementary.hypot(np.maximum(qu, 0), np.maximum(qv, 0))
    distance: Array = outside + np.minimum(np.maximum(qu, qv), 0) - np.float32(corner)
    return distance


def stroke(size: int, start: tuple[float, float], end: tuple[float, float], width: float) -> Array:
    """A straight line with round ends, ``width`` wide."""
    x, y = coordinates(size)
    across, down = end[0] - start[0], end[1] - start[1]
    length = max(across * across + down * down, 1e-12)
    share = ((x - np.float32(start[0])) * across + (y - np.float32(start[1])) * down) / length
    share = np.clip(share, 0, 1)
    distance: Array = (
        elementary.hypot(x - start[0] - share * across, y - start[1] - share * down).astype(np.float32) - width / 2
    ).astype(np.float32)
    return distance


def path(size: int, points: list[tuple[float, float]], width: float) -> Array:
    """Strokes from point to point."""
    parts = [stroke(size, a, b, width) for a, b in pairwise(points)]
    distance: Array = np.minimum.reduce(parts)
    return distance


def polygon(rng: np.random.Generator, size: int, centre: tuple[float, float], radius: float) -> Array:
    """A convex polygon of three to seven sides."""
    x, y = local(size, centre)
    sides = int(rng.integers(3, 8))
    angles = (np.arange(sides) + rng.uniform(0, 0.6, sides)) * 2 * np.pi / sides + rng.uniform(0, 6.3)
    planes = [x * np.float32(np.cos(a)) + y * np.float32(np.sin(a)) for a in angles]
    distance: Array = np.maximum.reduce(planes) - np.float32(radius * 0.8)
    return distance


def wander(
    rng: np.random.Generator,
    start: tuple[float, float],
    angle: float,
    length: float,
    *,
    steps: int = 5,
    bend: float = 0.4,
) -> list[tuple[float, float]]:
    """The corners of a path that starts at ``start`` and turns a little at each of its steps."""
    points = [start]
    for _ in range(steps):
        angle += rng.normal(0, bend)
        x, y = points[-1]
        points.append((x + length / steps * np.cos(angle), y + length / steps * np.sin(angle)))
    return points
