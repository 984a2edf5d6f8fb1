"""MobileSAM's image encoder: timm's TinyViT-5M at 1024 px, and SAM's neck."""

from __future__ import annotations

from typing import Any

import timm
import torch
from segment_anything.modeling import MaskDecoder, PromptEncoder, TwoWayTransformer
from segment_anything.modeling.common import LayerNorm2d
from timm.models.tiny_vit import Attention
from torch import Tensor, nn

IMAGE_SIZE = 1024

_GRID = 64
_WIDTH = 320
_PROMPT_DIM = 256


class TinyViTAttention(Attention):
    """timm's attention, without its cache of gathered biases, which outlives a change of weights or grad mode."""

    def get_attention_biases(self, device: torch.device) -> Tensor:
        """The biases of a window of N tokens: ``(heads, N, N)``."""
        del device
        places: Any = self.attention_bias_idxs
        biases: Tensor = self.attention_biases[:, places]
        return biases


class LeanTinyViTAttention(TinyViTAttention):
    """The same, with biases in the form that torch's fused attention on the CPU takes: ``(1, heads, N, N)``.

    Its backward pass in bfloat16 is slower than that of the plain products, which are used there instead.
    """

    def get_attention_biases(self, device: torch.device) -> Tensor:
        """The biases, with a further axis unless gradients in bfloat16 are needed."""
        biases = super().get_attention_biases(device)
        is_plain = torch.is_grad_enabled() and torch.is_autocast_enabled(device.type)
        return biases if is_plain else biases[None]


class TinyViTEncoder(nn.Module):
    """``(B, 3, 1024, 1024)`` normalised images to ``(B, 256, 64, 64)`` embeddings.

    Source: Zhang et al., "Faster Segment Anything", 2023. The last downsampling has stride 1 instead of TinyViT's
    2, so that 1024 px give SAM's 64 x 64 grid of 320 channels.
    """

    def __init__(self) -> None:
        """Freshly initialised, from torch's global generator."""
        super().__init__()
        self.img_size = IMAGE_SIZE  # segment-anything's predictor reads it
        vit: Any = timm.create_model("tiny_vit_5m_224", pretrained=False, num_classes=0)
        vit.stages[-1].downsample.conv2.conv.stride = (1, 1)
        for module in vit.modules():
            if isinstance(module, Attention):
                module.__class__ = TinyViTAttention
        self.patch_embed: nn.Module = vit.patch_embed
        self.stages: nn.Module = vit.stages
        self.neck = nn.Sequential(
            nn.Conv2d(_WIDTH, _PROMPT_DIM, kernel_size=1, bias=False),
            LayerNorm2d(_PROMPT_DIM),
            nn.Conv2d(_PROMPT_DIM, _PROMPT_DIM, kernel_size=3, padding=1, bias=False),
            LayerNorm2d(_PROMPT_DIM),
        )
        # Convolutions and attention alternate; channels-last memory saves a copy between them.
        self.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        """The embeddings."""
        embeddings: Tensor = self.neck(self.stages(self.patch_embed(self.channels_last(images))))
        return embeddings

    @staticmethod
    def channels_last(images: Tensor) -> Tensor:
        """The same images in channels-last memory format, like the encoder's weights."""
        return images.contiguous(memory_format=torch.channels_last)


def mobile_parts() -> tuple[nn.Module, nn.Module, nn.Module]:
    """Image encoder, prompt encoder and mask decoder, freshly initialised from torch's global generator.

    The latter two are SAM's own, of the sizes that all published SAMs share.
    """
    prompt_encoder = PromptEncoder(
        embed_dim=_PROMPT_DIM,
        image_embedding_size=(_GRID, _GRID),
        input_image_size=(IMAGE_SIZE, IMAGE_SIZE),
        mask_in_chans=16,
    )
    mask_decoder = MaskDecoder(
        transformer_dim=_PROMPT_DIM,
        transformer=TwoWayTransformer(depth=2, embedding_dim=_PROMPT_DIM, num_heads=8, mlp_dim=2048),
        num_multimask_outputs=3,
        iou_head_depth=3,
        iou_head_hidden_dim=256,
    )
    return TinyViTEncoder(), prompt_encoder, mask_decoder
