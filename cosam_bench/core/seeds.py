"""Random streams that depend only on names, never on what ran before."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cosam_bench.core.hashing import sha256_text

if TYPE_CHECKING:
    import torch


def derived_seed(*parts: str | int) -> int:
    """A 63-bit seed from the parts; the same on every machine and in every process.

    >>> derived_seed(0, "fit", "polyp") == derived_seed(0, "fit", "polyp") != derived_seed(0, "fit", "camo")
    True
    """
    text = "\x1f".join(str(part) for part in parts)
    return int(sha256_text(text)[:16], 16) >> 1


def torch_generator(*parts: str | int) -> torch.Generator:
    """A CPU generator seeded by ``derived_seed(*parts)``."""
    import torch

    return torch.Generator().manual_seed(derived_seed(*parts))
