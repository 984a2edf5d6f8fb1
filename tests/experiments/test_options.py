"""From options to keys."""

from __future__ import annotations

from pathlib import Path

from cosam_bench.experiments.options import setting_texts


def test_settings_become_the_texts_that_set_takes() -> None:
    given = {"a": 1e-6, "b": True, "c": 'x "y"', "d": ["é", "f"], "e": {"f": {"g": Path("h")}}}
    assert setting_texts(given) == ("a=1e-06", "b=true", 'c="x \\"y\\""', 'd=["é", "f"]', 'e.f.g="h"')
