"""A tiny model, images and updates for tests of kept features."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from cosam_bench.merging.updates import LowRank, Update
from cosam_bench.sam.build import build_sam
from cosam_bench.sam.sam import Sam

DEPTH = 3


LATER = "image_encoder.blocks.4.attn.qkv"


def tiny_with_positions() -> Sam:
    """The tiny model with random weights; its positions start at zero, which would hide that they are missing."""
    sam = build_sam("tiny", checkpoint="random")
    with torch.no_grad():
        sam.image_encoder.pos_embed.normal_(generator=torch.Generator().manual_seed(1))
    return sam


def some_images(count: int, *, seed: int = 0, side: int = 128) -> Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


def an_update(sam: Sam, layer: str, *, scale: float = 0.3) -> Update:
    linear = sam.get_submodule(layer)
    assert isinstance(linear, nn.Linear)
    generator = torch.Generator().manual_seed(3)
    a = torch.randn(2, linear.in_features, generator=generator)
    return Update({layer: LowRank(a, torch.randn(linear.out_features, 2, generator=generator) * scale)})


def files(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []
