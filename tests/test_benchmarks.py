"""The benchmarks' own parts; what they measure is not repeated here."""

from __future__ import annotations

import csv
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from benchmarks import subjects
from benchmarks.measuring import Row, above_now, in_turns

ROOT = Path(__file__).resolve().parent.parent


def test_a_ratio_says_how_many_times_less_ours_takes() -> None:
    assert Row("stage", 6.0, 2.0, "s").ratio == 3.0
    assert Row("stage", None, 2.0, "s").ratio is None


def test_two_ways_take_turns_and_the_least_counts() -> None:
    turns: list[str] = []

    def work(name: str, loops: int) -> None:
        turns.append(name)
        until = time.process_time() + loops * 0.01
        while time.process_time() < until:
            pass

    slow, fast = in_turns(lambda: work("slow", 6), lambda: work("fast", 1), repeats=2)
    assert turns == ["slow", "fast", "slow", "fast"]
    assert slow > 3 * fast > 0


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux forgets a highest use")
def test_memory_that_was_given_back_counts() -> None:
    held = above_now(lambda: torch.ones(30 * 2**20).sum())
    again = above_now(lambda: torch.ones(20 * 2**20).sum())
    assert 110 < held < 150
    assert 70 < again < 110


def test_the_subjects_are_the_same_each_time() -> None:
    (one, prompts), (other, same) = (subjects.split(2, size=(400, 500)) for _ in range(2))
    assert prompts.digest == same.digest
    assert all(torch.equal(one[row].image, other[row].image) and one[row].mask.any() for row in range(2))
    sam = subjects.model(is_lean=True, name="tiny")
    settings = subjects.ADAPTER.model_copy(update={"blocks": (4, 5)})
    first, second = subjects.updates(sam, 2, settings=settings)
    assert first.digest() == subjects.updates(sam, 2, settings=settings)[0].digest() != second.digest()
    assert {factors.rank for factors in first.low_rank.values()} == {10}


def test_one_command_prints_and_writes_the_figures(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks", "start", "--csv", str(tmp_path / "figures.csv")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "cosam-bench --help" in done.stdout
    with (tmp_path / "figures.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["stage"] for row in rows] == ["cosam-bench --help", "cosam-bench methods"]
    assert all(0 < float(row["ours"]) < 60 for row in rows)


def test_an_unknown_stage_is_named() -> None:
    command = [sys.executable, "-m", "benchmarks", "encodr"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "no stage is called 'encodr'; there are encoder, step, matrix, start" in done.stderr
