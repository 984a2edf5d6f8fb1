"""``cosam_bench.sweep``: the same plan as a grid in a file, and no argument that is dropped in silence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import cosam_bench as cb

GRID = """
methods = ["average", "ties"]
orders = ["stream", "reverse"]
seeds = 2
"""


@pytest.fixture
def grid(quick_protocol: Path, tmp_path: Path) -> Path:
    path = tmp_path / "grid.toml"
    path.write_text(f'protocol = "{quick_protocol}"\n{GRID}', encoding="utf-8")
    return path


def test_arguments_plan_what_a_grid_in_a_file_does(grid: Path, quick_protocol: Path, tmp_path: Path) -> None:
    by_file = cb.sweep(grid, results=tmp_path, dry_run=True)
    by_arguments = cb.sweep(
        methods=["average", "ties"],
        orders=["stream", ["polyp", "pill", "pitting"]],
        seeds=range(2),
        protocol=quick_protocol,
        results=tmp_path,
        dry_run=True,
    )
    assert by_arguments.counts == by_file.counts
    assert {count.kind: count.planned for count in by_file.counts}["run"] == 8


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"seeds": 5}, "Leave out seeds"),
        ({"protocol": "mini", "threads": 2}, "Leave out protocol, threads"),
        ({"methods": ["opcm"]}, "Leave out methods"),
        ({"settings": [{}]}, "Leave out settings"),
    ],
)
def test_an_argument_beside_a_grid_is_refused(grid: Path, tmp_path: Path, given: Any, said: str) -> None:
    with pytest.raises(cb.CosamError, match=rf"grid\.toml says what to vary\. {said}, or write it into the file"):
        cb.sweep(grid, results=tmp_path, dry_run=True, **given)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "'methods'"),
        ({"methods": ["opcm"], "seeds": 0}, "seeds is 0, which is none"),
        ({"methods": ["opcm"], "orders": "reverse"}, "a single order is `order`"),
    ],
)
def test_bad_arguments_are_refused(tmp_path: Path, given: Any, said: str) -> None:
    with pytest.raises(cb.CosamError, match=said):
        cb.sweep(results=tmp_path, dry_run=True, **given)
