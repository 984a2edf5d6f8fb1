"""From options to keys."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cosam_bench.core.errors import CosamError
from cosam_bench.experiments.options import RunOptions, resolve, setting_texts
from cosam_bench.sweeps.grid import Grid


def test_settings_become_the_texts_that_set_takes() -> None:
    given = {"a": 1e-6, "b": True, "c": 'x "y"', "d": ["é", "f"], "e": {"f": {"g": Path("h")}}}
    assert setting_texts(given) == ("a=1e-06", "b=true", 'c="x \\"y\\""', 'd=["é", "f"]', 'e.f.g="h"')


@pytest.mark.parametrize("second", ["y/mine.py", "./x/mine.py"])
def test_two_files_of_the_same_name_are_refused(second: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CosamError, match=rf"x/mine\.py and {re.escape(second)} have the same name .*'mine'"):
        resolve(["x/mine.py", second], RunOptions())
    with pytest.raises(CosamError, match="have the same name"):
        Grid(methods=("x/mine.py", second)).variants()
