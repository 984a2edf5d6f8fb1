"""MobileSAM on real images: the folder that ``COSAM_BENCH_REAL`` names, see CONTRIBUTING.md."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from pathlib import Path

import torch
from segment_anything.modeling import Sam as StockSam

from benchmarks import subjects
from benchmarks.figures import Figure
from benchmarks.measuring import Skipped
from benchmarks.stages import encoder_figures, matrix_figures, step_figures
from cosam_bench.data.cards import Card, SplitRule
from cosam_bench.data.opening import open_domain
from cosam_bench.data.prompts import Prompts, draw_prompts
from cosam_bench.data.samples import Entry, Manifest, Pixels, Split
from cosam_bench.sam.adapters.adapter_settings import AdapterSettings
from cosam_bench.sam.build import build_sam
from cosam_bench.sam.mobile_sam import LeanTinyViTAttention, TinyViTAttention
from cosam_bench.sam.sam import Sam

ADAPTER = AdapterSettings(rank=10, alpha=10.0)  # MobileSAM's usual layers: blocks 2 to 9 of its ten
DOMAINS = ("bsdata_pitting", "kvasir_polyp", "camvid_road", "lung_xray")


def figures() -> Iterator[Figure]:
    """The encoder, a matrix of one image of each of four domains, and a training step.

    Raises:
        Skipped: the folder is missing.
    """
    folder = os.environ.get("COSAM_BENCH_REAL")
    if not folder or not (Path(folder) / "mobile_sam.pt").is_file():
        raise Skipped("COSAM_BENCH_REAL names no folder of real images with mobile_sam.pt")
    sam = build_sam("mobile_sam", checkpoint=Path(folder) / "mobile_sam.pt")
    plain = as_published(sam)
    split, prompts = real_images(Path(folder))
    encoders = plain.image_encoder, sam.image_encoder
    yield from encoder_figures(*encoders, subjects.image(), name="MobileSAM's encoder")
    yield from matrix_figures(sam, stock_of(plain), split, prompts, adapter=ADAPTER)
    yield from step_figures(plain, sam, split, prompts, adapter=ADAPTER)


def as_published(sam: Sam) -> Sam:
    """A copy whose encoder keeps torch's usual order of channels and attention, as MobileSAM's own code does."""
    plain = copy.deepcopy(sam)
    for module in plain.image_encoder.modules():
        if isinstance(module, LeanTinyViTAttention):
            module.__class__ = TinyViTAttention  # type: ignore[assignment]  # mypy takes it for a plain variable
    plain.image_encoder.to(memory_format=torch.contiguous_format)
    plain.image_encoder.channels_last = lambda images: images  # type: ignore[assignment]  # for this one alone
    return plain


def stock_of(sam: Sam) -> StockSam:
    """segment-anything's model, for its predictor, made from copies of the same parts."""
    return StockSam(*copy.deepcopy((sam.image_encoder, sam.prompt_encoder, sam.mask_decoder)))


def real_images(folder: Path, *, domains: tuple[str, ...] = DOMAINS) -> tuple[Split, Prompts]:
    """One image of each domain, and their prompts.

    Args:
        folder: with ``DOMAIN/images/NAME.*`` and ``DOMAIN/masks/NAME.png``.
    """
    rule = SplitRule(kind="counts", train=0, test=1)
    cards = [Card(name=name, root=str(folder / name), masks="masks/{stem}.png", split=rule) for name in domains]
    found = [open_domain(card, is_retention=True).test for card in cards]
    entries = tuple(Entry(split.domain, split.digest, split.digest) for split in found)
    source = Pixels(tuple(split[0].image for split in found), tuple(split[0].mask for split in found))
    joined = Split("real", part="test", manifest=Manifest(entries), source=source)
    return joined, draw_prompts(joined, points=3, seed=0)
