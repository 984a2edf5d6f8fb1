"""The benchmarks' own parts; what they measure is not repeated here."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from benchmarks import subjects
from benchmarks.__main__ import STAGES, main, stage
from benchmarks.figures import Figure, read_figures, replaced, write_figures
from benchmarks.measuring import in_a_process, in_turns, peak_above_now
from cosam_bench.core.errors import CosamError


def test_a_ratio_says_how_many_times_less_ours_takes() -> None:
    assert Figure("stage", 6.0, 2.0, "s").ratio == 3.0
    assert Figure("stage", None, 2.0, "s").ratio is None


def test_a_share_says_how_near_to_the_limit_ours_comes() -> None:
    assert Figure("stage", None, 2.0, "s", limit=0.5).share == 0.25
    assert Figure("stage", 6.0, 2.0, "s").share is None


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
    held = peak_above_now(lambda: torch.ones(30 * 2**20).sum())
    again = peak_above_now(lambda: torch.ones(20 * 2**20).sum())
    assert 110 < held < 150
    assert 70 < again < 110


def test_a_process_of_its_own_has_one_thread_and_returns_what_was_found() -> None:
    assert in_a_process(torch.get_num_threads) == 1


def test_the_subjects_are_the_same_each_time() -> None:
    (one, prompts), (other, same) = (subjects.split(2, size=(400, 500)) for _ in range(2))
    assert prompts.digest == same.digest
    assert all(torch.equal(one[row].image, other[row].image) and one[row].mask.any() for row in range(2))
    sam = subjects.model(is_lean=True, name="tiny")
    settings = subjects.ADAPTER.model_copy(update={"blocks": (4, 5)})
    first, second = subjects.updates(sam, 2, settings=settings)
    assert first.digest() == subjects.updates(sam, 2, settings=settings)[0].digest() != second.digest()
    assert {factors.rank for factors in first.low_rank.values()} == {10}


@pytest.fixture
def threads_as_they_were() -> Iterator[None]:
    count = torch.get_num_threads()
    yield
    torch.set_num_threads(count)


@pytest.mark.usefixtures("threads_as_they_were")
def test_one_command_prints_and_writes_the_figures_over_those_of_the_same_stage(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "figures.csv"
    before = [Figure("old", None, 1.0, "s", group=group, machine="elsewhere") for group in ("start", "encoder")]
    write_figures(path, before)
    monkeypatch.setattr(sys, "argv", ["benchmarks", "start", "--csv", str(path)])
    main()
    assert "cosam-bench --help" in capsys.readouterr().out
    kept, *new = read_figures(path)
    assert kept == before[1]
    assert [figure.stage for figure in new] == ["cosam-bench --help", "cosam-bench methods"]
    assert all(0 < figure.ours < 60 and "1 of" in figure.machine for figure in new)


def test_an_unknown_stage_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmarks", "encodr"])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    assert "no stage is called 'encodr'; there are encoder, step, matrix, start, limits" in capsys.readouterr().err


@pytest.mark.usefixtures("threads_as_they_were")
def test_a_stage_that_cannot_be_measured_here_says_why(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("COSAM_BENCH_REAL", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["benchmarks", "mobile", "--csv", str(tmp_path / "figures.csv")])
    main()
    assert "mobile: skipped: COSAM_BENCH_REAL names no folder" in capsys.readouterr().err
    assert read_figures(tmp_path / "figures.csv") == []


@pytest.mark.parametrize("name", STAGES)
def test_every_stage_exists(name: str) -> None:
    assert isinstance(stage(name)(), Iterator)  # nothing is measured until a figure is asked for


def test_figures_are_read_back_bit_for_bit(tmp_path: Path) -> None:
    figures = [
        Figure('one, "two"', 1 / 3, 2 / 7, "s", "ends,\nhere", 0.1, "a", "x"),
        Figure("y", None, 1e-17, "MiB", "NA", group="b", machine="z"),
    ]
    write_figures(tmp_path / "figures.csv", figures)
    assert read_figures(tmp_path / "figures.csv") == figures


@pytest.mark.parametrize("text", [None, "", "a,b\n1,2\n"])
def test_a_file_that_holds_no_figures_is_refused(text: str | None, tmp_path: Path) -> None:
    path = tmp_path / "figures.csv"
    if text is not None:
        path.write_text(text)
    with pytest.raises(CosamError, match=r"cannot be read as a file of figures.*python -m benchmarks --csv"):
        read_figures(path)


def test_new_figures_replace_those_of_their_group_and_keep_the_order() -> None:
    def figure(group: str, ours: float) -> Figure:
        return Figure("stage", None, ours, "s", group=group)

    known = [figure("first", 1), figure("second", 2), figure("gpu", 3)]
    found = replaced(known, [figure("first", 4), figure("first", 5)], order=("first", "second"))
    assert [(each.group, each.ours) for each in found] == [("first", 4), ("first", 5), ("second", 2), ("gpu", 3)]
