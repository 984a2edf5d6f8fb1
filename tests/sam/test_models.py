from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cosam_bench.core.errors import CosamError
from cosam_bench.sam.models import MODELS, cache_folder, model_spec


def test_naming_the_models_imports_no_torch() -> None:
    code = "import sys, cosam_bench.sam.models; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_name_is_its_key_and_every_address_has_a_hash() -> None:
    assert [*MODELS] == ["tiny", "mobile_sam", "vit_b", "vit_l", "vit_h"]
    for name, spec in MODELS.items():
        assert spec.name == name
        assert (spec.url is None) == (spec.sha256 is None) == (spec.file_name is None)
        assert spec.sha256 is None or len(bytes.fromhex(spec.sha256)) == 32


def test_an_unknown_model_gets_the_nearest_name() -> None:
    with pytest.raises(CosamError, match=r"'vit_x'\. Did you mean 'vit_"):
        model_spec("vit_x")


def test_the_cache_folder_follows_its_variable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("COSAM_BENCH_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.setenv("COSAM_BENCH_CACHE", "")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "home" / ".cache" / "cosam-bench"
