"""Factors of a merged change, as methods' settings state them; importable without torch."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from cosam_bench.core.settings import Settings, setting

# The bounds are part of the type, because the word "1/t" has none.
Scale: TypeAlias = Annotated[float, Field(gt=0, allow_inf_nan=False)] | Literal["1/t"]


class ServedScale(Settings):
    """The setting of rules whose papers have no factor of the merged change."""

    scale: float = setting(
        1.0,
        "factor of the served change; what the rule carries to the next domain is not scaled",
        source="the paper, whose rule has no such factor",
        search=(0.25, 4.0, "log"),
        gt=0,
    )
