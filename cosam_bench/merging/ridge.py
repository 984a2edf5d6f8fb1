"""The ridge of RegMean's least squares, as a setting; nothing here imports torch."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator

SMALLEST_RIDGE = 1e-9
"""Below it a ridge other than 0 is lost in the rounding of the sums, whose products are float32, and lifts rounding
errors instead: on one domain, 1e-9 returned the expert and 1e-12 did not."""


def _above_rounding(ridge: float) -> float:
    if 0 < ridge < SMALLEST_RIDGE:
        raise ValueError(f"a ridge below {SMALLEST_RIDGE:g} is less than the sums' rounding; give 0, or more")
    return ridge


Ridge = Annotated[float, AfterValidator(_above_rounding)]
"""A setting: 0, or a ridge that the sums' rounding leaves effective."""
