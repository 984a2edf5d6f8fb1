"""Two camouflaged living subjects: an animal with the texture of its ground, and a polyp in a gut."""

from __future__ import annotations

import numpy as np

from cosam_bench.data.synthetic import canvas, elementary, shapes
from cosam_bench.data.synthetic.canvas import Array, Mask, Picture

_COATS = (
    ((0.2, 0.17, 0.08), (0.56, 0.5, 0.28)),  # dry leaves
    ((0.09, 0.17, 0.06), (0.4, 0.5, 0.22)),  # grass
    ((0.3, 0.25, 0.2), (0.72, 0.66, 0.56)),  # sand and stone
    ((0.14, 0.12, 0.1), (0.45, 0.4, 0.36)),  # bark
)


def camouflage(rng: np.random.Generator, size: int) -> tuple[Picture, Mask]:
    """An animal of body, head, legs and tail in the texture of the ground it stands on.

    Caricature of CAMO: one union mask of the whole animal, thin limbs included; coat and ground differ
    only a little in brightness and in how the pattern runs.
    """
    low, high = (canvas.tone(*tone) + rng.normal(0, 0.03, 3) for tone in _COATS[rng.integers(4)])
    cells = int(rng.integers(9, 18))
    ground = canvas.fractal(rng, size, cells=(cells, cells + 4), octaves=3, fade=0.7)
    coat = canvas.fractal(rng, size, cells=(cells + 9, cells - 3), octaves=3, fade=0.7)
    animal = _animal(rng, size)
    alpha = canvas.coverage(animal, soft=0.008)
    shift = rng.uniform(0.14, 0.26)  # hair is a little paler than what it imitates
    value = 0.5 + 0.9 * ground
    rounding = np.clip(-animal / np.float32(0.08), 0, 1) * np.float32(0.1)
    value = value * (1 - alpha) + (0.5 + np.float32(shift) + 0.8 * coat + rounding) * alpha
    shade = 0.35 * elementary.exp(-np.maximum(np.roll(animal, size // 24, axis=0), 0) / np.float32(0.03)) * (1 - alpha)
    picture = canvas.light(canvas.ramp(value, low, high), 1 - shade)
    picture = canvas.light(picture, 1 + 0.2 * canvas.noise(rng, size, cells=3))
    return canvas.develop(rng, picture, sensor=0.02), animal < 0


def _animal(rng: np.random.Generator, size: int) -> Array:
    centre = (rng.uniform(0.4, 0.6), rng.uniform(0.38, 0.55))
    facing = float(rng.choice([-1.0, 1.0]))
    long, high = rng.uniform(0.15, 0.24), rng.uniform(0.08, 0.13)
    tilt = rng.normal(0, 0.15)
    parts = [shapes.blob(rng, size, centre, np.sqrt(long * high), aspect=long / high, angle=tilt, rough=0.08)]
    neck = (centre[0] + facing * long * 0.85, centre[1] - high * rng.uniform(0.2, 1.0))
    head = (neck[0] + facing * rng.uniform(0.03, 0.07), neck[1] - rng.uniform(0.01, 0.07))
    parts.append(shapes.path(size, [centre, neck, head], high * rng.uniform(0.6, 0.9)))
    parts.append(shapes.ellipse(size, head, (high * rng.uniform(0.5, 0.7), high * rng.uniform(0.35, 0.5))))
    for place in (-0.75, -0.45, 0.4, 0.7):
        hip = (centre[0] + place * long, centre[1] + 0.4 * high)
        foot = (hip[0] + rng.normal(0, 0.03), hip[1] + rng.uniform(0.14, 0.24))
        parts.append(shapes.stroke(size, hip, foot, rng.uniform(0.028, 0.045)))
    rump = (centre[0] - facing * long * 0.8, centre[1] - 0.2 * high)
    away = np.pi if facing > 0 else 0.0
    tail = shapes.wander(rng, rump, away + rng.normal(0, 0.7), rng.uniform(0.1, 0.22), steps=3)
    parts.append(shapes.path(size, [rump, *tail[1:]], rng.uniform(0.022, 0.035)))
    outline: Array = np.minimum.reduce(parts)
    return outline


def polyp(rng: np.random.Generator, size: int) -> tuple[Picture, Mask]:
    """A dome of mucosa in an endoscope's view: same colour as the wall, visible by its shading.

    Caricature of Kvasir-SEG: black corners, folds with sharp shadows, wet highlights that cut across
    everything; the mask is the whole dome, highlights included and its cast shadow excluded.
    """
    x, y = canvas.coordinates(size)
    tone = canvas.tone(0.78, 0.38, 0.3) + rng.normal(0, 0.035, 3)
    wall = 0.85 + 0.14 * canvas.fractal(rng, size, cells=4) + 0.05 * canvas.fractal(rng, size, cells=18)
    picture = canvas.fill(tone, wall, size=size)
    picture = _folds(rng, picture)
    centre = (rng.uniform(0.32, 0.68), rng.uniform(0.32, 0.68))
    radius = rng.uniform(0.12, 0.22)
    dome = shapes.blob(rng, size, centre, radius, aspect=rng.uniform(1, 1.9), angle=rng.uniform(0, 3), rough=0.2)
    lamp = rng.uniform(0, 2 * np.pi)
    shadow = np.roll(dome, (int(-np.sin(lamp) * size * 0.04), int(-np.cos(lamp) * size * 0.04)), axis=(0, 1))
    picture = canvas.light(picture, 1 - np.float32(rng.uniform(0.25, 0.45)) * canvas.coverage(shadow, soft=0.08))
    u, _ = shapes.local(size, centre, lamp)
    swell = 0.82 + 0.28 * u / np.float32(radius) + 0.06 * canvas.fractal(rng, size, cells=14)
    skin = tone * canvas.tone(1.0, rng.uniform(0.84, 1.06), rng.uniform(0.84, 1.0))
    picture = canvas.over(picture, canvas.fill(skin, swell, size=size), canvas.coverage(dome, soft=0.015))
    picture = _highlights(rng, picture, centre, radius)
    fall = 1.15 - 1.1 * ((x - 0.5) ** 2 + (y - 0.5) ** 2)
    view = np.maximum(np.abs(x - 0.5) + np.abs(y - 0.5) - np.float32(0.82), np.float32(-1))
    picture = canvas.over(canvas.light(picture, fall), (0.02, 0.02, 0.02), canvas.coverage(-view, soft=0.01))
    return canvas.develop(rng, picture), dome < 0


def _folds(rng: np.random.Generator, picture: Array) -> Array:
    """Haustral folds: big arcs, bright on one side and dark on the other."""
    size = picture.shape[0]
    for _ in range(int(rng.integers(1, 4))):
        angle = rng.uniform(0, 2 * np.pi)
        middle = (0.5 + 0.9 * np.cos(angle), 0.5 + 0.9 * np.sin(angle))
        edge = shapes.blob(rng, size, middle, rng.uniform(0.5, 0.8), rough=0.05)
        step = elementary.exp(-np.abs(edge) / np.float32(0.05)) * np.sign(edge)
        picture = canvas.light(picture, 1 - np.float32(rng.uniform(0.2, 0.4)) * step)
    return picture


def _highlights(rng: np.random.Generator, picture: Array, centre: tuple[float, float], radius: float) -> Array:
    """White reflections of the lamp, most of them on the dome."""
    size = picture.shape[0]
    for _ in range(int(rng.integers(3, 8))):
        spread = radius * (0.8 if rng.random() < 0.6 else 2.5)
        place = (centre[0] + rng.normal(0, 0.6) * spread, centre[1] + rng.normal(0, 0.6) * spread)
        shine = shapes.blob(rng, size, place, rng.uniform(0.012, 0.035), aspect=2, angle=rng.uniform(0, 3))
        picture = canvas.over(picture, (1, 0.97, 0.95), 0.9 * canvas.coverage(shine, soft=0.01))
    return picture
