"""What is measured: models with random weights, images of noise, random adapters."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from cosam_bench.core.precision_choices import Precision
from cosam_bench.data.prompts import Prompts, draw_prompts
from cosam_bench.data.samples import Entry, Manifest, Pixels, Split
from cosam_bench.merging.updates import LowRank, Update
from cosam_bench.method.trial import trial_workbench
from cosam_bench.method.workbench import Workbench
from cosam_bench.sam.adapters.adapter_settings import AdapterSettings
from cosam_bench.sam.adapters.targets import target_layers, touched_layers
from cosam_bench.sam.build import build_sam
from cosam_bench.sam.cache_backends import FeatureFiles
from cosam_bench.sam.encoder_sections import frozen_depth
from cosam_bench.sam.feature_cache import PrefixCache
from cosam_bench.sam.sam import Sam
from cosam_bench.training.fit_settings import FitSettings

_POSITIONS = 0.2  # the deviation of positions, which moves attention as much as the products of queries and keys do
ADAPTER = AdapterSettings(rank=10, alpha=10.0, blocks=(7, 8, 9, 10, 11))


def model(*, is_lean: bool, name: str = "vit_b") -> Sam:
    """A model with random weights, positions included; with segment-anything's own attention unless it is lean."""
    sam = build_sam(name, checkpoint="random", is_attention_lean=is_lean)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for key, parameter in sam.image_encoder.named_parameters():
            if key.rpartition(".")[2] in ("rel_pos_h", "rel_pos_w", "pos_embed"):  # zero before training
                parameter.copy_(_POSITIONS * torch.randn(parameter.shape, generator=generator))
    return sam


def image(side: int = 1024) -> Tensor:
    """Normalised noise, float32 ``(1, 3, side, side)``."""
    return torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))


def split(count: int, *, size: tuple[int, int] = (768, 1024)) -> tuple[Split, Prompts]:
    """Test images of noise, each with a bright ellipse as its mask, and their prompts."""
    generator = torch.Generator().manual_seed(0)
    rows, columns = torch.meshgrid(torch.arange(size[0]), torch.arange(size[1]), indexing="ij")
    pictures, masks, entries = [], [], []
    for number in range(count):
        mask = ((rows - 300 - 20 * number) / 150) ** 2 + ((columns - 400) / 220) ** 2 < 1
        noise = torch.randint(0, 120, (3, *size), generator=generator)
        pictures.append((noise + 120 * mask).to(torch.uint8))
        masks.append(mask)
        entries.append(Entry(f"{number}", f"{number}", f"{number}"))
    source = Pixels(tuple(pictures), tuple(masks))
    found = Split("noise", part="test", manifest=Manifest(tuple(entries)), source=source)
    return found, draw_prompts(found, points=3, seed=0)


def updates(sam: Sam, count: int, *, settings: AdapterSettings = ADAPTER) -> list[Update]:
    """Small random adapters of the layers that the settings name."""
    generator = torch.Generator().manual_seed(1)

    def factors(name: str) -> LowRank:
        outputs, inputs = sam.get_parameter(f"{name}.weight").shape
        a = torch.randn(settings.rank, inputs, generator=generator) / inputs**0.5
        return LowRank(a, 0.02 * torch.randn(outputs, settings.rank, generator=generator))

    return [Update({name: factors(name) for name in target_layers(sam, settings)}) for _ in range(count)]


def workbench(
    sam: Sam, *, folder: Path | None = None, is_bf16: bool = False, adapter: AdapterSettings = ADAPTER
) -> Workbench:
    """What methods predict and train with; features of the frozen blocks are kept in the folder, if one is given."""
    precision: Precision = "bf16" if is_bf16 else "fp32"
    return trial_workbench(
        sam,
        adapter=adapter,
        fit=FitSettings(epochs=1, batch_size=1, flip=False, precision=precision),
        precision=precision,
        batch_size=1,
        prefixes=None if folder is None else _feature_cache(folder, sam, adapter),
    )


def _feature_cache(folder: Path, sam: Sam, adapter: AdapterSettings) -> PrefixCache:
    depth = frozen_depth(sam.image_encoder, touched_layers(sam, adapter))
    assert depth is not None, "the first block is adapted, so there is nothing to keep"
    return PrefixCache(FeatureFiles(folder, limit_bytes=8 * 2**30), sam=sam, depth=depth)
