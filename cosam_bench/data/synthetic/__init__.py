"""Domains drawn by code from a seed: honest caricatures of CoSAM's eight, at install size zero.

Modules, bottom to top:

canvas: noise, colour, light and layers
elementary: functions that give the same bits on every processor
settled: values that keep what was published
shapes: signed distances
scenes: generic objects on any ground
products: a texture, a pill and a bottle
living: a camouflaged animal and a polyp
metal: three worn metals
natural: natural-looking scenes
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from cosam_bench.core.seeds import derived_seed
from cosam_bench.data.synthetic.canvas import Mask, Picture
from cosam_bench.data.synthetic.living import camouflage, polyp
from cosam_bench.data.synthetic.metal import pitting, rail_i, rail_ii
from cosam_bench.data.synthetic.natural import natural
from cosam_bench.data.synthetic.products import pill, rim, texture
from cosam_bench.data.synthetic.scenes import MIN_FOREGROUND, MOST_TRIES, scenes, too_small
from cosam_bench.data.synthetic.settled import Sample, settle

Generator = Callable[[np.random.Generator, int], tuple[Picture, Mask]]


def _visible(draw: Generator) -> Generator:
    """The generator that draws again until the mask is large enough to be a target."""

    def drawn(rng: np.random.Generator, size: int) -> tuple[Picture, Mask]:
        for _ in range(MOST_TRIES):
            picture, mask = draw(rng, size)
            if mask.sum() >= MIN_FOREGROUND:
                return picture, mask
        raise too_small(draw.__name__, size)

    drawn.__doc__ = draw.__doc__
    return drawn


GENERATORS: dict[str, Generator] = {
    draw.__name__: _visible(draw)
    for draw in (pitting, rail_i, rail_ii, texture, pill, rim, camouflage, polyp, natural, scenes)
}
"""By name: draws one sample, an uint8 RGB picture ``(size, size, 3)`` and a bool mask ``(size, size)``
of at least ``MIN_FOREGROUND`` pixels, from nothing but the numpy generator. Eight domains, the retention
domain ``natural``, and the ``scenes`` that `tiny` was trained on."""


def draw_sample(generator: str, *, size: int, seed: int, part: str, index: int) -> tuple[Picture, Mask]:
    """One sample of a domain, which depends on nothing but these arguments, see ``GENERATORS`` for its form.

    Args:
        generator: name of the generator.
        size: of the picture, in pixels.
        seed: of the domain.
        part: ``train`` or ``test``.
        index: the sample's position in this part.
    """
    rng = np.random.default_rng(derived_seed(seed, "synthetic", generator, part, index))
    picture, mask = GENERATORS[generator](rng, size)
    settle(picture, Sample(generator, size, seed, part, index))
    return picture, mask
