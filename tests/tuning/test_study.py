"""Trials kept in a file: proposals do not depend on interruptions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cosam_bench.core.errors import CosamError
from cosam_bench.core.search_ranges import SearchRange
from cosam_bench.tuning.study import Sampler, Study

pytest.importorskip("optuna")

SPACE = {
    "scale": SearchRange(low=0.1, high=10.0, is_log=True),
    "rank": SearchRange(low=1, high=8, is_whole=True),
    "rule": SearchRange(choices=("sum", "mean")),
}
DEFAULTS = {"scale": 1.0, "rank": 4, "rule": "sum", "kept": "as it is"}


def study(folder: Path, *, seed: int = 0, sampler: Sampler = "tpe", defaults: dict[str, Any] | None = None) -> Study:
    return Study(folder / "trials.log", space=SPACE, defaults=defaults or DEFAULTS, seed=seed, sampler=sampler)


def objective(settings: dict[str, Any]) -> float:
    """Best at scale 2, rank 8 and the mean."""
    settings = DEFAULTS | settings
    return -abs(settings["scale"] - 2) - abs(settings["rank"] - 8) + (settings["rule"] == "mean")


def do(one: Study, count: int) -> None:
    for _ in range(count):
        number, settings = one.propose()
        if number == 3:
            one.fail(number, "it is odd")
        else:
            one.succeed(number, objective(settings), {"pill": objective(settings)})


def test_the_first_trial_has_the_defaults_and_all_others_are_in_the_space(tmp_path: Path) -> None:
    one = study(tmp_path)
    do(one, 14)
    first, *others = one.results
    assert (first.number, first.settings, first.score, first.scores) == (0, {}, objective({}), {"pill": objective({})})
    assert [other.number for other in others] == list(range(1, 14))
    for other in others:
        assert list(other.settings) == list(SPACE)
        assert all(other.settings[name] in found for name, found in SPACE.items())
    assert [(other.number, other.error) for other in others if other.score is None] == [(3, "it is odd")]
    assert max(other.score for other in others if other.score is not None) > objective({})


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_a_study_that_was_interrupted_ends_as_one_that_was_not(tmp_path: Path, sampler: Sampler) -> None:
    whole = study(tmp_path / "whole", sampler=sampler)
    do(whole, 14)
    for count in (1, 1, 5):
        stopped = study(tmp_path / "stopped", sampler=sampler)
        do(stopped, count)
        stopped.propose()  # and killed during this trial
    do(study(tmp_path / "stopped", sampler=sampler), 7)
    assert study(tmp_path / "stopped", sampler=sampler).results == whole.results


def test_the_seed_and_the_sampler_decide_the_proposals(tmp_path: Path) -> None:
    found = []
    for name, seed, sampler in (("a", 0, "tpe"), ("b", 1, "tpe"), ("c", 0, "random")):
        one = study(tmp_path / name, seed=seed, sampler=sampler)  # type: ignore[arg-type]  # one of the two
        do(one, 14)
        found.append(one.results)
    assert found[0][1:] != found[1][1:]
    assert found[0][11:] != found[2][11:]  # the estimator begins with random proposals


def test_a_default_that_its_range_does_not_hold_is_tried_first_all_the_same(tmp_path: Path) -> None:
    one = study(tmp_path, defaults=DEFAULTS | {"scale": 0.0, "rank": None})
    do(one, 3)
    assert one.results[0].settings == {}
    assert list(one.results[1].settings) == list(SPACE)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    do(study(tmp_path), 2)
    file = tmp_path / "trials.log"
    file.write_text(file.read_text().replace("{", "<", 1))
    with pytest.raises(CosamError, match=r"trials\.log cannot be read: .* Delete it to tune again"):
        do(study(tmp_path), 1)


@pytest.mark.parametrize("half", ['{"op_code": 5, "worker', ""])
def test_a_line_that_was_half_written_is_cut_off(half: str, tmp_path: Path) -> None:
    do(study(tmp_path), 2)
    file = tmp_path / "trials.log"
    before = study(tmp_path).results
    file.write_bytes(file.read_bytes() + half.encode())
    again = study(tmp_path)
    assert again.results == before
    do(again, 1)
    assert [one.number for one in study(tmp_path).results] == [0, 1, 2]
