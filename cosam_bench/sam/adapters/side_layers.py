"""Side layers: layers beside SAM's own, which adapters other than LoRA and a tuned decoder consist of."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

import torch
from torch import Tensor, nn

from cosam_bench.sam.frame_prompts import FramePrompts


class SideLayers(nn.Module):
    """Layers beside SAM's own, frozen and without effect until a change of them is trained or served.

    Attributes:
        linear: names, within this module, of the linear layers that are merged by their inputs.
        reads_early_map: whether the decoder needs the map after the encoder's first global block.
        is_enabled: whether they take part in a pass; see ``serving``.
    """

    linear: tuple[str, ...]
    reads_early_map: ClassVar[bool] = False

    def __init__(self) -> None:
        super().__init__()
        self.is_enabled = False

    @contextmanager
    def enabled(self, is_enabled: bool) -> Iterator[None]:
        """Enable or disable the layers within the context."""
        before, self.is_enabled = self.is_enabled, is_enabled
        try:
            yield
        finally:
            self.is_enabled = before

    @contextmanager
    def conditioned_on(self, prompts: FramePrompts | None) -> Iterator[None]:
        """Give the layers the prompts of the passes within the context; most ignore them."""
        yield


def init_linear(layer: nn.Linear, *, generator: torch.Generator) -> None:
    """Draw the weight by Kaiming's uniform rule with slope sqrt 5, torch's default, and set the bias to zero."""
    nn.init.kaiming_uniform_(layer.weight, a=math.sqrt(5), generator=generator)
    nn.init.zeros_(layer.bias)


def zero_linear(inputs: int, outputs: int) -> nn.Linear:
    """A layer with bias whose output is zero until it is trained."""
    layer = nn.Linear(inputs, outputs)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def add_to_output(module: nn.Module, change: object) -> None:
    """Add ``change(input)`` to the output of a module of the encoder, unless ``change`` returns None."""

    def hook(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        added = change(inputs[0])  # type: ignore[operator]
        return None if added is None else output + added

    module.register_forward_hook(hook)
