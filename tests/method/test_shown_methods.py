"""The methods on the page for authors keep the contract, and do what the page says."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.shown_commands import blocks_of

from cosam_bench.method.contract_check import check_method
from cosam_bench.method.registry import load_method


@pytest.mark.parametrize("name", ["SmallExperts", "NearestMean"])
def test_a_method_on_the_page_keeps_the_contract(name: str, tmp_path: Path) -> None:
    [source] = [body for body in blocks_of("docs/writing-a-method.md", "python") if f"class {name}(" in body]
    file = tmp_path / "shown.py"
    file.write_text(source, encoding="utf-8")
    assert len(check_method(load_method(f"{file}:{name}"))) == 9
