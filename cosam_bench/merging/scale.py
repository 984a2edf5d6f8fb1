"""The factor of a merged change, as methods' settings state it; importable without torch."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import Field

# The bounds are part of the type, because the word "1/t" has none.
Scale: TypeAlias = Annotated[float, Field(gt=0, allow_inf_nan=False)] | Literal["1/t"]
