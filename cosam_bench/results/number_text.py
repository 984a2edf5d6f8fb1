"""Numbers as people read them; files hold them in full precision."""

from __future__ import annotations

import math

MISSING = "-"


def number(value: float) -> str:
    """A score as shown: three decimals.

    >>> number(0.12345), number(-0.0001), number(math.nan)
    ('0.123', '0.000', '-')
    """
    return MISSING if math.isnan(value) else f"{round(value, 3) + 0.0:.3f}"  # no minus sign before zero


def amount(value: float) -> str:
    """A quantity as shown: about as many digits as a reader compares.

    >>> amount(1234.5), amount(12.34), amount(0.125)
    ('1,234', '12.3', '0.12')
    """
    if math.isnan(value):
        return MISSING
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 1 else f"{value:.2f}"
