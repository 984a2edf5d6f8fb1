from __future__ import annotations

import os

# Before torch loads OpenMP, as the command line does: spinning threads starve a busy machine.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
if workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0")):
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from support.quick_protocol import write_quick_protocol

from cosam_bench.data import synthetic
from cosam_bench.data.samples import Entry, Manifest, Pixels, Split
from cosam_bench.sam.build import build_sam
from cosam_bench.sam.sam import Sam


@pytest.fixture(scope="session", autouse=True)
def _files_stay_in_the_page_cache() -> Iterator[None]:
    """No test cuts the power, so none waits for the disk."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def _samples_are_drawn_once() -> Iterator[None]:
    """The same embedded domains are opened by hundreds of tests; each gets copies."""
    draw = cache(synthetic.draw_sample)

    def copied(*arguments: Any, **named: Any) -> Any:
        return tuple(array.copy() for array in draw(*arguments, **named))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(synthetic, "draw_sample", copied)
        yield


@pytest.fixture
def quick_protocol(tmp_path: Path) -> Path:
    """A protocol file whose run takes seconds: untrained tiny SAM, three small domains, one epoch."""
    return write_quick_protocol(tmp_path)


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
