"""A module that was edited while the process runs is imported as it is now, however soon it was edited."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path

import pytest

from cosam_bench.method import edited_modules
from cosam_bench.method.edited_modules import remember_modules, unload_edited_modules


def test_an_edit_within_a_second_that_keeps_the_size_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    monkeypatch.setattr(edited_modules, "_hashed", {})
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / "edited_within_a_second.py"
    for weight in (1.0, 0.0, 2.0):
        path.write_text(f"WEIGHT = {weight}\n")
        os.utime(path, (1_700_000_000, 1_700_000_000))
        unload_edited_modules()
        assert weight == importlib.import_module(path.stem).WEIGHT
        remember_modules({path.stem: path})
    assert list(tmp_path.glob("__pycache__/*.pyc"))
    del sys.modules[path.stem]
