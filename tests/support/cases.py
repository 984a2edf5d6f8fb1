"""Small inputs that others have reported; a folder that is not part of the repository."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def case_folder(name: str) -> Path:
    """The folder of one case; the test is skipped without it."""
    folder = os.environ.get("COSAM_BENCH_CASES")
    if not folder:
        pytest.skip("COSAM_BENCH_CASES names no folder of cases")
    return Path(folder) / name
