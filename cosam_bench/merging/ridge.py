"""RegMean's least squares as methods' settings state them: the ridge and the solver; nothing here imports torch."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import AfterValidator

Solver: TypeAlias = Literal["float64", "float32_inverse"]
"""How the least squares are solved: by Cholesky in float64, or by an inverse in float32, as in released codes."""

RidgeTo: TypeAlias = Literal["zero", "mean"]
"""What a ridge pulls to: no change of the base, or the mean of the experts' changes."""

SMALLEST_RIDGE = 1e-9
"""Below it a ridge other than 0 is lost in the rounding of the sums, whose products are float32, and lifts rounding
errors instead: on one domain, 1e-9 returned the expert and 1e-12 did not."""


def _above_rounding(ridge: float) -> float:
    if 0 < ridge < SMALLEST_RIDGE:
        raise ValueError(f"a ridge below {SMALLEST_RIDGE:g} is less than the sums' rounding; give 0, or more")
    return ridge


Ridge = Annotated[float, AfterValidator(_above_rounding)]
"""A setting: 0, or a ridge that the sums' rounding leaves effective."""
