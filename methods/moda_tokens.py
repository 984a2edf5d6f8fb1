"""Extra tokens that pass through the frozen image encoder beside the image and gather its features.

Source: MoDA (arXiv 2412.06418), its global feature token and global assistant tokens. No weight of the
encoder is changed or added: the tokens use its own layers.

In a plain ViT, in every block: tokens and image pass the block's norm, attend to each other without windows
and without relative positions, and pass its MLP.

TinyViT (MobileSAM) is not a plain ViT, so the tokens' path is this project's choice. They join at the first
block of the last two stages, whose maps have the embedding's 64 x 64 grid. In each block

- a window's pixels attend to each other with their usual biases, and to all tokens with bias 0;
- a token attends to all tokens and every pixel of the whole map, not of a window, with bias 0;
- norms, ``qkv``, ``proj`` and MLP are the block's own for tokens as for pixels;
- a convolution treats a token as a map that has the token's value everywhere.
"""

from __future__ import annotations

from typing import Any

import torch
from segment_anything.modeling import ImageEncoderViT
from segment_anything.modeling.image_encoder import window_partition, window_unpartition
from torch import Tensor, nn
from torch.nn import functional

from cosam_bench import Sam
from cosam_bench.sam.mobile_sam import TinyViTEncoder

_JOINED_STAGES = slice(2, 4)  # of timm's four; the first two see 4 and 16 times as many positions


def token_widths(sam: Sam) -> tuple[int, int]:
    """A token's width where it joins the encoder and where it is read."""
    encoder = _image_encoder(sam)
    if isinstance(encoder, TinyViTEncoder):
        first, *_, last = (block for stage in _stages(encoder) for block in stage.blocks)
        return int(first.dim), int(last.dim)
    width = int(encoder.blocks[0].norm1.normalized_shape[0])
    return width, width


def join_depth(sam: Sam) -> int:
    """The number of blocks, as counted by ``Sam.prefix``, that run before the first token joins."""
    encoder = _image_encoder(sam)
    if not isinstance(encoder, TinyViTEncoder):
        return 0
    early: list[Any] = list(encoder.stages.children())[1 : _JOINED_STAGES.start]  # the first stage has no attention
    return sum(len(stage.blocks) for stage in early)


def join_tokens(sam: Sam, maps: Tensor, tokens: Tensor) -> Tensor:
    """The tokens after the encoder's last block, before the neck; counted as one encoder pass per image.

    Args:
        maps: float, ``(B, h, w, C)``, from ``Sam.prefix`` at ``join_depth``.
        tokens: float, ``(n, C)``, the same for every image; only they receive gradients.

    Returns:
        float ``(B, n, C')``, the widths being ``token_widths``.
    """
    encoder = _image_encoder(sam)
    sam.encoder_passes += len(maps)
    token_batch = tokens.expand(len(maps), -1, -1)
    if isinstance(encoder, TinyViTEncoder):
        return _through_tiny_vit(encoder, maps, token_batch)
    return _through_vit(encoder, maps, token_batch)


def _image_encoder(sam: Sam) -> Any:
    """The image encoder; Any, because neither library types its parts."""
    if not isinstance(sam.image_encoder, (ImageEncoderViT, TinyViTEncoder)):
        raise TypeError(f"Tokens cannot pass through a {type(sam.image_encoder).__name__}.")
    return sam.image_encoder


def _through_vit(encoder: Any, maps: Tensor, tokens: Tensor) -> Tensor:
    joint = torch.cat([tokens.to(maps.dtype), maps.flatten(1, 2)], dim=1)
    for block in encoder.blocks:
        joint = joint + _global_attention(block.attn, block.norm1(joint))
        joint = joint + block.mlp(block.norm2(joint))
    return joint[:, : tokens.shape[1]]


def _global_attention(attention: Any, rows: Tensor) -> Tensor:
    """``(B, N, C)``: every row attends to every row, without relative positions."""
    batch, count, _ = rows.shape
    qkv = attention.qkv(rows).view(batch, count, 3, attention.num_heads, -1)
    query, key, value = qkv.permute(2, 0, 3, 1, 4)
    mixed = functional.scaled_dot_product_attention(query, key, value)
    projected: Tensor = attention.proj(mixed.transpose(1, 2).flatten(2))
    return projected


def _stages(encoder: TinyViTEncoder) -> list[Any]:
    return list(encoder.stages.children())[_JOINED_STAGES]


def _through_tiny_vit(encoder: TinyViTEncoder, maps: Tensor, tokens: Tensor) -> Tensor:
    for number, stage in enumerate(_stages(encoder)):
        if number > 0:  # the prefix has done the first stage's downsampling
            maps = stage.downsample(maps.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
            tokens = _as_constant_maps(stage.downsample, tokens)
        for block in stage.blocks:
            pixel_outputs, token_outputs = _windowed_attention(block, maps, tokens)
            maps = block.local_conv((maps + pixel_outputs).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
            tokens = _as_constant_maps(block.local_conv, tokens + token_outputs)
            maps, tokens = maps + block.mlp(maps), tokens + block.mlp(tokens)
    return tokens


def _windowed_attention(block: Any, maps: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """The attention outputs of pixels ``(B, h, w, C)`` and tokens ``(B, n, C)``, in their own shapes.

    As in TinyViT the map is padded to whole windows with zeros before the norm, and the pixels of a window
    attend to its padding. Tokens do not.
    """
    attention, window = block.attn, block.window_size
    height, width = maps.shape[1:3]
    padded = functional.pad(maps, (0, 0, 0, -width % window, 0, -height % window))
    pixels = attention.qkv(attention.norm(padded))
    query, key, value = _heads(attention, attention.qkv(attention.norm(tokens)))

    windows, whole = window_partition(pixels, window)  # (B * windows, window, window, C)
    local_query, local_key, local_value = _heads(attention, windows.flatten(1, 2))
    repeats = len(windows) // len(tokens)
    bias = attention.attention_biases[:, attention.attention_bias_idxs]  # (heads, window^2, window^2)
    mixed = functional.scaled_dot_product_attention(
        local_query,
        torch.cat([local_key, key.repeat_interleave(repeats, dim=0)], dim=2),
        torch.cat([local_value, value.repeat_interleave(repeats, dim=0)], dim=2),
        attn_mask=functional.pad(bias, (0, tokens.shape[1])).to(local_query.dtype)[None],
    )
    mixed = mixed.transpose(1, 2).reshape(*windows.shape[:3], -1)
    pixel_outputs = attention.proj(window_unpartition(mixed, window, whole, (height, width)))

    _, all_key, all_value = _heads(attention, pixels[:, :height, :width].flatten(1, 2))
    mixed = functional.scaled_dot_product_attention(
        query, torch.cat([key, all_key], dim=2), torch.cat([value, all_value], dim=2)
    )
    return pixel_outputs, attention.proj(mixed.transpose(1, 2).flatten(2))


def _heads(attention: Any, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Query, key and value, each ``(B, heads, N, d)``, from ``(B, N, heads * 3 d)``."""
    parts = qkv.view(*qkv.shape[:2], attention.num_heads, -1).transpose(1, 2)
    query, key, value = parts.tensor_split((attention.key_dim, 2 * attention.key_dim), dim=-1)
    return query, key, value


def _as_constant_maps(layers: nn.Module, tokens: Tensor) -> Tensor:
    """Tokens ``(B, n, C)`` through convolutions, norms and activations, each as an endless constant map.

    On such a map a convolution is one matrix, its kernel summed; strides and borders do nothing.
    """
    pixels = tokens.flatten(0, 1)[:, :, None, None]
    for layer in layers.modules():
        if isinstance(layer, nn.Conv2d):
            summed = layer.weight.sum((2, 3), keepdim=True)
            pixels = functional.conv2d(pixels, summed, layer.bias, groups=layer.groups)
        elif not any(layer.children()):
            pixels = layer(pixels)
    return pixels.view(*tokens.shape[:2], -1)
