"""The served model as two ONNX files: image encoder, and prompt encoder with mask decoder."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cosam_bench.core.errors import CosamError
from cosam_bench.results.export.served import ServedModel

OPSET = 18


def write_onnx_models(served: ServedModel, folder: Path) -> list[str]:
    """Write ``encoder.onnx`` and ``decoder.onnx``.

    The encoder takes ``image``, float32 ``(1, 3, S, S)``, normalised and padded as SAM's own preprocessing does, and
    gives ``image_embeddings``. The decoder has the inputs and outputs of segment-anything's own ONNX model:
    ``image_embeddings``, ``point_coords (1, N, 2)`` and ``point_labels (1, N)`` in model pixels (a box is two points
    with the labels 2 and 3, no box one point with the label -1), ``mask_input``, ``has_mask_input`` and
    ``orig_im_size``; it gives ``masks`` at the image's size, ``iou_predictions`` and ``low_res_masks``.

    Raises:
        CosamError: the packages for ONNX are not installed.
    """
    try:
        import onnx  # noqa: F401 (torch's exporter needs it)
    except ImportError:
        raise CosamError('ONNX is not installed. Install it: pip install "cosam-bench[onnx]".') from None
    sam = served.sam
    sam.load_state_dict(served.merged_state())
    side = sam.image_size
    image = torch.zeros(1, 3, side, side)
    with torch.inference_mode():
        embedding = sam.image_encoder(image).clone()
    _export(sam.image_encoder, (image,), folder / "encoder.onnx", ["image"], ["image_embeddings"], {})
    decoder = _single_mask_decoder(served)
    grid = tuple(4 * length for length in embedding.shape[-2:])
    inputs = {
        "image_embeddings": embedding,
        "point_coords": torch.tensor([[[side / 4, side / 4], [3 * side / 4, 3 * side / 4]]]),
        "point_labels": torch.tensor([[2.0, 3.0]]),
        "mask_input": torch.zeros(1, 1, *grid),
        "has_mask_input": torch.zeros(1),
        "orig_im_size": torch.tensor([float(side), float(side)]),
    }
    axes = {"point_coords": {1: "points"}, "point_labels": {1: "points"}}
    outputs = ["masks", "iou_predictions", "low_res_masks"]
    _export(decoder, tuple(inputs.values()), folder / "decoder.onnx", list(inputs), outputs, axes)
    sizes = [(folder / name).stat().st_size / 2**20 for name in ("encoder.onnx", "decoder.onnx")]
    return [f"opset {OPSET}; encoder {sizes[0]:,.1f} MiB, decoder {sizes[1]:,.1f} MiB"]


def _single_mask_decoder(served: ServedModel) -> torch.nn.Module:
    """segment-anything's own ONNX model, with the single mask that adapters are trained and scored on.

    Its own choice among the four masks takes another one for a box alone.
    """
    from segment_anything.modeling import Sam as StockSam
    from segment_anything.utils.onnx import SamOnnxModel

    class SingleMask(SamOnnxModel):  # type: ignore[misc]
        def select_masks(self, masks: Tensor, iou_preds: Tensor, num_points: int) -> tuple[Tensor, Tensor]:
            return masks[:, :1], iou_preds[:, :1]

    sam = served.sam
    encoder: Any = sam.image_encoder
    stock = StockSam(image_encoder=encoder, prompt_encoder=sam.prompt_encoder, mask_decoder=sam.mask_decoder)
    return SingleMask(stock, return_single_mask=True)


def _export(
    module: torch.nn.Module,
    inputs: tuple[Any, ...],
    path: Path,
    names: list[str],
    outputs: list[str],
    axes: dict[str, dict[int, str]],
) -> None:
    with warnings.catch_warnings(), torch.inference_mode(False), torch.no_grad():
        warnings.simplefilter("ignore")  # of tracing, on shapes that are constant here
        torch.onnx.export(
            module,
            inputs,
            str(path),
            input_names=names,
            output_names=outputs,
            dynamic_axes=axes,
            opset_version=OPSET,
            dynamo=False,
            do_constant_folding=True,
        )
