"""Generic scenes: solid things of any shape and texture before any ground, some with parts and holes.

`tiny` is trained on these and on nothing else. They are no caricature of any domain: what they teach is
that a prompt means a thing delimited by its outline, which is what the domains then disagree about.
"""

from __future__ import annotations

import numpy as np

from cosam_bench.core.errors import CosamError
from cosam_bench.data.synthetic import canvas, elementary, shapes
from cosam_bench.data.synthetic.canvas import Array, Mask, Picture

MIN_FOREGROUND = 12  # pixels; below this a mask is not a target
MOST_TRIES = 200  # pictures until one has such a mask; at 32 pixels a side up to 7 were needed, at 64 always one


def scene(rng: np.random.Generator, size: int) -> tuple[Picture, list[Mask]]:
    """A picture and the visible masks of its things and of their parts, at least one.

    Returns:
        uint8 ``(size, size, 3)`` RGB, and bool ``(size, size)`` masks in no particular order.
    """
    for _ in range(MOST_TRIES):
        picture = _surface(rng, size)
        masks: list[Mask] = []
        for _ in range(int(rng.integers(1, 7))):
            picture, masks = _add_thing(rng, picture, masks)
        picture = _expose(rng, picture)
        masks = [mask for mask in masks if mask.sum() >= MIN_FOREGROUND]
        if masks:
            return canvas.develop(rng, picture, sensor=float(rng.choice([0.0, 0.01, 0.03]))), masks
    raise too_small("scenes", size)


def too_small(generator: str, size: int) -> CosamError:
    """The error for pictures on which no mask is large enough to be a target."""
    return CosamError(
        f"The generator {generator!r} drew no mask of {MIN_FOREGROUND} pixels in {MOST_TRIES} pictures of {size} x "
        f"{size}. Give the domain a larger size; 64 and more always do."
    )


def scenes(rng: np.random.Generator, size: int) -> tuple[Picture, Mask]:
    """A generic scene and one of its masks."""
    picture, masks = scene(rng, size)
    return picture, masks[int(rng.integers(len(masks)))]


def _surface(rng: np.random.Generator, size: int) -> Array:
    """A random material: two colours mixed by noise, stripes, checks or a gradient, with grain."""
    first = canvas.colour(rng)
    spread = rng.choice([0.04, 0.12, 0.3])
    second = np.clip(first + rng.normal(0, spread, 3), 0.02, 1).astype(np.float32)
    kind = rng.integers(6)
    if kind <= 1:
        value = 0.5 + 0.9 * canvas.fractal(rng, size, cells=int(rng.integers(2, 24)))
    elif kind == 2:
        value = 0.5 + 0.8 * canvas.fractal(rng, size, cells=(int(rng.integers(1, 5)), int(rng.integers(16, 64))))
        value = value.T if rng.random() < 0.5 else value
    elif kind == 3:
        value = 0.5 + 0.5 * _stripes(rng, size)
    elif kind == 4:
        value = (_stripes(rng, size) * _stripes(rng, size) > 0).astype(np.float32)
    else:
        u, _ = shapes.local(size, (0.5, 0.5), rng.uniform(0, 6.3))
        value = 0.5 + u
    picture = canvas.ramp(value, first, second)
    rough = np.float32(rng.choice([0.0, 0.02, 0.06]))
    return picture + rough * canvas.grain(rng, size)[..., None]


def _stripes(rng: np.random.Generator, size: int) -> Array:
    u, _ = shapes.local(size, (0.5, 0.5), rng.uniform(0, np.pi))
    wave: Array = elementary.sin(u * np.float32(rng.uniform(20, 160)) + np.float32(rng.uniform(0, 6.3)))
    return wave


def _add_thing(rng: np.random.Generator, picture: Array, masks: list[Mask]) -> tuple[Array, list[Mask]]:
    """Lay one thing over the picture, cut what it hides from the others' masks, and append its own."""
    size = picture.shape[0]
    centre = (rng.uniform(0.08, 0.92), rng.uniform(0.08, 0.92))
    radius = float(np.exp(rng.uniform(np.log(0.05), np.log(0.36))))
    distance = _outline(rng, size, centre, radius)
    if rng.random() < 0.5:
        drop = (centre[0] + radius * rng.normal(0, 0.2), centre[1] + radius * rng.normal(0, 0.2))
        shadow = elementary.exp(-np.maximum(shapes.ellipse(size, drop, (radius, radius)), 0) / (0.15 * radius + 0.01))
        picture = canvas.light(picture, 1 - np.float32(rng.uniform(0.1, 0.5)) * shadow)
    alpha = canvas.coverage(distance, soft=float(rng.choice([0.0, 0.0, 0.02])))
    picture = canvas.over(picture, _material(rng, picture, centre, radius), alpha)
    inside = distance < 0
    masks = [mask & ~inside for mask in masks]
    masks.append(inside)
    for _ in range(int(rng.choice([0, 0, 1, 2]))):
        picture, part = _add_part(rng, picture, inside, centre, radius)
        masks.append(part)
    return picture, masks


def _outline(rng: np.random.Generator, size: int, centre: tuple[float, float], radius: float) -> Array:
    kind = rng.integers(7)
    angle = rng.uniform(0, np.pi)
    if kind == 0:
        return shapes.ellipse(size, centre, (radius, radius * rng.uniform(0.35, 1)), angle)
    if kind == 1:
        half = (radius, radius * rng.uniform(0.25, 1))
        return shapes.box(size, centre, half, angle, corner=half[1] * rng.uniform(0, 0.6))
    if kind == 2:
        return shapes.polygon(rng, size, centre, radius)
    if kind == 3:
        ring: Array = np.abs(shapes.blob(rng, size, centre, radius * 0.8, rough=0.05)) - np.float32(radius * 0.2)
        return ring
    if kind == 4:
        limb = [centre, *shapes.wander(rng, centre, rng.uniform(0, 6.3), 2 * radius, steps=3)]
        return shapes.path(size, limb, max(radius * rng.uniform(0.2, 0.6), 0.03))
    aspect = rng.uniform(1, 2.5)
    return shapes.blob(rng, size, centre, radius, aspect=aspect, angle=angle, rough=rng.uniform(0.02, 0.4))


def _material(rng: np.random.Generator, picture: Array, centre: tuple[float, float], radius: float) -> Array:
    """A surface lit from one side, sometimes rounded like a ball or of nearly the ground's own colour."""
    size = picture.shape[0]
    surface = _surface(rng, size)
    if rng.random() < 0.2:
        surface = np.clip(picture + (surface - surface.mean((0, 1))) + rng.normal(0, 0.08, 3), 0, 1)
        surface = surface.astype(np.float32)
    u, _ = shapes.local(size, centre, rng.uniform(0, 6.3))
    gain = 1 + np.float32(rng.uniform(0, 0.35)) * np.clip(u / np.float32(radius), -1.5, 1.5)
    return canvas.light(surface, gain)


def _add_part(
    rng: np.random.Generator, picture: Array, whole: Mask, centre: tuple[float, float], radius: float
) -> tuple[Array, Mask]:
    """Lay a smaller thing on a thing, within its outline; the whole keeps it in its mask."""
    size = picture.shape[0]
    place = (centre[0] + radius * rng.uniform(-0.5, 0.5), centre[1] + radius * rng.uniform(-0.5, 0.5))
    distance = _outline(rng, size, place, radius * rng.uniform(0.3, 0.55))
    alpha = canvas.coverage(distance) * whole
    return canvas.over(picture, _surface(rng, size), alpha), (distance < 0) & whole


def _expose(rng: np.random.Generator, picture: Array) -> Array:
    """Light that falls off across the picture, contrast, and now and then no colour at all."""
    size = picture.shape[0]
    gain = 1 + np.float32(rng.uniform(0, 0.4)) * canvas.noise(rng, size, cells=2)
    picture = canvas.light(picture, gain) * np.float32(rng.uniform(0.7, 1.15))
    if rng.random() < 0.25:
        grey = picture.mean(axis=2, keepdims=True)
        picture = np.repeat(grey, 3, axis=2)
    return picture
