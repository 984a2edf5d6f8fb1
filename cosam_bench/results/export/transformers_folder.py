"""The served model as a folder that transformers' ``SamModel.from_pretrained`` loads."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segment_anything.modeling import ImageEncoderViT
from torch import Tensor

from cosam_bench.core.errors import CosamError
from cosam_bench.core.tensor_files import WRITE_FAULT
from cosam_bench.results.export.served import ServedModel

# segment-anything's names on the left, transformers' on the right; in this order.
_RENAMES: tuple[tuple[str, str], ...] = (
    (r"^image_encoder\.patch_embed\.proj\.", "vision_encoder.patch_embed.projection."),
    (r"^image_encoder\.blocks\.(\d+)\.norm([12])\.", r"vision_encoder.layers.\1.layer_norm\2."),
    (r"^image_encoder\.blocks\.", "vision_encoder.layers."),
    (r"^image_encoder\.neck\.0\.", "vision_encoder.neck.conv1."),
    (r"^image_encoder\.neck\.1\.", "vision_encoder.neck.layer_norm1."),
    (r"^image_encoder\.neck\.2\.", "vision_encoder.neck.conv2."),
    (r"^image_encoder\.neck\.3\.", "vision_encoder.neck.layer_norm2."),
    (r"^image_encoder\.", "vision_encoder."),
    (r"^prompt_encoder\.point_embeddings\.", "prompt_encoder.point_embed."),
    (r"^prompt_encoder\.mask_downscaling\.0\.", "prompt_encoder.mask_embed.conv1."),
    (r"^prompt_encoder\.mask_downscaling\.1\.", "prompt_encoder.mask_embed.layer_norm1."),
    (r"^prompt_encoder\.mask_downscaling\.3\.", "prompt_encoder.mask_embed.conv2."),
    (r"^prompt_encoder\.mask_downscaling\.4\.", "prompt_encoder.mask_embed.layer_norm2."),
    (r"^prompt_encoder\.mask_downscaling\.6\.", "prompt_encoder.mask_embed.conv3."),
    (r"\.norm([1-4])\.", r".layer_norm\1."),
    (r"\.norm_final_attn\.", ".layer_norm_final_attn."),
    (r"\.output_upscaling\.0\.", ".upscale_conv1."),
    (r"\.output_upscaling\.1\.", ".upscale_layer_norm."),
    (r"\.output_upscaling\.3\.", ".upscale_conv2."),
)
_HEADS = re.compile(r"\.(output_hypernetworks_mlps\.\d+|iou_prediction_head)\.layers\.(\d+)\.")
_POSITIONS = "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"


def write_transformers_folder(served: ServedModel, folder: Path, *, is_padded: bool = True) -> list[str]:
    """Write ``config.json``, ``model.safetensors`` and, if images are to be padded, ``preprocessor_config.json``.

    Args:
        served: the model.
        folder: exists, and is empty.
        is_padded: whether the run prepared images as transformers' processor does, which knows no other way.

    Raises:
        CosamError: the base is not a SAM that transformers knows.
        OSError: the folder cannot be written, or the disk is full.
    """
    from transformers import SamImageProcessor, SamModel
    from transformers.utils import logging

    model = SamModel(_config(served))
    state = renamed(served.merged_state(), depth=_head_depth(served))
    missing, unexpected = model.load_state_dict(state, strict=False)
    if missing or unexpected:
        raise CosamError(
            f"transformers' SamModel names its weights otherwise than expected: {len(missing)} are missing (first "
            f"{min(missing, default='none')}), {len(unexpected)} unexpected (first {min(unexpected, default='none')}). "
            "Use transformers 4.40 or newer, or export by --format merged."
        )
    logging.disable_progress_bar()  # type: ignore[no-untyped-call] # transformers leaves it untyped
    try:
        model.save_pretrained(folder)
    except WRITE_FAULT as error:
        raise OSError(str(error)) from None  # the folder that is being made says it
    rights = (folder / "config.json").stat().st_mode
    for weights in folder.glob("*.safetensors"):
        weights.chmod(rights)  # which the library leaves readable to its owner alone
    if not is_padded:
        return [f"{len(state)} tensors for transformers' SamModel, without its image processor, which pads images"]
    side = served.sam.image_size
    SamImageProcessor(size={"longest_edge": side}, pad_size={"height": side, "width": side}).save_pretrained(folder)
    return [f"{len(state)} tensors for transformers' SamModel, with its image processor"]


def renamed(state: Mapping[str, Tensor], *, depth: int) -> dict[str, Tensor]:
    """segment-anything's weights under transformers' names.

    Args:
        state: by segment-anything's names.
        depth: layers of the decoder's small heads, whose first and last have names of their own.
    """
    result: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name == _POSITIONS:
            result["shared_image_embedding.positional_embedding"] = tensor
            result["prompt_encoder.shared_embedding.positional_embedding"] = tensor
            continue
        new = _HEADS.sub(lambda match: f".{match[1]}.{_head_layer(int(match[2]), depth)}.", name)
        for pattern, replacement in _RENAMES:
            new = re.sub(pattern, replacement, new)
        result[new] = tensor.contiguous()
    return result


def _head_layer(index: int, depth: int) -> str:
    if index == 0:
        return "proj_in"
    return "proj_out" if index == depth - 1 else f"layers.{index - 1}"


def _head_depth(served: ServedModel) -> int:
    layers: Any = served.sam.mask_decoder.iou_prediction_head.layers
    return len(layers)


def _config(served: ServedModel) -> Any:
    from transformers import SamConfig

    encoder = served.sam.image_encoder
    if not isinstance(encoder, ImageEncoderViT):
        raise CosamError(
            f"transformers' SamModel has a plain ViT encoder, and {served.sam.name} has not. "
            "Export by --format merged, peft or onnx."
        )
    blocks: list[Any] = list(encoder.blocks)
    width = blocks[0].norm1.normalized_shape[0]
    prompt: Any = served.sam.prompt_encoder
    decoder: Any = served.sam.mask_decoder
    patch = int(encoder.patch_embed.proj.kernel_size[0])
    side, dim = served.sam.image_size, int(prompt.embed_dim)
    return SamConfig(
        vision_config={
            "hidden_size": width,
            "output_channels": dim,
            "num_hidden_layers": len(blocks),
            "num_attention_heads": blocks[0].attn.num_heads,
            "image_size": side,
            "patch_size": patch,
            "mlp_dim": blocks[0].mlp.lin1.out_features,
            "window_size": max(block.window_size for block in blocks),
            "global_attn_indexes": [index for index, block in enumerate(blocks) if block.window_size == 0],
            "num_pos_feats": dim // 2,
            "layer_norm_eps": blocks[0].norm1.eps,
        },
        prompt_encoder_config={
            "hidden_size": dim,
            "image_size": side,
            "patch_size": patch,
            "mask_input_channels": prompt.mask_downscaling[3].out_channels,
        },
        mask_decoder_config={
            "hidden_size": dim,
            "num_hidden_layers": len(decoder.transformer.layers),
            "num_attention_heads": decoder.transformer.num_heads,
            "mlp_dim": decoder.transformer.mlp_dim,
            "iou_head_depth": len(decoder.iou_prediction_head.layers),
            "iou_head_hidden_dim": decoder.iou_prediction_head.layers[0].out_features,
            "num_multimask_outputs": decoder.num_multimask_outputs,
            "layer_norm_eps": decoder.transformer.norm_final_attn.eps,  # segment-anything's 1e-5, not 1e-6
        },
    )
