"""Prefetching and caching of test images."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from cosam_bench.core.devices import to_device_async
from cosam_bench.core.errors import CosamError
from cosam_bench.data.samples import Entry, Manifest, Split
from cosam_bench.evaluation.loader import LoadedImage, Loader
from cosam_bench.sam.inputs import View

VIEW = View(48, 12, "pad", torch.device("cpu"))
IMAGE_BYTES = 3 * 48 * 48 + 20 * 30


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("prefetch")]


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    assert not threads()


class Drawn:
    """Six images of 20 x 30 pixels, and how often each was asked for; those in ``damaged`` cannot be read."""

    def __init__(self, *, damaged: tuple[int, ...] = ()) -> None:
        self.asked: list[int] = []
        self._damaged = damaged

    def image(self, index: int) -> Tensor:
        self.asked.append(index)
        if index in self._damaged:
            raise CosamError(f"image {index} is damaged")
        return torch.randint(256, (3, 20, 30), generator=torch.Generator().manual_seed(index), dtype=torch.uint8)

    def mask(self, index: int) -> Tensor:
        return torch.rand(20, 30, generator=torch.Generator().manual_seed(index)) > 0.5

    def ignored(self, index: int) -> None:
        return None


def split_of(source: Drawn, *, name: str = "drawn") -> Split:
    entries = tuple(Entry(f"{index}", f"{name} {index}", f"{index}") for index in range(6))
    return Split(name, part="test", manifest=Manifest(entries), source=source)


def loaded(loader: Loader, split: Split, *, view: View = VIEW, depth: int = 3) -> list[LoadedImage]:
    return list(loader.load(split, view=view, depth=depth))


@pytest.mark.parametrize("workers", [1, 3])
def test_images_are_the_same_however_they_are_loaded(workers: int) -> None:
    wanted = loaded(Loader(workers=0, cache_bytes=0), split_of(Drawn()))
    found = loaded(Loader(workers=workers, cache_bytes=0), split_of(Drawn()))
    assert [image.row for image in found] == [image.row for image in wanted] == list(range(6))
    for ours, plain in zip(found, wanted, strict=True):
        assert torch.equal(ours.input.pixels, plain.input.pixels)
        assert torch.equal(ours.mask, plain.mask)
        assert ours.input.frame == plain.input.frame
    sample = split_of(Drawn())[4]
    assert torch.equal(found[4].input.pixels, VIEW.preprocess(sample.image).pixels)
    assert torch.equal(found[4].mask, sample.mask)


@pytest.mark.parametrize("workers", [0, 2])
def test_what_fits_is_cached_for_all_columns_together_and_the_rest_loaded_again(workers: int) -> None:
    sources = Drawn(), Drawn()
    splits = [split_of(source, name=f"{number}") for number, source in enumerate(sources)]
    loader = Loader(workers=workers, cache_bytes=8 * IMAGE_BYTES + 1)
    first = [loaded(loader, split) for split in splits]
    again = [loaded(loader, split) for split in splits]
    assert [sorted(source.asked) for source in sources] == [[*range(6)], [0, 1, 2, 2, 3, 3, 4, 4, 5, 5]]
    assert all(
        torch.equal(a.input.pixels, b.input.pixels)
        for one, two in zip(first, again, strict=True)
        for a, b in zip(one, two, strict=True)
    )
    assert again[0][3] is first[0][3]
    assert again[1][3] is not first[1][3]


def test_a_cached_image_serves_no_other_view() -> None:
    source = Drawn()
    loader, split = Loader(workers=1, cache_bytes=1 << 20), split_of(source)
    for view in (VIEW, View(24, 12, "pad", VIEW.device), View(48, 12, "squash", VIEW.device)):
        images = loaded(loader, split, view=view)
        assert torch.equal(images[2].input.pixels, view.preprocess(split[2].image).pixels)
    other = View(48, 12, "pad", VIEW.device, resampling="torch")
    assert torch.equal(loaded(loader, split, view=other)[2].input.pixels, other.preprocess(split[2].image).pixels)


def test_a_cached_image_serves_no_other_data_under_the_same_name() -> None:
    loader = Loader(workers=1, cache_bytes=1 << 20)
    loaded(loader, split_of(Drawn()))
    source = Drawn()
    entries = tuple(Entry(f"{index}", f"others {index}", f"{index}") for index in range(6))
    loaded(loader, Split("drawn", part="test", manifest=Manifest(entries), source=source))
    assert sorted(source.asked) == [*range(6)]


def test_loading_does_not_fill_the_splits_own_memory() -> None:
    source = Drawn()
    split = split_of(source)
    loaded(Loader(workers=1, cache_bytes=0), split)
    before = len(source.asked)
    _ = split[0], split[0]
    assert len(source.asked) == before + 1
    loaded(Loader(workers=1, cache_bytes=0), split)
    assert source.asked.count(0) == 2, "what the split keeps is not decoded again"


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_a_damaged_image_is_named_when_its_turn_comes(workers: int) -> None:
    images = Loader(workers=workers, cache_bytes=0).load(split_of(Drawn(damaged=(2, 4))), view=VIEW, depth=6)
    assert [next(images).row for _ in range(2)] == [0, 1]
    with pytest.raises(CosamError, match="image 2 is damaged"):
        next(images)


@pytest.mark.parametrize("wanted", [False, True])
def test_digests_are_computed_while_loading_on_request(wanted: bool) -> None:
    for image in loaded(Loader(workers=1, cache_bytes=0, with_digests=wanted), split_of(Drawn())):
        assert ("digest" in vars(image.input)) == wanted


def test_a_loader_for_a_gpu_pins_what_it_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    pinned: list[Tensor] = []

    def pin(tensor: Tensor) -> Tensor:
        pinned.append(tensor.clone())
        return pinned[-1]

    plain = loaded(Loader(workers=0, cache_bytes=0), split_of(Drawn()))
    monkeypatch.setattr(Tensor, "pin_memory", pin)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    loader = Loader.for_device(torch.device("cuda"), with_digests=True)
    images = loaded(loader, split_of(Drawn()))
    assert len(pinned) == 12
    assert {id(one) for one in pinned} == {id(image.input.pixels) for image in images} | {
        id(image.mask) for image in images
    }
    assert [image.input.digest for image in images] == [image.input.digest for image in plain]
    assert vars(loader)["_workers"] == 3
    assert vars(Loader.for_device(torch.device("cpu"), with_digests=False))["_workers"] == 1


def test_a_copy_to_a_gpu_is_pinned_and_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checks the calls, which needs no GPU."""
    called: list[Any] = []

    def pin(tensor: Tensor) -> Tensor:
        called.append("pinned")
        return tensor

    def move(tensor: Tensor, *where: Any, **how: Any) -> Tensor:
        called.append((*where, how))
        return tensor

    monkeypatch.setattr(Tensor, "pin_memory", pin)
    monkeypatch.setattr(Tensor, "to", move)
    to_device_async(torch.zeros(2), torch.device("cuda:1"))
    assert called == ["pinned", (torch.device("cuda:1"), {"non_blocking": True})]
    called.clear()
    to_device_async(torch.zeros(2), "cpu")
    assert called == [("cpu", {})]
