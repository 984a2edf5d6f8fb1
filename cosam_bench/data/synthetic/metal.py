"""Three worn metals: a ball screw's flank, an express rail's head, a heavy rail's surface."""

from __future__ import annotations

import numpy as np

from cosam_bench.data.synthetic import canvas, elementary, shapes
from cosam_bench.data.synthetic.canvas import Array, Mask, Picture


def pitting(rng: np.random.Generator, size: int) -> tuple[Picture, Mask]:
    """Ball-screw pitting: dark pits in a rusty, paler worn patch on a shiny threaded flank.

    Caricature of BSData: the annotator's polygon holds the whole worn patch with the pits in it, while
    oil streaks nearby, which are just as dark, are no pitting.
    """
    u, v = shapes.local(size, (0.5, 0.5), rng.normal(0, 0.12))
    thread = elementary.sin(v * np.float32(rng.uniform(9, 15)) + np.float32(rng.uniform(0, 6.3)))
    brushed = canvas.fractal(rng, size, cells=(48, 3), octaves=2)
    value = 0.5 + 0.26 * thread + 0.1 * brushed + 0.1 * u
    picture = canvas.ramp(value, (0.24, 0.25, 0.27), (0.86, 0.87, 0.88))
    for _ in range(int(rng.integers(1, 4))):
        start = (rng.uniform(0, 1), rng.uniform(0, 1))
        streak = shapes.path(size, shapes.wander(rng, start, rng.normal(0, 0.3), 0.4), rng.uniform(0.02, 0.05))
        picture = canvas.over(picture, (0.2, 0.18, 0.15), 0.7 * canvas.coverage(streak, soft=0.03))
    centre = (rng.uniform(0.25, 0.75), rng.uniform(0.25, 0.75))
    radius = rng.uniform(0.09, 0.19)
    patch = shapes.blob(rng, size, centre, radius, aspect=rng.uniform(1, 2), angle=rng.normal(0, 0.4), rough=0.22)
    rust = canvas.tone(0.62, 0.5, 0.38) + rng.normal(0, 0.03, 3)
    worn = canvas.fill(rust, 1 + 0.25 * canvas.fractal(rng, size, cells=24), size=size)
    picture = canvas.over(picture, worn, 0.75 * canvas.coverage(patch, soft=0.015))
    pits = shapes.blob(rng, size, centre, radius * rng.uniform(0.3, 0.55), rough=0.35, waves=4)
    for _ in range(int(rng.integers(1, 4))):
        angle = rng.uniform(0, 6.3)
        place = (centre[0] + 0.6 * radius * np.cos(angle), centre[1] + 0.6 * radius * np.sin(angle))
        pits = np.minimum(pits, shapes.blob(rng, size, place, radius * rng.uniform(0.12, 0.3), rough=0.3, waves=4))
    inside = canvas.coverage(pits, soft=0.005) * (patch < 0)
    picture = canvas.over(picture, (0.1, 0.08, 0.07), 0.9 * inside)
    return canvas.develop(rng, picture), patch < 0


def rail_i(rng: np.random.Generator, size: int) -> tuple[Picture, Mask]:
    """Express rail: a narrow shiny head between dark sides, with squats, one of which is meant.

    Caricature of RSDDs type I: only the dark core of a squat is the defect; the metal squeezed out around
    it, brighter than the rest, is sound, and so is every other squat in the picture.
    """
    x, _ = canvas.coordinates(size)
    middle, half = rng.uniform(0.42, 0.58), rng.uniform(0.17, 0.25)
    ballast = 0.5 + 0.9 * canvas.fractal(rng, size, cells=14, octaves=2)
    picture = canvas.ramp(ballast, (0.06, 0.06, 0.06), (0.3, 0.29, 0.28))
    rolled = canvas.noise(rng, size, cells=(2, 56)) + 0.5 * canvas.noise(rng, size, cells=(3, 14))
    shine = 0.62 + 0.09 * rolled + 0.18 * elementary.cos((x - np.float32(middle + rng.normal(0, 0.05))) / half * 1.4)
    head = np.abs(x - np.float32(middle)) - np.float32(half)
    picture = canvas.over(picture, canvas.fill((1, 1, 1), shine, size=size), canvas.coverage(head, soft=0.02))
    mask = np.zeros((size, size), dtype=bool)
    rows = rng.permutation(np.linspace(0.14, 0.86, 4))[: rng.integers(2, 5)]
    for row in rows:
        centre = (middle + rng.uniform(-0.5, 0.5) * half, float(row) + rng.normal(0, 0.02))
        radius = rng.uniform(0.045, 0.085)
        core = shapes.blob(rng, size, centre, radius, aspect=rng.uniform(0.6, 1.4), rough=0.22, waves=4)
        lip = canvas.coverage(core - np.float32(rng.uniform(0.025, 0.05)), soft=0.02) * (head < 0)
        picture = canvas.over(picture, (0.97, 0.97, 0.97), lip)
        dark = canvas.coverage(core, soft=0.012) * (head < 0)
        depth = 0.24 + 0.1 * canvas.noise(rng, size, cells=28)
        picture = canvas.over(picture, canvas.fill((1, 1, 1), depth, size=size), dark)
        mask = (core < 0) & (head < 0)
    return canvas.develop(rng, picture, sensor=0.02), mask


def rail_ii(rng: np.random.Generator, size: int) -> tuple[Picture, Mask]:
    """Heavy rail: a wide rough surface from which a long flake has spalled, half dark and half glossy.

    Caricature of RSDDs type II: the defect is the whole flake, its black scarp and its bright bed
    together; corrugation across the rail is the only other structure.
    """
    _, y = canvas.coordinates(size)
    corrugation = elementary.sin(y * np.float32(rng.uniform(25, 45)) + np.float32(rng.uniform(0, 6.3)))
    rough = canvas.fractal(rng, size, cells=(10, 22), octaves=3, fade=0.8)
    picture = canvas.fill((0.97, 1, 1), 0.46 + 0.05 * corrugation + 0.16 * rough, size=size)
    centre = (rng.uniform(0.28, 0.72), rng.uniform(0.28, 0.72))
    angle = rng.normal(np.pi / 2, 0.25)
    radius = rng.uniform(0.11, 0.2)
    flake = shapes.blob(rng, size, centre, radius, aspect=rng.uniform(1.2, 2.6), angle=angle, rough=0.2)
    flake = flake + np.float32(0.02) * canvas.noise(rng, size, cells=26)
    side = rng.uniform(0, 2 * np.pi)
    u, _ = shapes.local(size, centre, side)
    u = u + np.float32(0.3 * radius) * canvas.noise(rng, size, cells=9)
    scarp = canvas.coverage(u - np.float32(rng.uniform(-0.25, 0.1) * radius), soft=0.01)
    bed = 0.56 + 0.2 * canvas.fractal(rng, size, cells=20, octaves=2, fade=0.9)
    inner: Array = canvas.over(
        canvas.fill((0.97, 1, 1), bed, size=size), canvas.fill((1, 1, 1), 0.2 + 0.2 * rough, size=size), scarp
    )
    picture = canvas.over(picture, inner, 0.95 * canvas.coverage(flake, soft=0.01))
    return canvas.develop(rng, picture, sensor=0.03), flake < 0
