"""A natural-looking view, never trained on: what a specialist should still be able to segment."""

from __future__ import annotations

import numpy as np

from cosam_bench.data.synthetic import canvas, elementary, shapes
from cosam_bench.data.synthetic.canvas import Array, Mask, Picture


def natural(rng: np.random.Generator, size: int) -> tuple[Picture, Mask]:
    """Sky, hills and a meadow with a tree, a boulder or a hut that stands out from them.

    The retention domain: plain things with plain outlines, as in photographs of everyday scenes.
    """
    _, y = canvas.coordinates(size)
    horizon = rng.uniform(0.3, 0.5)
    sky = canvas.ramp(y / np.float32(horizon), (0.35, 0.55, 0.85), (0.85, 0.9, 0.95))
    clouds = np.clip(canvas.fractal(rng, size, cells=(6, 3), octaves=4) * 2 - 0.1, 0, 1)
    picture = canvas.over(sky, (0.97, 0.97, 0.97), clouds * 0.8)
    for layer in range(2):
        picture = _hill(rng, picture, horizon + 0.06 * layer, layer)
    meadow = 0.5 + 0.5 * canvas.fractal(rng, size, cells=(24, 12), octaves=3, fade=0.7)
    grass = canvas.ramp(meadow, (0.2, 0.3, 0.1), (0.5, 0.58, 0.22))
    near = canvas.light(grass, 0.75 + 0.5 * y)
    picture = canvas.over(picture, near, canvas.coverage(np.float32(horizon + 0.12) - y, soft=0.01))
    things = (_tree, _boulder, _hut)
    order = rng.permutation(3)[: rng.integers(1, 4)]
    mask = np.zeros((size, size), dtype=bool)
    for slot, place in zip(order, rng.permutation([0.22, 0.5, 0.78]), strict=False):
        foot = (float(place) + rng.normal(0, 0.04), rng.uniform(horizon + 0.25, 0.9))
        shadow = shapes.ellipse(size, (foot[0] + 0.05, foot[1]), (0.16, 0.03))
        picture = canvas.light(picture, 1 - 0.4 * canvas.coverage(shadow, soft=0.03))
        picture, shape = things[slot](rng, picture, foot)
        mask = shape < 0
    return canvas.develop(rng, picture), mask


def _hill(rng: np.random.Generator, picture: Array, height: float, layer: int) -> Array:
    size = picture.shape[0]
    x, y = canvas.coordinates(size)
    crest = height + 0.06 * elementary.sin(x * np.float32(rng.uniform(4, 9)) + np.float32(rng.uniform(0, 6.3)))
    haze = (canvas.tone(0.45, 0.55, 0.65), canvas.tone(0.35, 0.47, 0.4))[layer]
    return canvas.over(picture, haze, canvas.coverage(crest.astype(np.float32) - y))


def _tree(rng: np.random.Generator, picture: Array, foot: tuple[float, float]) -> tuple[Array, Array]:
    size = picture.shape[0]
    top = (foot[0] + rng.normal(0, 0.01), foot[1] - rng.uniform(0.22, 0.34))
    trunk = shapes.stroke(size, foot, top, rng.uniform(0.035, 0.055))
    crown = shapes.blob(rng, size, top, rng.uniform(0.1, 0.16), rough=0.2)
    crown = crown + np.float32(0.02) * canvas.noise(rng, size, cells=24)
    leaves = canvas.ramp(0.5 + canvas.fractal(rng, size, cells=20), (0.08, 0.2, 0.06), (0.3, 0.45, 0.15))
    picture = canvas.over(picture, (0.3, 0.2, 0.13), canvas.coverage(trunk))
    picture = canvas.over(picture, leaves, canvas.coverage(crown))
    return picture, np.minimum(trunk, crown)


def _boulder(rng: np.random.Generator, picture: Array, foot: tuple[float, float]) -> tuple[Array, Array]:
    size = picture.shape[0]
    radius = rng.uniform(0.07, 0.14)
    centre = (foot[0], foot[1] - 0.6 * radius)
    stone = shapes.blob(rng, size, centre, radius, aspect=1.3, rough=0.12)
    u, _ = shapes.local(size, centre, -np.pi / 4)
    value = 0.5 + 0.3 * u / np.float32(radius) + 0.3 * canvas.fractal(rng, size, cells=18)
    rock = canvas.ramp(value, (0.28, 0.27, 0.27), (0.78, 0.76, 0.72))
    return canvas.over(picture, rock, canvas.coverage(stone)), stone


def _hut(rng: np.random.Generator, picture: Array, foot: tuple[float, float]) -> tuple[Array, Array]:
    size = picture.shape[0]
    x, y = canvas.coordinates(size)
    half = rng.uniform(0.07, 0.12)
    centre = (foot[0], foot[1] - half * 0.7)
    wall = shapes.box(size, centre, (half, half * 0.7))
    peak = centre[1] - half * 1.6
    slope = np.abs(x - np.float32(centre[0])) * np.float32(0.8) - (y - np.float32(peak))
    roof = np.maximum(slope * np.float32(0.78), y - np.float32(centre[1] - half * 0.6))
    planks = 0.85 + 0.1 * np.sign(elementary.sin(x * np.float32(180)))
    picture = canvas.over(picture, canvas.fill(canvas.colour(rng, 0.5, 0.9), planks, size=size), canvas.coverage(wall))
    picture = canvas.over(picture, (0.5, 0.2, 0.15), canvas.coverage(roof))
    door = shapes.box(size, (centre[0], centre[1] + half * 0.25), (half * 0.2, half * 0.45))
    picture = canvas.over(picture, (0.2, 0.13, 0.1), canvas.coverage(door))
    return picture, np.minimum(wall, roof)
