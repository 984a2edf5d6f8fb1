"""Elementary functions that give the same bits on every processor.

In float32, numpy computes them by the processor's vector instructions, whose last bits differ from one kind of
processor to the next. Here they are computed in float64 and rounded to the type of the arguments: two processors then
differ only where their float64 results, equal to a few units in the last place, lie on both sides of a boundary between
two float32 numbers, about once in 10^8 values.

Angles of single floats need none of this: they are float64 already, and no pixel depends on their last bits.
"""

from __future__ import annotations

import numpy as np

from cosam_bench.data.synthetic.canvas import Array


def sin(angle: Array) -> Array:
    """The sine of ``angle`` in radians, of its dtype."""
    sine: Array = np.sin(angle, dtype=np.float64).astype(angle.dtype)
    return sine


def cos(angle: Array) -> Array:
    """The cosine of ``angle`` in radians, of its dtype."""
    cosine: Array = np.cos(angle, dtype=np.float64).astype(angle.dtype)
    return cosine


def exp(value: Array) -> Array:
    """e to the power of ``value``, of its dtype."""
    power: Array = np.exp(value, dtype=np.float64).astype(value.dtype)
    return power


def power(base: Array, exponent: float) -> Array:
    """``base``, not negative, to the power of ``exponent`` rounded to the base's dtype; of that dtype."""
    raised: Array = np.power(base, base.dtype.type(exponent), dtype=np.float64).astype(base.dtype)
    return raised


def arctan2(v: Array, u: Array) -> Array:
    """The angle of the point (u, v) in radians, [-pi, pi]."""
    angle: Array = np.arctan2(v, u, dtype=np.float64).astype(np.result_type(v, u))
    return angle


def hypot(u: Array, v: Array) -> Array:
    """The distance of the point (u, v) from (0, 0)."""
    distance: Array = np.hypot(u, v, dtype=np.float64).astype(np.result_type(u, v))
    return distance
