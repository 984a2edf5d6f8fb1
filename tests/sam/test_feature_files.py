"""The folder of kept features: damaged, full, read-only, shared by processes."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support.cached_features import DEPTH, files, some_images

from cosam_bench.core.files import CannotWrite
from cosam_bench.sam import cache_backends
from cosam_bench.sam.cache_backends import FeatureFiles
from cosam_bench.sam.feature_cache import PrefixCache
from cosam_bench.sam.sam import Sam


@pytest.mark.parametrize("damage", [b"", b"not a file of tensors", None])
def test_an_entry_that_cannot_be_read_is_computed_anew(
    tiny: Sam, cache: PrefixCache, folder: Path, damage: bytes | None
) -> None:
    image = some_images(1)
    with torch.inference_mode():
        first = cache.features(image).maps
        (path,) = files(folder)
        path.write_bytes(path.read_bytes()[:-100] if damage is None else damage)
        assert torch.equal(cache.features(image).maps, first)
        assert cache.spared_seconds == 0
        assert torch.equal(cache.features(image).maps, first)
    assert cache.spared_seconds > 0


def test_a_folder_that_cannot_be_written_costs_only_time(
    tiny: Sam, cache: PrefixCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[Path] = []

    def refuse(path: Path, tensors: object, metadata: object) -> int:
        tried.append(path)
        raise CannotWrite("full")

    monkeypatch.setattr(cache_backends, "write_sealed", refuse)
    with torch.inference_mode():
        found = cache.features(some_images(2)).maps
        expected = [tiny.prefix(image[None], depth=DEPTH).maps[0] for image in some_images(2)]
    assert all(map(torch.equal, found, expected))
    assert len(tried) == 1


def test_the_least_recently_used_go_where_the_limit_is_reached(tiny: Sam, tmp_path: Path) -> None:
    size_bytes = 16 * 16 * 96 * 4 + 200  # an entry and its header
    cache = PrefixCache(FeatureFiles(tmp_path, limit_bytes=8 * size_bytes), sam=tiny, depth=DEPTH)
    images = some_images(12)
    names: list[Path] = []
    with torch.inference_mode():
        for row in range(12):
            cache.features(images[row : row + 1])
            for path in files(tmp_path):
                if path not in names:
                    names.append(path)
                    os.utime(path, ns=(row, row))  # as if long ago, in this order
            if row == 5:
                cache.features(images[:1])  # now the most recent
            assert sum(path.stat().st_size for path in files(tmp_path)) <= 8 * size_bytes
    kept = [names.index(path) for path in names if path.exists()]
    assert 0 in kept
    assert len(kept) >= 6
    assert sorted(kept)[1:] == list(range(13 - len(kept), 12))


def test_files_left_half_written_by_a_killed_process_are_removed(tiny: Sam, tmp_path: Path) -> None:
    old, young = tmp_path / ".a.safetensors.0123abcd", tmp_path / ".b.safetensors.0123abcd"
    old.write_bytes(b"half")
    young.write_bytes(b"half")
    os.utime(old, (0, 0))
    with torch.inference_mode():
        PrefixCache(FeatureFiles(tmp_path, limit_bytes=2**30), sam=tiny, depth=DEPTH).features(some_images(1))
    assert not old.exists()
    assert young.exists()


def use_a_small_folder(folder: str, seed: int) -> None:
    """Features of eight images in random order where six have room; on its own, so that it can be a program."""
    from pathlib import Path

    import torch

    from cosam_bench.sam.build import build_sam
    from cosam_bench.sam.cache_backends import FeatureFiles
    from cosam_bench.sam.feature_cache import PrefixCache

    sam = build_sam("tiny", checkpoint="random")
    cache = PrefixCache(FeatureFiles(Path(folder), limit_bytes=6 * 98_600), sam=sam, depth=3)
    images = torch.randn(8, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    order = torch.randperm(200, generator=torch.Generator().manual_seed(seed)) % 8
    with torch.inference_mode():
        alone = [sam.prefix(image[None], depth=3).maps for image in images]
        for row in order.tolist():
            assert torch.equal(cache.features(images[row : row + 1]).maps, alone[row])


def test_processes_may_share_a_folder_that_is_too_small(tmp_path: Path) -> None:
    program = f"{inspect.getsource(use_a_small_folder)}\nuse_a_small_folder({str(tmp_path)!r}, 1)"
    with subprocess.Popen([sys.executable, "-c", program]) as other:
        while other.poll() is None:  # this process, as long as the other takes
            use_a_small_folder(str(tmp_path), 0)
    assert other.returncode == 0
    assert 1 <= len(files(tmp_path)) <= 7
    assert all(path.suffix == ".safetensors" for path in files(tmp_path))
