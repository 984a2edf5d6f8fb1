"""Frozen MobileSAM on real images against figures measured once with a predictor of the reference kind."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cosam_bench.domains.prompts import Prompts, tight_box
from cosam_bench.metrics import iou
from cosam_bench.sam.build import build_sam
from cosam_bench.sam.frames import frame_prompts, normalise, prepare_image, to_original
from cosam_bench.sam.sam import Sam

# Mean IoU over sixteen pairs with tight boxes, single-mask output, float32.
MEASURED = {"bsdata_pitting": 0.701, "neu_steel": 0.450, "kvasir_polyp": 0.807}


@pytest.fixture(scope="module")
def folder() -> Path:
    name = os.environ.get("COSAM_BENCH_REAL")
    if not name:
        pytest.skip("COSAM_BENCH_REAL names no folder of real images and weights")
    return Path(name)


@pytest.fixture(scope="module")
def mobile_sam(folder: Path) -> Sam:
    return build_sam("mobile_sam", checkpoint=folder / "mobile_sam.pt")


@pytest.mark.parametrize("domain", MEASURED)
def test_frozen_scores_are_the_measured_ones(mobile_sam: Sam, folder: Path, domain: str) -> None:
    files = sorted((folder / domain / "images").iterdir())
    scores = [score(mobile_sam, files[round(59 * i / 15)], folder / domain / "masks") for i in range(16)]
    assert float(np.mean(scores)) == pytest.approx(MEASURED[domain], abs=0.01)


def score(sam: Sam, file: Path, masks: Path) -> float:
    image = torch.from_numpy(np.array(Image.open(file).convert("RGB"))).permute(2, 0, 1)
    mask = torch.from_numpy(np.array(Image.open(masks / f"{file.stem}.png"))) > 127
    padded, frame = prepare_image(image, size=sam.image_size, resize="pad")
    prompts = Prompts(tight_box(mask)[None], torch.zeros(1, 1, 2), torch.zeros(1, 256, 256), digest="")
    placed = frame_prompts(prompts, rows=[0], frames=[frame], kinds=["box"], grid=sam.logits_size)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        logits = sam.decode(sam.encode(normalise(padded[None], [frame])), placed).logits[0]
    return float(iou(to_original(logits, frame)[None] > 0, mask[None])[0])
