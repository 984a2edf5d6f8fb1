from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from segment_anything import SamPredictor
from segment_anything.modeling import Sam as StockSam
from torch import Tensor

from cosam_bench.data.prompts import Prompts
from cosam_bench.sam.build import build_sam
from cosam_bench.sam.frame_prompts import FramePrompts, prompts_in_frame
from cosam_bench.sam.frames import normalise, prepare_image, to_original
from cosam_bench.sam.sam import Features, Sam

TOLERANCE = 1e-4  # of logits, float32


def stock(sam: Sam) -> SamPredictor:
    """segment-anything's own predictor around the same parts."""
    return SamPredictor(StockSam(sam.image_encoder, sam.prompt_encoder, sam.mask_decoder))


def lively(sam: Sam) -> Sam:
    """Random weights where segment-anything begins with zeros, so that every part takes part."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in sam.parameters():
            if not parameter.any():
                parameter.copy_(0.02 * torch.randn(parameter.shape, generator=generator))
    return sam


def picture(height: int, width: int, *, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(3, height // 8, width // 8, generator=generator) * 255
    return torch.nn.functional.interpolate(coarse[None], (height, width))[0].to(torch.uint8)


def prompts_for(images: list[Tensor]) -> Prompts:
    boxes, points, masks = [], [], []
    for row, image in enumerate(images):
        height, width = image.shape[1:]
        boxes.append([width * 0.2, height * 0.1 + row, width * 0.7, height * 0.8])
        points.append([[width * 0.3, height * 0.4], [width * 0.5, height * 0.6 - row]])
        mask = torch.zeros(256, 256, dtype=torch.bool)
        mask[40 : 150 + row, 60:200] = True
        masks.append(mask)
    return Prompts(torch.tensor(boxes), torch.tensor(points), torch.stack(masks), digest="")


def check_against_predictor(sam: Sam, images: list[Tensor], kinds: list[str], *, reuse: bool) -> None:
    """Ours on the whole batch against theirs image by image, at the grid and at the original size.

    Args:
        reuse: hand our embeddings to their predictor, where an encoder pass is dear.
    """
    prompts = prompts_for(images)
    prepared = [prepare_image(image, size=sam.image_size, resize="pad") for image in images]
    frames = [frame for _, frame in prepared]
    with torch.no_grad():
        embeddings = sam.encode(normalise(torch.stack([padded for padded, _ in prepared]), frames))
        placed = prompts_in_frame(
            prompts,
            rows=range(len(images)),
            frames=frames,
            kinds=kinds,  # type: ignore[arg-type]
            grid=sam.logits_size,
        )
        masks = sam.decode(embeddings, placed)
    predictor = stock(sam)
    for row, (image, kind) in enumerate(zip(images, kinds, strict=True)):
        if reuse:
            predictor.features = embeddings.maps[row : row + 1]
            predictor.original_size, predictor.input_size = frames[row].original, frames[row].content
            predictor.is_image_set = True
        else:
            predictor.set_image(image.permute(1, 2, 0).numpy())
        mine = {
            "box": {"box": prompts.boxes[row].numpy()},
            "points": {"point_coords": prompts.points[row].numpy(), "point_labels": np.ones(2)},
            "mask": {"mask_input": sam.mask_logit * placed.masks[row].numpy()},
        }[kind]
        full, quality, low = predictor.predict(**mine, multimask_output=False, return_logits=True)
        torch.testing.assert_close(masks.logits[row], torch.from_numpy(low[0]), rtol=0, atol=TOLERANCE)
        original = to_original(masks.logits[row], frames[row])
        torch.testing.assert_close(original, torch.from_numpy(full[0]), rtol=0, atol=TOLERANCE)
        assert masks.predicted_iou[row].item() == pytest.approx(float(quality[0]), abs=TOLERANCE)


@pytest.fixture(scope="module")
def tiny() -> Sam:
    return lively(build_sam("tiny", checkpoint="random"))


def test_tiny_decodes_a_mixed_batch_as_the_stock_predictor(tiny: Sam) -> None:
    images = [picture(96, 128, seed=0), picture(200, 80, seed=1), picture(64, 64, seed=2), picture(96, 96, seed=3)]
    check_against_predictor(tiny, images, ["points", "box", "mask", "box"], reuse=False)


def test_vit_b_decodes_as_the_stock_predictor() -> None:
    sam = lively(build_sam("vit_b", checkpoint="random"))
    sam.image_encoder.blocks = sam.image_encoder.blocks[:1]  # decoding is compared: the rest costs only time
    image = picture(480, 640, seed=4)
    prepared, frame = prepare_image(image, size=1024, resize="pad")
    with torch.no_grad():
        embeddings = sam.encode(normalise(prepared[None], [frame]))
    assert embeddings.maps.shape == (1, 256, 64, 64)
    sam.encode = lambda images: embeddings.select([0] * len(images))  # type: ignore[method-assign]
    check_against_predictor(sam, [image] * 3, ["box", "points", "mask"], reuse=True)


def test_mobile_sam_decodes_as_the_stock_predictor() -> None:
    folder = os.environ.get("COSAM_BENCH_REAL")
    if not folder:
        pytest.skip("COSAM_BENCH_REAL names no folder of real images and weights")
    sam = build_sam("mobile_sam", checkpoint=Path(folder) / "mobile_sam.pt")
    files = sorted((Path(folder) / "kvasir_polyp" / "images").iterdir())[:1]
    images = [torch.from_numpy(np.array(Image.open(file).convert("RGB"))).permute(2, 0, 1) for file in files] * 3
    check_against_predictor(sam, images, ["box", "points", "mask"], reuse=True)


def test_a_row_does_not_depend_on_its_batch(tiny: Sam) -> None:
    generator = torch.Generator().manual_seed(5)
    embeddings = Features(torch.randn(3, 64, 16, 16, generator=generator))
    prompts = FramePrompts(
        ("mask", "box", "points"),
        torch.tensor([[1.0, 2.0, 60.0, 70.0]] * 3),
        torch.tensor([[[20.0, 30.0]]] * 3),
        torch.randn(3, 1, 64, 64, generator=generator),
    )
    with torch.no_grad():
        together = tiny.decode(embeddings, prompts)
        for row in range(3):
            alone = tiny.decode(embeddings.select([row]), prompts.select([row]))
            torch.testing.assert_close(together.logits[row], alone.logits[0], rtol=0, atol=TOLERANCE)
            torch.testing.assert_close(together.predicted_iou[row], alone.predicted_iou[0])


def test_bfloat16_is_near_and_comes_back_as_float32(tiny: Sam) -> None:
    generator = torch.Generator().manual_seed(6)
    images = torch.randn(2, 3, 128, 128, generator=generator)
    prompts = FramePrompts(
        ("points", "points"),
        torch.zeros(2, 4),
        torch.tensor([[[20.0, 30.0], [90.0, 64.0]]] * 2),
        torch.zeros(2, 1, 64, 64),
    )
    with torch.no_grad():
        exact = tiny.decode(tiny.encode(images), prompts).logits
        with torch.autocast("cpu", torch.bfloat16):
            rough = tiny.decode(tiny.encode(images), prompts).logits
    assert rough.dtype == torch.float32
    assert (rough - exact).abs().max() < 0.05 * exact.abs().max()


def test_encoder_passes_count_images(tiny: Sam) -> None:
    before = tiny.encoder_passes
    with torch.no_grad():
        tiny.encode(torch.zeros(3, 3, 128, 128))
    assert tiny.encoder_passes == before + 3


def test_prompts_and_embeddings_must_be_as_many(tiny: Sam) -> None:
    prompts = FramePrompts(("box",), torch.zeros(1, 4), torch.zeros(1, 1, 2), torch.zeros(1, 1, 64, 64))
    with pytest.raises(ValueError, match="2 embeddings and 1 prompts"):
        tiny.decode(Features(torch.zeros(2, 64, 16, 16)), prompts)
