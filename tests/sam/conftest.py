"""What tests of kept features start from."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.cached_features import DEPTH, tiny_with_positions

from cosam_bench.sam.cache_backends import FeatureFiles
from cosam_bench.sam.feature_cache import PrefixCache
from cosam_bench.sam.sam import Sam


@pytest.fixture(scope="module")
def tiny() -> Sam:
    return tiny_with_positions()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "prefix"


@pytest.fixture
def cache(tiny: Sam, folder: Path) -> PrefixCache:
    return PrefixCache(FeatureFiles(folder, limit_bytes=2**30), sam=tiny, depth=DEPTH)
