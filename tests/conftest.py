from __future__ import annotations

import os

# Before torch loads OpenMP, as the command line does: spinning threads starve a busy machine.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from pathlib import Path

import pytest
import torch

from cosam_bench.data.samples import Entry, Manifest, Pixels, Split
from cosam_bench.sam.build import build_sam
from cosam_bench.sam.sam import Sam

QUICK_DOMAINS = ("pitting", "pill", "polyp")


def _card(name: str, *, train: int) -> str:
    return f"""
[[domain]]
name = "{name}"
kind = "synthetic"
generator = "{name}"
size = 64
split = {{ kind = "counts", train = {train}, test = 3, seed = 0 }}
"""


@pytest.fixture
def quick_protocol(tmp_path: Path) -> Path:
    """A protocol file whose run takes seconds: untrained tiny SAM, three small domains, one epoch."""
    stream = tmp_path / "quick-stream.toml"
    cards = [_card(name, train=4) for name in QUICK_DOMAINS] + [_card("natural", train=0)]
    stream.write_text('name = "quick"\nretention = ["natural"]\n' + "".join(cards))
    protocol = tmp_path / "quick.toml"
    protocol.write_text(
        """
name = "quick"
stream = "quick-stream.toml"
model = { name = "tiny", checkpoint = "random" }
adapter = { rank = 2, alpha = 2.0 }
fit = { epochs = 1, batch_size = 4 }
"""
    )
    return protocol


@pytest.fixture(scope="session")
def squares() -> Split:
    """Six images of 40 x 60 pixels with one bright rectangle each, off the middle."""
    images, masks, entries = [], [], []
    for index in range(6):
        mask = torch.zeros(40, 60, dtype=torch.bool)
        mask[4 + 2 * index : 20 + 2 * index, 3 + 5 * index : 21 + 5 * index] = True
        image = torch.full((3, 40, 60), 60, dtype=torch.uint8)
        image[:, mask] = 200
        images.append(image)
        masks.append(mask)
        entries.append(Entry(f"square {index}", str(index), str(index)))
    source = Pixels(tuple(images), tuple(masks))
    return Split("squares", part="train", manifest=Manifest(tuple(entries)), source=source)


@pytest.fixture(scope="module")
def tiny() -> Sam:
    """The tiny SAM, untrained; tests of a module share it and leave it as it was."""
    return build_sam("tiny", checkpoint="random")
