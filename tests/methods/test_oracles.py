"""Every run of a folder of reference numbers is compared with ours, or skipped for a named reason.

The folder is the one in COSAM_BENCH_ORACLES: ``.json`` files of runs, each with a ``.npz`` of the same name.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from support.oracles import elementwise, spectral, statistics
from support.oracles.store import OracleRun, Outcome, distance, oracle_runs

from cosam_bench.method.registry import method_names

JUDGES: tuple[Callable[[OracleRun], Outcome | None], ...] = (elementwise.judge, spectral.judge, statistics.judge)

RAISED = "the reference raised"
# What the references themselves leave to rounding, to a library's choice of basis or to a singular matrix.
ILL_POSED = (
    RAISED,
    "alpha = 1:",
    "head takes the diagonal over a null space",
    "supp in float32:",
    "svd_epsilon = 1:",
    "the Gram sum is singular",
)


@pytest.fixture(scope="module")
def judged() -> list[tuple[OracleRun, list[Outcome]]]:
    """Every run with what the judges say of it: one of them, where all is well."""
    folder = os.environ.get("COSAM_BENCH_ORACLES")
    if not folder:
        pytest.skip("COSAM_BENCH_ORACLES names no folder of reference numbers")
    runs = list(oracle_runs(Path(folder)))
    assert runs, f"{folder} holds no .json with a .npz beside it"
    return [(run, [outcome for judge in JUDGES if (outcome := judge(run)) is not None]) for run in runs]


def test_every_run_is_judged_by_exactly_one(judged: list[tuple[OracleRun, list[Outcome]]]) -> None:
    wrong = [f"{run.name}: {len(outcomes)} judges" for run, outcomes in judged if len(outcomes) != 1]
    assert not wrong, "\n".join(wrong)


def test_every_outcome_is_a_number_or_a_reason(judged: list[tuple[OracleRun, list[Outcome]]]) -> None:
    offered = set(method_names())
    for run, outcomes in judged:
        for outcome in outcomes:
            said = [outcome.distance is not None, bool(outcome.skipped), bool(outcome.not_offered)]
            assert sum(said) == 1, f"{run.name}: {outcome}"
            assert outcome.not_offered or outcome.method in offered, f"{run.name}: {outcome}"


def test_our_rules_give_the_reference_numbers(
    judged: list[tuple[OracleRun, list[Outcome]]], capsys: pytest.CaptureFixture[str]
) -> None:
    outcomes = [(run, outcome) for run, found in judged for outcome in found]
    compared = [(run, outcome) for run, outcome in outcomes if outcome.distance is not None]
    failed = [f"{run.name}: {one.distance:.3g} times what is allowed" for run, one in compared if not one.distance <= 1]
    reasons = Counter(f"{run.file}: {one.skipped}" for run, one in outcomes if one.skipped)
    absent = Counter(f"{run.file}: {one.not_offered}" for run, one in outcomes if one.not_offered)
    with capsys.disabled():
        print(
            f"\nReference runs: {len(compared) - len(failed)} agree, {len(failed)} fail, "
            f"{reasons.total()} skipped as not to be matched, {absent.total()} of rules not offered"
        )
        for name, count in sorted(Counter(one.method for _, one in compared).items()):
            print(f"  agree or fail {count:4d}  {name}")
        for what, counts in (("skipped", reasons), ("not offered", absent)):
            for reason, count in sorted(counts.items()):
                print(f"  {what} {count:4d}  {reason}")
    assert not failed, "\n".join(failed)


def test_nothing_is_skipped_but_for_a_known_reason(judged: list[tuple[OracleRun, list[Outcome]]]) -> None:
    skipped = [(run, one.skipped) for run, found in judged for one in found if one.skipped]
    unknown = [f"{run.name}: {reason}" for run, reason in skipped if not reason.startswith(ILL_POSED)]
    assert not unknown, "\n".join(unknown)
    silent = [run.name for run, reason in skipped if reason.startswith(RAISED) and "error" not in run.facts]
    assert not silent, f"said to have raised, but there are numbers: {silent}"


def test_every_method_that_a_file_speaks_of_is_compared_there(
    judged: list[tuple[OracleRun, list[Outcome]]],
) -> None:
    compared, spoken_of = set(), set()
    for run, found in judged:
        for one in found:
            if one.method and not one.not_offered:
                spoken_of.add((run.file, one.method))
            if one.distance is not None:
                compared.add((run.file, one.method))
    assert spoken_of <= compared, spoken_of - compared


def test_a_number_that_is_not_ours_is_found() -> None:
    one = torch.tensor([1.0, 2.0], dtype=torch.float64)
    assert distance({"w": one}, {"w": one}) == 0
    assert distance({"w": one + 2e-10}, {"w": one}) > 1
    assert distance({"w": one.float() * (1 + 1e-5)}, {"w": one.float()}) > 1
    assert distance({"v": one, "w": one * torch.nan}, {"v": one, "w": one}) == math.inf
    assert distance({"v": one}, {"w": one}) == math.inf
