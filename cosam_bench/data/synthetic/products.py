"""Three products under an inspection camera: a woven or tiled texture, a pill, a bottle's rim."""

from __future__ import annotations

import numpy as np

from cosam_bench.data.synthetic import canvas, elementary, shapes
from cosam_bench.data.synthetic.canvas import Array, Mask, Picture


def texture(rng: np.random.Generator, size: int) -> tuple[Picture, Mask]:
    """A carpet or tiles in which the pattern is broken: turned, shifted, frayed or missing in one patch.

    Caricature of MVTec's texture objects: the defect has the ground's own colours and no outline; only the
    run of the pattern tells where it ends.
    """
    period, angle = rng.uniform(0.055, 0.09), rng.uniform(0, np.pi)
    pattern = _tiles if rng.random() < 0.35 else _weave
    low = canvas.colour(rng, 0.15, 0.4)
    high = np.clip(low + np.float32(rng.uniform(0.35, 0.55)), 0, 1)
    bend = np.float32(0.25 * period) * canvas.noise(rng, size, cells=4)
    ground = pattern(size, period, angle, bend)
    centre = (rng.uniform(0.25, 0.75), rng.uniform(0.25, 0.75))
    patch = shapes.blob(
        rng, size, centre, rng.uniform(0.14, 0.24), aspect=rng.uniform(1, 2.2), angle=rng.uniform(0, 3), rough=0.3
    )
    kind = rng.integers(3)
    if kind == 0:
        broken = pattern(size, period, angle + rng.uniform(0.5, 1.0), bend)
    elif kind == 1:
        broken = pattern(size, period * rng.uniform(1.5, 2.0), angle, bend)
    else:
        broken = ground * 0.4 + 0.3 + 0.3 * canvas.fractal(rng, size, cells=26, octaves=2)
    broken = 0.85 * broken + np.float32(rng.uniform(0.1, 0.28))  # loose threads catch the light
    share = canvas.coverage(patch, soft=0.01)
    value = ground * (1 - share) + broken * share + 0.07 * canvas.grain(rng, size)
    picture = canvas.light(canvas.ramp(value, low, high), 1 + 0.12 * canvas.noise(rng, size, cells=2))
    return canvas.develop(rng, picture), patch < 0


def _weave(size: int, period: float, angle: float, bend: Array) -> Array:
    u, v = shapes.local(size, (0.5, 0.5), angle)
    over = elementary.sin((u + bend) * np.float32(2 * np.pi / period))
    under = elementary.sin((v + bend) * np.float32(2 * np.pi / (2.2 * period)))
    woven: Array = 0.5 + 0.5 * over * under
    return woven


def _tiles(size: int, period: float, angle: float, bend: Array) -> Array:
    u, v = shapes.local(size, (0.5, 0.5), angle)
    pitch = np.float32(2.2 * period)
    row = np.floor((v + bend) / pitch)
    along = np.abs(((u + bend) / pitch + 0.5 * (row % 2)) % 1 - 0.5)
    across = np.abs(((v + bend) / pitch) % 1 - 0.5)
    bricks: Array = np.clip((0.5 - np.maximum(along, across)) * 9, 0, 1).astype(np.float32)
    return bricks


def pill(rng: np.random.Generator, size: int) -> tuple[Picture, Mask]:
    """A speckled white pill on a dark belt with one fault: a stain, a crack or a chip off its edge.

    Caricature of MVTec's pill: the fault is a small part of the thing a camera would call the object, and
    the round red speckles, more striking than it, belong to a good pill.
    """
    belt = 0.1 + 0.02 * canvas.fractal(rng, size, cells=20)
    picture = canvas.fill((0.9, 1, 1.05), belt, size=size)
    centre = (0.5 + rng.normal(0, 0.03), 0.5 + rng.normal(0, 0.03))
    angle, radii = rng.uniform(0, np.pi), (rng.uniform(0.36, 0.43), rng.uniform(0.22, 0.29))
    body = shapes.ellipse(size, centre, radii, angle)
    dome = elementary.power(np.clip(-body / np.float32(radii[1]), 0, 1), 0.45)
    chalk = 0.5 + 0.42 * dome + 0.03 * canvas.grain(rng, size)
    good = canvas.fill((1, 0.99, 0.94), chalk, size=size)
    for _ in range(int(rng.integers(5, 12))):
        speck = shapes.blob(rng, size, _on_pill(rng, centre, radii, angle, 0.85), rng.uniform(0.012, 0.028))
        good = canvas.over(good, (0.72, 0.2, 0.16), 0.8 * canvas.coverage(speck, soft=0.01))
    picture = canvas.over(picture, good, canvas.coverage(body))
    kind = rng.integers(3)
    if kind == 0:
        place = _on_pill(rng, centre, radii, angle, 0.6)
        fault = shapes.blob(rng, size, place, rng.uniform(0.05, 0.1), rough=0.3)
        tone = canvas.tone(0.82, 0.72, 0.42) if rng.random() < 0.5 else canvas.tone(0.55, 0.57, 0.5)
        layer, strength = canvas.fill(tone, 0.45 + 0.6 * dome, size=size), 0.8
    elif kind == 1:
        start = _on_pill(rng, centre, radii, angle, 0.6)
        crack = shapes.wander(rng, start, rng.uniform(0, 6.3), rng.uniform(0.2, 0.32), bend=0.5)
        fault = shapes.path(size, crack, rng.uniform(0.03, 0.045))
        layer, strength = canvas.fill((0.5, 0.47, 0.42), size=size), 0.85
    else:
        fault = shapes.blob(rng, size, _on_pill(rng, centre, radii, angle, 1.0), rng.uniform(0.07, 0.12), rough=0.3)
        layer, strength = canvas.fill((0.42, 0.42, 0.41), 1 + 0.25 * canvas.grain(rng, size), size=size), 0.9
    mask = (fault < 0) & (body < 0)
    picture = canvas.over(picture, layer, strength * canvas.coverage(fault, soft=0.008) * (body < 0))
    return canvas.develop(rng, picture), mask


def _on_pill(
    rng: np.random.Generator,
    centre: tuple[float, float],
    radii: tuple[float, float],
    angle: float,
    reach: float,
) -> tuple[float, float]:
    """A random place on an ellipse of ``reach`` times the pill's size if that is one, within it otherwise."""
    theta = rng.uniform(0, 2 * np.pi)
    far = 1.0 if reach == 1.0 else reach * np.sqrt(rng.random())
    u, v = far * radii[0] * np.cos(theta), far * radii[1] * np.sin(theta)
    return (
        float(centre[0] + u * np.cos(angle) - v * np.sin(angle)),
        float(centre[1] + u * np.sin(angle) + v * np.cos(angle)),
    )


def rim(rng: np.random.Generator, size: int) -> tuple[Picture, Mask]:
    """A bottle seen from above whose glossy rim is broken along an arc.

    Caricature of MVTec's bottle: the fault is a thin bent piece of a ring, so that its box holds mostly
    sound bottle; the dark mouth beside it is the most striking shape and is never meant.
    """
    centre = (0.5 + rng.normal(0, 0.02), 0.5 + rng.normal(0, 0.02))
    u, v = shapes.local(size, centre, rng.uniform(0, 2 * np.pi))
    far, theta = elementary.hypot(u, v), elementary.arctan2(v, u)
    picture = canvas.fill((1, 1, 1), 0.93 + 0.02 * canvas.noise(rng, size, cells=5), size=size)
    mouth, lip = rng.uniform(0.19, 0.24), rng.uniform(0.075, 0.105)
    shoulder = 0.3 + 0.08 * elementary.cos(3 * theta + np.float32(rng.uniform(0, 6.3)))
    picture = canvas.over(
        picture, canvas.fill((0.55, 0.3, 0.16), shoulder * 2, size=size), canvas.coverage(far - np.float32(0.45))
    )
    gloss = 0.72 + 0.22 * elementary.cos(2 * theta + np.float32(rng.uniform(0, 6.3)))
    ring = np.abs(far - np.float32(mouth + lip / 2)) - np.float32(lip / 2)
    picture = canvas.over(picture, canvas.fill((0.9, 0.72, 0.5), gloss, size=size), canvas.coverage(ring))
    depth = 0.07 + 0.1 * far / np.float32(mouth)
    picture = canvas.over(
        picture, canvas.fill((1, 0.8, 0.7), depth, size=size), canvas.coverage(far - np.float32(mouth))
    )
    half = rng.uniform(0.35, 1.1)
    ragged = np.float32(0.12) * canvas.noise(rng, size, cells=18)
    arc = np.maximum((np.abs(theta + ragged) - np.float32(half)) * far, ring + np.float32(0.08) * ragged)
    chips = 0.42 + 0.5 * canvas.fractal(rng, size, cells=18, octaves=2, fade=0.9)
    broken = canvas.ramp(chips, (0.12, 0.06, 0.03), (0.85, 0.66, 0.45))
    picture = canvas.over(picture, broken, canvas.coverage(arc))
    return canvas.develop(rng, picture), arc < 0
