"""peft's LoRA layer without its extra passes over the layer's whole output.

peft computes ``B A x``, multiplies it by the scale and adds it to the base layer's output: three more tensors of that
size, in the forward pass and again in the backward pass. Here B is scaled, and the product is added to the output in
place. In float32 the numbers are peft's bit for bit if the scale is a power of two, and differ in the last bits
otherwise; in bfloat16 the sum is rounded once instead of twice.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from peft.tuners.lora.layer import Linear
from torch import Tensor, nn
from torch.nn import functional


class LeanLora(Linear):
    """A peft layer with one adapter, neither merged nor disabled, and without dropout."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """``(..., in)`` to ``(..., out)``; without further arguments, as SAM's layers call it."""
        del args, kwargs
        (name,) = self.active_adapters
        base: Any = self.base_layer
        first: Any = self.lora_A[name]
        second: Any = self.lora_B[name]
        rows = x.flatten(0, -2)
        if torch.is_autocast_enabled(x.device.type):
            rows = rows.to(torch.get_autocast_dtype(x.device.type))  # once, for both products
        output = functional.linear(rows, base.weight, base.bias)
        inner = functional.linear(rows, first.weight)
        outer = (second.weight * self.scaling[name]).to(output.dtype)
        return output.addmm_(inner, outer.T).view(*x.shape[:-1], -1)


def use_lean_lora(layers: Iterable[nn.Module]) -> None:
    """Let peft's layers, as ``inject_adapter_in_model`` makes them, compute as ``LeanLora``."""
    for layer in layers:
        assert type(layer) is Linear
        layer.__class__ = LeanLora  # its parameters, settings and own hooks stay; hooks of its parts are not called
