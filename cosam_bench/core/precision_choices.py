"""The types that a model may compute in; importable without torch."""

from typing import Literal

Precision = Literal["fp32", "tf32", "bf16", "auto"]
"""``tf32`` rounds the factors of products on an NVIDIA GPU to 10 bits; ``auto`` is resolved before a run begins."""
