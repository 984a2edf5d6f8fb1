"""What pages of results say of the figures in their tables."""

from __future__ import annotations


def share_of_gain(last: float, *, frozen: float, experts: float) -> str:
    """What a method gains over frozen SAM, of what the experts gain.

    >>> share_of_gain(0.6, frozen=0.5, experts=0.9)
    '25 %'
    """
    return f"{(last - frozen) / (experts - frozen):.0%}".replace("%", " %")
