"""Where features are kept, by what they are found again, and how those that are missing are computed."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from cosam_bench.core import devices
from cosam_bench.data.prompts import Prompts, draw_prompts
from cosam_bench.data.samples import Sample, Split
from cosam_bench.experiments import experiment
from cosam_bench.experiments.protocol import resolve_run
from cosam_bench.sam import feature_cache as prefix_cache
from cosam_bench.sam.cache_backends import FeatureFiles, Kept
from cosam_bench.sam.feature_cache import PrefixCache, encode, first_blocks, uncached_clock
from cosam_bench.sam.feature_memory import FeatureMemory
from cosam_bench.sam.inputs import Batch, View, collate
from cosam_bench.sam.sam import Features, Sam
from cosam_bench.training.augmentation import mirror

DEPTH = 3
ENTRY_BYTES = 16 * 16 * 96 * 4  # of the tiny model at that depth


@pytest.fixture(scope="module")
def prompts(squares: Split) -> Prompts:
    return draw_prompts(squares, points=3, seed=0)


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images each run of the prefix took."""
    counts: list[int] = []
    own = Sam.prefix

    def watched(self: Sam, images: Tensor, *, depth: int) -> Features:
        counts.append(len(images))
        return own(self, images, depth=depth)

    monkeypatch.setattr(Sam, "prefix", watched)
    return counts


def some_images(count: int, *, seed: int = 0) -> Tensor:
    return torch.randn(count, 3, 128, 128, generator=torch.Generator().manual_seed(seed))


def in_memory(sam: Sam, *, limit_bytes: int = 2**30, is_batched: bool = False) -> PrefixCache:
    return PrefixCache(FeatureMemory(limit_bytes=limit_bytes), sam=sam, depth=DEPTH, is_batched=is_batched)


def kept(*, value: float = 0.0, early: bool = False) -> Kept:
    maps = torch.full((1, 2, 2, 4), value)
    return Kept(Features(maps, torch.ones(1, 2, 2, 1) if early else None), seconds=2.0)


def batch_of(samples: list[Sample], prompts: Prompts, sam: Sam) -> Batch:
    view = View(sam.image_size, sam.logits_size, "pad", torch.device("cpu"))
    return collate(samples, prompts.take(range(len(samples))), kinds=["box"] * len(samples), view=view)[0]


def test_a_file_that_is_removed_while_it_is_opened_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """safetensors opens it, and torch once more by its name, which another process may have taken away meanwhile."""
    files = FeatureFiles(tmp_path, limit_bytes=10_000)
    files.keep("a", kept())
    assert files.read("a") is not None

    def gone(path: Path, *, framework: str) -> None:
        raise RuntimeError(f"unable to open file <{path}> in read-only mode: No such file or directory (2)")

    monkeypatch.setattr("cosam_bench.core.tensor_files.safe_open", gone)
    assert files.read("a") is None


def test_memory_and_files_give_the_same_bits(tiny: Sam, tmp_path: Path, ran: list[int]) -> None:
    images = some_images(3)
    files = PrefixCache(FeatureFiles(tmp_path, limit_bytes=2**30), sam=tiny, depth=DEPTH)
    memory = in_memory(tiny)
    with torch.inference_mode():
        for rows in ([0, 1], [2, 0, 1]):
            expected, found = files.features(images[rows]).maps, memory.features(images[rows]).maps
            assert torch.equal(found, expected)
            assert found.is_contiguous()
    assert ran == [1] * 6


def test_a_full_memory_computes_the_rest_each_time(tiny: Sam, ran: list[int]) -> None:
    images = some_images(3)
    cache = in_memory(tiny, limit_bytes=2 * ENTRY_BYTES)
    with torch.inference_mode():
        first = cache.features(images).maps
        for _ in range(2):
            assert torch.equal(cache.features(images).maps, first)
    assert ran == [1, 1, 1, 1, 1]


def test_those_that_are_missing_pass_the_prefix_together_each_of_them_once(tiny: Sam, ran: list[int]) -> None:
    images = some_images(5)
    cache = in_memory(tiny, is_batched=True)
    with torch.inference_mode():
        alone = torch.cat([tiny.prefix(image[None], depth=DEPTH).maps for image in images])
        ran.clear()
        for rows in ([1], [3, 1, 0, 3], [4, 3, 2, 1, 0], [0, 4]):
            found = cache.features(images[rows]).maps
            torch.testing.assert_close(found, alone[rows], rtol=1e-4, atol=1e-4)
    assert ran == [1, 2, 2]


@pytest.mark.parametrize("is_batched", [False, True])
def test_an_image_that_comes_twice_in_a_batch_is_spared_once(
    tiny: Sam, is_batched: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    own = Sam.prefix

    def slowly(self: Sam, images: Tensor, *, depth: int) -> Features:
        now[0] += 5 * len(images)
        return own(self, images, depth=depth)

    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(Sam, "prefix", slowly)
    cache = in_memory(tiny, is_batched=is_batched)
    images = some_images(2)[[0, 1, 0]]
    for elapsed in (10, 10):  # nothing is computed the second time
        began = uncached_clock(cache)
        cache.features(images)
        assert uncached_clock(cache) - began == 15
        assert now[0] == elapsed


def test_what_scoring_has_kept_serves_a_training_step(tiny: Sam) -> None:
    images = some_images(2)
    cache = in_memory(tiny, is_batched=True)
    with torch.inference_mode():
        encode(tiny, images, cache)
    shares = torch.randn(2, 64, 16, 16, generator=torch.Generator().manual_seed(5))
    weight = tiny.get_parameter("image_encoder.blocks.4.attn.qkv.weight").requires_grad_()
    try:
        (found,) = torch.autograd.grad((encode(tiny, images, cache).maps * shares).sum(), weight)
        (expected,) = torch.autograd.grad((tiny.encode(images).maps * shares).sum(), weight)
    finally:
        weight.requires_grad_(False)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3 * expected.abs().max().item())


def test_a_training_step_cannot_change_what_is_kept(tiny: Sam) -> None:
    cache = in_memory(tiny)
    images = some_images(1)
    first = cache.features(images).maps.clone()
    cache.features(images).maps.zero_()
    assert torch.equal(cache.features(images).maps, first)


def test_a_batch_that_knows_its_inputs_is_found_by_their_digests(
    tiny: Sam, squares: Split, prompts: Prompts, ran: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(image: Tensor) -> memoryview:
        raise AssertionError("the numbers need not be looked at")

    monkeypatch.setattr(prefix_cache, "_bytes", refuse)
    cache = in_memory(tiny)
    with torch.inference_mode():
        for samples in ([squares[0], squares[1]], [squares[1], squares[0]], [mirror(squares[0])]):
            batch = batch_of(samples, prompts, tiny)
            found = encode(tiny, batch.images, cache, inputs=batch.inputs).maps
            torch.testing.assert_close(found, tiny.encode(batch.images).maps, rtol=1e-4, atol=1e-4)
            maps = first_blocks(tiny, batch.images, depth=DEPTH, cache=cache, inputs=batch.inputs)
            torch.testing.assert_close(maps, cache.features(batch.images, inputs=batch.inputs).maps)
    assert ran == [1, 1, 1]  # two images and one that is mirrored


def test_images_that_are_not_those_of_the_batch_any_more_are_hashed(
    tiny: Sam, squares: Split, prompts: Prompts, ran: list[int]
) -> None:
    cache = in_memory(tiny)
    batch = batch_of([squares[0]], prompts, tiny)
    plain = cache.features(batch.images, inputs=batch.inputs).maps
    others = batch.images + 0.5
    other = cache.features(others, inputs=batch.inputs).maps  # another tensor
    batch.images.add_(1.0)
    changed = cache.features(batch.images, inputs=batch.inputs).maps  # changed in place
    assert ran == [1, 1, 1]
    assert not torch.equal(other, plain)
    assert torch.equal(other, tiny.prefix(others, depth=DEPTH).maps)
    assert torch.equal(changed, tiny.prefix(batch.images, depth=DEPTH).maps)


def test_precisions_are_apart_also_by_digest(tiny: Sam, squares: Split, prompts: Prompts, ran: list[int]) -> None:
    cache = in_memory(tiny)
    batch = batch_of([squares[0]], prompts, tiny)
    with torch.inference_mode():
        fine = cache.features(batch.images, inputs=batch.inputs).maps
        with torch.autocast("cpu", torch.bfloat16):
            rough = cache.features(batch.images, inputs=batch.inputs).maps
    assert ran == [1, 1]
    assert not torch.equal(fine, rough.float())


@pytest.mark.parametrize("is_full", [False, True])
def test_features_under_autocast_are_rounded_to_bf16_kept_or_not(tiny: Sam, is_full: bool) -> None:
    images = some_images(2)
    memory = FeatureMemory(limit_bytes=0 if is_full else 2 * ENTRY_BYTES // 2)
    cache = PrefixCache.on_gpu(memory, sam=tiny, depth=DEPTH)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        exact = tiny.prefix(images, depth=DEPTH).maps
        for _ in range(2):
            found = cache.features(images).maps
            assert found.dtype == exact.dtype == torch.float32
            assert torch.equal(found, exact.bfloat16().float())
    assert memory.used_bytes == (0 if is_full else ENTRY_BYTES)
    with torch.inference_mode():  # features in fp32 stay as they are
        assert torch.equal(cache.features(images).maps, tiny.prefix(images, depth=DEPTH).maps)


def test_on_a_gpu_features_are_kept_in_half_of_its_free_memory_and_then_in_the_hosts(
    tiny: Sam, quick_protocol: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cache(gib: float, *, free_bytes: int) -> Any:
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free_bytes, 10 * free_bytes))
        overrides = ("adapter.blocks=[4, 5]", f"prefix_cache_gib={gib}")
        config = resolve_run(method="finetune", protocol=str(quick_protocol), overrides=overrides)
        return experiment._prefix_cache(config, tiny, None, folder=tmp_path / "prefix", fresh=False)

    assert isinstance(cache(1, free_bytes=0).backend, FeatureFiles)  # of the CPU, no GPU is asked
    monkeypatch.setattr(Sam, "device", torch.device("cuda"))
    monkeypatch.setattr(prefix_cache, "arithmetic", lambda device: {"processor": "a GPU"})
    monkeypatch.setattr(experiment, "machine_memory_bytes", lambda: 2**32)
    for gib, free_bytes, limit_bytes, host_bytes in ((1, 2**40, 2**30, 0), (1, 2**30, 2**29, 2**29), (9, 2, 1, 2**29)):
        found = cache(gib, free_bytes=free_bytes)
        assert isinstance(found.backend, FeatureMemory)
        assert found.backend.limit_bytes == limit_bytes
        assert found.backend._beyond.limit_bytes == host_bytes
        assert found.backend._beyond._is_pinned
        assert found._is_batched
        assert found._keeps_bf16
    assert cache(0, free_bytes=2**40) is None
    assert devices.free_memory_bytes(torch.device("cuda")) == 2**40


@pytest.mark.parametrize(
    ("gib", "free_gib", "kept_gib", "own", "parents"),
    [
        (8.0, 100, 0, 8.0, 8.0),  # there is room for two
        (8.0, 16, 0, 3.75, 3.75),  # half of what is free, less context and model, in two
        (8.0, 12, 4, 3.75, 3.75),  # what is kept already counts as free
        (4.0, 16, 0, 3.75, 3.75),
        (2.0, 16, 0, 2.0, 2.0),
        (8.0, 1, 0, 0.0, 0.0),
    ],
)
def test_both_caches_of_an_isolated_run_take_half_of_the_gpus_free_memory(
    gib: float,
    free_gib: float,
    kept_gib: float,
    own: float,
    parents: float,
    tiny: Sam,
    quick_protocol: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (round(free_gib * 2**30), 2**50))
    config = resolve_run(
        method="finetune", protocol=str(quick_protocol), overrides=("adapter.blocks=[4, 5]", f"prefix_cache_gib={gib}")
    )
    memory = FeatureMemory(limit_bytes=round(gib * 2**30))
    memory._tested.add("others", kept(), round(kept_gib * 2**30))
    cache = PrefixCache(memory, sam=tiny, depth=DEPTH)
    bench: Any = SimpleNamespace(sam=tiny, prefixes=cache, view=SimpleNamespace(device=torch.device("cuda")))
    model = sum(tensor.nbytes for tensor in (*tiny.parameters(), *tiny.buffers()))
    found = experiment._shared_cache_bytes(config, bench)
    assert found == pytest.approx(own * 2**30, abs=model)
    assert memory.limit_bytes == pytest.approx(parents * 2**30, abs=model)
    assert memory.used_bytes <= memory.limit_bytes
    assert found + memory.limit_bytes + model <= max(model, (free_gib + kept_gib) * 2**29)
    assert experiment._shared_cache_bytes(config, bench) <= found  # also for the next method
