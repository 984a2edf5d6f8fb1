"""A linear layer with trainable low-rank factors beside its frozen weight: LoRA (arXiv 2106.09685).

The layer is this project's own, although peft has one, for two reasons. Importing peft, and with it transformers, takes
a process twice as long as importing torch: before each run, in each worker of a sweep and for each isolated method. And
peft computes ``B A x``, multiplies it by the scale and adds it to the base layer's output: three more tensors of that
size, in the forward pass and again in the backward pass. Here B is scaled, and the product is added to the output in
place. In float32 the numbers are peft's bit for bit if the scale is a power of two, and differ in the last bits
otherwise; in bfloat16 the sum is rounded once instead of twice.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class LoraLinear(nn.Module):
    """A frozen linear layer plus ``scale`` B A.

    Attributes:
        base_layer: the frozen layer.
        a: float, ``(rank, in)``.
        b: float, ``(out, rank)``.
        scale: of the product.
    """

    def __init__(self, base_layer: nn.Linear, *, a: Tensor, b: Tensor, scale: float) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.a, self.b = nn.Parameter(a), nn.Parameter(b)
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        """``(..., in)`` to ``(..., out)``, in the type of autocast if it is enabled."""
        rows = x.flatten(0, -2)
        if torch.is_autocast_enabled(x.device.type):
            rows = rows.to(torch.get_autocast_dtype(x.device.type))  # once, for both products
        output = functional.linear(rows, self.base_layer.weight, self.base_layer.bias)
        inner = functional.linear(rows, self.a)
        outer = (self.b * self.scale).to(output.dtype)
        return output.addmm_(inner, outer.T).view(*x.shape[:-1], -1)
