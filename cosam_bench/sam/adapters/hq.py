"""HQ-SAM's decoder layers: an output token of their own, and features finer than the decoder's."""

from __future__ import annotations

from typing import ClassVar

import torch
from segment_anything.modeling.common import LayerNorm2d
from segment_anything.modeling.mask_decoder import MLP
from torch import Tensor, nn

from cosam_bench.sam.adapters.side_layers import SideLayers


class HQLayers(SideLayers):
    """The layers that HQ-SAM adds to a frozen mask decoder.

    A further token passes the decoder together with SAM's own. Its mask is the product of an MLP of that token with
    SAM's upscaled features, refined by two convolutions, plus features of the final embedding and of an early map of
    the encoder. Only this mask is used, as in CoSAM; HQ-SAM itself adds SAM's.

    With SAM's width C = 256 and ViT-B's 768 they have 1,071,104 parameters. Weights are torch's own random
    ones unless a file of trained ones is loaded.

    Source: Ke et al., "Segment Anything in High Quality", NeurIPS 2023.
    """

    reads_early_map: ClassVar[bool] = True

    def __init__(self, *, width: int, early_width: int) -> None:
        """Layers for embeddings of ``width`` channels and an early map of ``early_width``."""
        super().__init__()
        fine = width // 8
        self.token = nn.Embedding(1, width)
        self.mlp = MLP(width, width, fine, 3)
        self.embedding_encoder = _upscaling(width, width // 4, fine)
        self.early_compressor = _upscaling(early_width, width, fine)
        self.mask_feature = nn.Sequential(
            nn.Conv2d(fine, width // 4, 3, padding=1),
            LayerNorm2d(width // 4),
            nn.GELU(),
            nn.Conv2d(width // 4, fine, 3, padding=1),
        )
        self.linear = tuple(f"mlp.layers.{number}" for number in range(3))

    def logits(self, token: Tensor, *, upscaled: Tensor, embeddings: Tensor, early: Tensor) -> Tensor:
        """The mask's logits ``(B, 4h, 4w)``.

        Args:
            token: float, ``(B, C)``, this module's token after the decoder's transformer.
            upscaled: float, ``(B, C / 8, 4h, 4w)``, SAM's upscaled features.
            embeddings: float, ``(B, C, h, w)``, the encoder's output.
            early: float, ``(B, h, w, C')``, the encoder's map after its first global block.
        """
        detail = self.embedding_encoder(embeddings) + self.early_compressor(early.permute(0, 3, 1, 2))
        features: Tensor = self.mask_feature(upscaled) + detail
        product: Tensor = self.mlp(token).unsqueeze(1) @ features.flatten(2)
        return product.view(-1, *features.shape[2:])


def _upscaling(inputs: int, middle: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.ConvTranspose2d(inputs, middle, 2, stride=2),
        LayerNorm2d(middle),
        nn.GELU(),
        nn.ConvTranspose2d(middle, outputs, 2, stride=2),
    )


# From the names in published HQ-SAM checkpoints to this module's.
_PUBLISHED = {
    "hf_token": "token",
    "hf_mlp": "mlp",
    "embedding_encoder": "embedding_encoder",
    "compress_vit_feat": "early_compressor",
    "embedding_maskfeature": "mask_feature",
}


def rename_hq(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of ``HQLayers`` in a published checkpoint of HQ-SAM, or of its mask decoder alone, renamed.

    Names of this module are kept, and tensors of other parts are left out.
    """
    renamed = {}
    own = set(_PUBLISHED.values())
    for name, tensor in state.items():
        first, _, rest = name.removeprefix("mask_decoder.").partition(".")
        target = _PUBLISHED.get(first, first if first in own else None)
        if target is not None and isinstance(tensor, torch.Tensor):
            renamed[f"{target}.{rest}"] = tensor
    return renamed
