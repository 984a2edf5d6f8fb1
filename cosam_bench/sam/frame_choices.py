"""The ways to resize images and logits that a protocol chooses from; importable without torch."""

from __future__ import annotations

from typing import Literal, TypeAlias

Resize: TypeAlias = Literal["pad", "squash"]
Resampling: TypeAlias = Literal["pillow", "torch"]
Upsampling: TypeAlias = Literal["bilinear", "direct", "nearest"]
