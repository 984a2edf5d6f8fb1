"""Layers beside SAM's own: what adapters other than LoRA and a tuned decoder consist of."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

import torch
from torch import Tensor, nn

from cosam_bench.sam.frame_prompts import FramePrompts


class SideLayers(nn.Module):
    """Layers beside SAM's own, frozen and without effect until somebody trains or serves a change of them.

    Attributes:
        linear: names, within this module, of the linear layers that are merged by their inputs.
        reads_early_map: whether the decoder needs the map after the encoder's first global block.
        is_enabled: whether they take part in a pass; ``adapters`` turns them on and off.
    """

    linear: tuple[str, ...]
    reads_early_map: ClassVar[bool] = False

    def __init__(self) -> None:
        super().__init__()
        self.is_enabled = False

    @contextmanager
    def enabled(self, is_enabled: bool) -> Iterator[None]:
        """On or off, for the time."""
        before, self.is_enabled = self.is_enabled, is_enabled
        try:
            yield
        finally:
            self.is_enabled = before

    @contextmanager
    def conditioned_on(self, prompts: FramePrompts | None) -> Iterator[None]:
        """Let the layers see the prompts of the pass within; most do not look."""
        yield


def init_linear(layer: nn.Linear, *, generator: torch.Generator) -> None:
    """Kaiming's uniform weight with slope sqrt 5, which is torch's own, and a bias of zero."""
    nn.init.kaiming_uniform_(layer.weight, a=math.sqrt(5), generator=generator)
    nn.init.zeros_(layer.bias)


def zero_linear(inputs: int, outputs: int) -> nn.Linear:
    """A layer with bias that answers zero until it is trained."""
    layer = nn.Linear(inputs, outputs)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def add_to_output(module: nn.Module, change: object) -> None:
    """Add ``change(input)`` to what a module of the encoder gives, wherever ``change`` does not say None."""

    def hook(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        added = change(inputs[0])  # type: ignore[operator]
        return None if added is None else output + added

    module.register_forward_hook(hook)
