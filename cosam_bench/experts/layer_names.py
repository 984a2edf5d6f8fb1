"""What other programs call the model's linear layers."""

from __future__ import annotations

import torch
from torch import nn

from cosam_bench.results.export.transformers_folder import renamed
from cosam_bench.sam.mobile_names import published_name
from cosam_bench.sam.sam import Sam


def layers_by_name(sam: Sam) -> dict[str, str]:
    """By each name that a linear layer has here, in the published code or in transformers, its name here."""
    layers = [name for name, module in sam.named_modules() if isinstance(module, nn.Linear)]
    numbers = {f"{layer}.weight": torch.tensor(number) for number, layer in enumerate(layers)}
    depth = len(sam.mask_decoder.iou_prediction_head.layers)
    transformers = {
        name.removesuffix(".weight"): layers[int(number)] for name, number in renamed(numbers, depth=depth).items()
    }
    return transformers | {published_name(layer): layer for layer in layers} | {layer: layer for layer in layers}
