"""RegCL's LoRA: a bottleneck beside the whole attention of a block, not inside its projections."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from cosam_bench.sam.adapters.side_layers import SideLayers, add_to_output, init_linear, zero_linear


class ParallelLora(SideLayers):
    """``attention(x) + B(A(x))`` in each adapted block of a ViT, where x is the attention's own input.

    A and B have biases, and the scale is 1. With rank 10 in five of ViT-B's blocks: 80,690 parameters.

    Source: RegCL (arXiv 2507.12297), released code: A drawn as torch draws a linear layer, B zero.
    """

    def __init__(self, blocks: dict[int, Any], *, width: int, rank: int, generator: torch.Generator) -> None:
        """Layers for these blocks of an image encoder, by number.

        Args:
            width: channels of the blocks' maps.
            generator: draws A.
        """
        super().__init__()
        self.down, self.up = nn.ModuleDict(), nn.ModuleDict()
        for number, block in blocks.items():
            name = str(number)
            self.down[name] = nn.Linear(width, rank)
            init_linear(self.down[name], generator=generator)  # type: ignore[arg-type]  # torch loses the type
            self.up[name] = zero_linear(rank, width)
            add_to_output(block.attn, self._beside(name))
        self.linear = tuple(f"{part}.{number}" for number in blocks for part in ("down", "up"))

    def _beside(self, name: str) -> Any:
        def change(rows: Tensor) -> Tensor | None:
            if not self.is_enabled:
                return None
            added: Tensor = self.up[name](self.down[name](rows))
            return added

        return change
