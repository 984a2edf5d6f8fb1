"""The `tiny` SAM: segment-anything's own classes at a size that a laptop trains in minutes."""

from __future__ import annotations

from functools import partial

from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, TwoWayTransformer
from torch import nn

TINY_IMAGE_SIZE = 128

_PATCH_SIZE = 8  # 16 x 16 embedding, 64 x 64 logits: two image pixels per logit
_WIDTH = 96
_DEPTH = 6
_PROMPT_DIM = 64
_GLOBAL_BLOCKS = (2, 5)  # as in SAM, spread evenly and the last block among them


def tiny_parts() -> tuple[ImageEncoderViT, PromptEncoder, MaskDecoder]:
    """The three parts with freshly initialised weights, drawn from torch's global generator.

    The encoder takes ``(B, 3, 128, 128)`` normalised images and returns ``(B, 64, 16, 16)``; the
    decoder's logits are ``(B, 4, 64, 64)``. As in SAM's ViTs, blocks attend within windows except for a
    few global ones, with decomposed relative positions, and the decoder is a two-way transformer of
    depth 2. Different from SAM: every width, and windows of 8 so that the grid divides evenly.

    Source: Kirillov et al., "Segment Anything", ICCV 2023, appendix A.
    """
    grid = TINY_IMAGE_SIZE // _PATCH_SIZE
    image_encoder = ImageEncoderViT(
        img_size=TINY_IMAGE_SIZE,
        patch_size=_PATCH_SIZE,
        embed_dim=_WIDTH,
        depth=_DEPTH,
        num_heads=3,
        mlp_ratio=4.0,
        out_chans=_PROMPT_DIM,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        use_rel_pos=True,
        window_size=8,
        global_attn_indexes=_GLOBAL_BLOCKS,
    )
    prompt_encoder = PromptEncoder(
        embed_dim=_PROMPT_DIM,
        image_embedding_size=(grid, grid),
        input_image_size=(TINY_IMAGE_SIZE, TINY_IMAGE_SIZE),
        mask_in_chans=16,
    )
    mask_decoder = MaskDecoder(
        transformer_dim=_PROMPT_DIM,
        transformer=TwoWayTransformer(depth=2, embedding_dim=_PROMPT_DIM, num_heads=2, mlp_dim=256),
        num_multimask_outputs=3,
        iou_head_depth=3,
        iou_head_hidden_dim=_PROMPT_DIM,
    )
    return image_encoder, prompt_encoder, mask_decoder
