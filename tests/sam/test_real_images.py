"""Frozen MobileSAM on real images against figures measured once with a predictor of the reference kind."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cosam_bench.core.arithmetic import bf16_slowdown
from cosam_bench.data.cards import SplitRule
from cosam_bench.data.opening import open_domain
from cosam_bench.data.prompts import Prompts, tight_box
from cosam_bench.data.streams import load_card
from cosam_bench.evaluation.metrics import iou
from cosam_bench.sam.build import build_sam
from cosam_bench.sam.frame_prompts import prompts_in_frame
from cosam_bench.sam.frames import normalise, prepare_image, to_original
from cosam_bench.sam.sam import Sam

# Mean IoU over sixteen pairs with tight boxes, single-mask output, float32.
MEASURED = {"bsdata_pitting": 0.701, "neu_steel": 0.450, "kvasir_polyp": 0.807}
MORE = {
    "magnetic_tile": 0.624,
    "masonry_crack": 0.413,
    "crop_weed": 0.159,
    "camvid_road": 0.882,
    "lung_xray": 0.727,
    "human_photo": 0.876,
}
CARDS = {"bsdata_pitting": "bsdata@cosam", "kvasir_polyp": "kvasir@cosam"}


@pytest.fixture(scope="module")
def folder() -> Path:
    name = os.environ.get("COSAM_BENCH_REAL")
    if not name:
        pytest.skip("COSAM_BENCH_REAL names no folder of real images and weights")
    return Path(name)


@pytest.fixture(scope="module")
def mobile_sam(folder: Path) -> Sam:
    return build_sam("mobile_sam", checkpoint=folder / "mobile_sam.pt")


@pytest.mark.parametrize("domain", [*MEASURED, *(pytest.param(domain, marks=pytest.mark.long) for domain in MORE)])
def test_frozen_scores_are_the_measured_ones(
    mobile_sam: Sam, folder: Path, domain: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COSAM_BENCH_DATA", str(tmp_path))  # data that somebody has placed plays no part
    samples = read_by_card(folder, domain) if domain in CARDS else read_by_hand(folder, domain)
    chosen = [samples(round(59 * i / 15)) for i in range(16)]
    scores = [score(mobile_sam, image, mask) for image, mask in chosen]
    assert float(np.mean(scores)) == pytest.approx((MEASURED | MORE)[domain], abs=0.01)


def read_by_card(folder: Path, domain: str) -> Callable[[int], tuple[torch.Tensor, torch.Tensor]]:
    """The n-th image and mask in the order of names, read by the rules of the domain's published card."""
    card = load_card(CARDS[domain])
    where = {"root": str(folder / domain), "samples": "union", "split": SplitRule(test=1.0)}
    test = open_domain(card.model_copy(update=where), is_retention=True).test
    assert len(test) == 60
    return lambda index: (test[index].image, test[index].mask)


def read_by_hand(folder: Path, domain: str) -> Callable[[int], tuple[torch.Tensor, torch.Tensor]]:
    files = sorted((folder / domain / "images").iterdir())

    def read(index: int) -> tuple[torch.Tensor, torch.Tensor]:
        image = torch.from_numpy(np.array(Image.open(files[index]).convert("RGB"))).permute(2, 0, 1)
        mask = Image.open(folder / domain / "masks" / f"{files[index].stem}.png")
        return image, torch.from_numpy(np.array(mask)) > 127

    return read


def score(sam: Sam, image: torch.Tensor, mask: torch.Tensor) -> float:
    padded, frame = prepare_image(image, size=sam.image_size, resize="pad")
    prompts = Prompts(tight_box(mask)[None], torch.zeros(1, 1, 2), torch.zeros(1, 256, 256), digest="")
    placed = prompts_in_frame(prompts, rows=[0], frames=[frame], kinds=["box"], grid=sam.logits_size)
    is_fast = bf16_slowdown(torch.device("cpu")) < 1
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=is_fast):
        logits = sam.decode(sam.encode(normalise(padded[None], [frame])), placed).logits[0]
    return float(iou(to_original(logits, frame)[None] > 0, mask[None])[0])
