"""From options to keys and orders."""

from __future__ import annotations

from pathlib import Path

import pytest

from cosam_bench.core.errors import CosamError
from cosam_bench.experiments.options import domain_order, setting_texts


def test_orders() -> None:
    names = ("a", "b", "c", "d", "e")
    assert domain_order("e, d,c,b,a", names) == ["e", "d", "c", "b", "a"] == domain_order("reverse", names)
    assert sorted(domain_order("random:1", names)) == sorted(names)
    assert domain_order("random:1", names) == domain_order("random:1", tuple(reversed(names)))
    assert len({tuple(domain_order(f"random:{number}", names)) for number in range(20)}) > 10
    with pytest.raises(CosamError, match="each domain once"):
        domain_order("a,a,b,c,d", names)


def test_settings_become_the_texts_that_set_takes() -> None:
    given = {"a": 1e-6, "b": True, "c": 'x "y"', "d": ["é", "f"], "e": {"f": {"g": Path("h")}}}
    assert setting_texts(given) == ("a=1e-06", "b=true", 'c="x \\"y\\""', 'd=["é", "f"]', 'e.f.g="h"')
