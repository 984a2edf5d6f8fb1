"""Small workbenches and domains on which a method can be tried in seconds, for its tests and the contract check."""

from __future__ import annotations

import torch

from cosam_bench.core.hashing import sha256_bytes
from cosam_bench.core.precision_choices import Precision
from cosam_bench.core.seeds import torch_generator
from cosam_bench.data.prompt_settings import TrainPrompt
from cosam_bench.data.prompts import draw_prompts
from cosam_bench.data.samples import Entry, Manifest, Pixels, Split
from cosam_bench.method.training_domain import TrainingDomain
from cosam_bench.method.workbench import Workbench
from cosam_bench.sam.adapters.adapter_settings import AdapterSettings
from cosam_bench.sam.adapters.targets import add_side_layers
from cosam_bench.sam.build import build_sam
from cosam_bench.sam.feature_cache import PrefixCache
from cosam_bench.sam.frame_choices import Resize
from cosam_bench.sam.inputs import View
from cosam_bench.sam.sam import Sam
from cosam_bench.training.fit_settings import FitSettings

TRIAL_ADAPTER = AdapterSettings(rank=2, alpha=2.0)
TRIAL_FIT = FitSettings(epochs=1, batch_size=2, learning_rate=1e-2, flip=False)


def trial_workbench(
    sam: Sam | None = None,
    *,
    adapter: AdapterSettings = TRIAL_ADAPTER,
    fit: FitSettings = TRIAL_FIT,
    prompt_kind: TrainPrompt = "box",
    resize: Resize = "pad",
    precision: Precision = "fp32",
    batch_size: int = 8,
    prefixes: PrefixCache | None = None,
) -> Workbench:
    """A workbench on the CPU with seed 0 that keeps no experts.

    Args:
        sam: a model without side layers; none: the tiny one, untrained.
        precision: of predictions; ``fit`` has that of training.
    """
    sam = sam or build_sam("tiny", checkpoint="random")
    add_side_layers(sam, adapter, generator=torch_generator(0, "adapter"))
    return Workbench(
        sam=sam,
        adapter=adapter,
        fit=fit,
        prompt_kind=prompt_kind,
        view=View(sam.image_size, sam.logits_size, resize, torch.device("cpu"), precision),
        seed=0,
        batch_size=batch_size,
        prefixes=prefixes,
    )


def trial_domain(split: Split) -> TrainingDomain:
    """A split with its prompts, as ``learn`` receives it."""
    return TrainingDomain(split.domain, split, draw_prompts(split, points=3, seed=0))


def trial_split(name: str, *, shift: int) -> Split:
    """Four images of a bright square; each ``shift`` has its own size, place and background."""
    images, masks, entries = [], [], []
    side = 96
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    for index in range(4):
        top, left, size = 8 + 9 * index, 10 + 13 * shift, 24 + 8 * shift
        mask = (rows >= top) & (rows < top + size) & (columns >= left) & (columns < left + size)
        ramp = (rows * (shift + 1) + columns * (3 - shift)) % 97
        image = torch.stack([ramp, ramp // 2, 96 - ramp]) + 120 * mask
        images.append(image.to(torch.uint8))
        masks.append(mask)
        digests = [sha256_bytes(part.numpy().tobytes()) for part in (images[-1], mask)]
        entries.append(Entry(f"{index}", *digests))
    return Split(name, part="train", manifest=Manifest(tuple(entries)), source=Pixels(tuple(images), tuple(masks)))
