"""The rules of entrywise merges by hand: trimming, elections, MagMax, DARE's masks and OSRM's first factors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.made_experts import SHAPES, Bench, draw_experts, learn, same, served
from torch import Tensor, nn

from cosam_bench.core.errors import CosamError
from cosam_bench.merging.elementwise import add_task_vector, entrywise
from cosam_bench.merging.osrm import least_energy_directions
from cosam_bench.merging.sign_election import add_votes, elect, trim
from cosam_bench.merging.updates import Update, weight_changes
from cosam_bench.method.contract_check import check_method
from cosam_bench.methods.continual_ties import add_by_election
from cosam_bench.methods.dare import Dare, draw_masks, drop_and_rescale
from cosam_bench.methods.magmax import MagMax, keep_larger
from cosam_bench.methods.task_arithmetic import TaskArithmetic
from cosam_bench.sam.adapters.attachment import Adapter

# By hand.


def test_trimming_keeps_the_largest_entries_of_all_parameters_together() -> None:
    changes = {"a": torch.tensor([[1.0, -9.0], [0.5, 3.0]]), "b": torch.tensor([-4.0, 0.1, 2.0, 0.0])}
    trimmed = trim(changes, density=0.25)  # int(0.25 * 8) + 1 = 3
    assert trimmed["a"].tolist() == [[0, -9], [0, 3]]
    assert trimmed["b"].tolist() == [-4, 0, 0, 0]
    same(trim(changes, density=1.0), changes)
    assert trim({"a": torch.tensor([2.0, -2.0, 1.0, 1.0])}, density=0.1)["a"].tolist() == [2, -2, 0, 0]  # equals stay


def election(rows: list[list[float]], merge: Any) -> list[float]:
    votes: dict[str, Tensor] = {}
    for row in rows:
        votes = add_votes(votes, {"w": torch.tensor(row, dtype=torch.float64)}, merge=merge)
    return elect(votes, merge=merge)["w"].tolist()


def test_an_election_takes_the_entries_that_agree_with_the_sum() -> None:
    rows = [[1.0, -2.0, 5.0, 0.0], [3.0, 1.0, -6.0, 0.0], [-2.0, -4.0, -1.0, 0.0]]
    assert election(rows, "sum") == [4, -6, -7, 0]
    assert election(rows, "mean") == [2, -3, -3.5, 0]
    assert election(rows, "max") == [3, -4, -6, 0]


def test_an_entry_without_a_sign_follows_the_majority_of_the_others() -> None:
    assert election([[1.0, 2.0, 2.0], [-1.0, 0.0, 0.0]], "sum") == [1, 2, 2]
    assert election([[1.0, -2.0, 0.0], [-1.0, 0.0, 0.0]], "max") == [-1, -2, 0]
    assert election([[1.0, 2.0, -3.0], [-1.0, 0.0, 0.0]], "sum") == [-1, 2, -3]  # no majority: the negative entries
    assert election([[1.0, 2.0, -3.0], [-1.0, 0.0, 0.0]], "max") == [0, 2, -3]  # no majority: none


def test_continual_ties_adds_the_election_to_what_took_part_in_it() -> None:
    options: dict[str, Any] = {"density": 1.0, "merge": "sum", "scale": 0.5}
    first = add_by_election(None, {"w": torch.tensor([2.0, 2.0])}, step=1, **options)
    assert first["w"].tolist() == [1, 1]
    second = add_by_election(first, {"w": torch.tensor([4.0, -4.0])}, step=2, **options)
    assert second["w"].tolist() == [1 + 0.5 * 5, 1 - 0.5 * 4]


def test_magmax_takes_the_later_of_two_equal_magnitudes() -> None:
    forth = keep_larger({"w": torch.tensor([0.5, -1.0])}, {"w": torch.tensor([-1.0, 1.0])}, scale=0.5)
    assert forth["w"].tolist() == [-0.5, -1.0]
    back = keep_larger({"w": torch.tensor([-0.5, 0.5])}, {"w": torch.tensor([1.0, -2.0])}, scale=0.5)
    assert back["w"].tolist() == [0.5, -1.0]


@given(st.floats(0.05, 3), st.integers(0, 999))
@settings(max_examples=20, deadline=None)
def test_magmax_loses_nothing_by_dividing_the_scale_out(scale: float, seed: int) -> None:
    changes = weight_changes(draw_experts(1, seed, dtype=torch.float32)[0])
    nothing = {name: torch.zeros_like(change) for name, change in changes.items()}
    first = later = keep_larger(None, changes, scale=scale)
    for _ in range(4):
        later = keep_larger(later, nothing, scale=scale)
    assert all(torch.equal(first[name], later[name]) for name in first)


def test_magmax_trains_on_from_the_last_expert_and_not_from_the_served_update() -> None:
    experts = draw_experts(3, 6)
    bench = Bench(experts)
    learn((MagMax, {}), experts, bench=bench)
    assert bench.starts[0] is None
    assert [start.digest() for start in bench.starts[1:] if start] == [expert.digest() for expert in experts[:2]]
    bench = Bench(experts)
    learn((MagMax, {"start": "base"}), experts, bench=bench)
    assert bench.starts == [None, None, None]


# DARE's masks.


def test_dropping_keeps_the_expectation() -> None:
    changes = {"w": torch.full((200, 200), 2.0)}
    masks = draw_masks(changes, probability=0.9, generator=torch.Generator().manual_seed(0))
    thinned = drop_and_rescale(changes, masks, probability=0.9)["w"]
    torch.testing.assert_close(thinned.unique(), torch.tensor([0.0, 20.0]))
    assert thinned.mean().item() == pytest.approx(2.0, abs=0.1)  # five deviations are 0.15


def test_masks_belong_to_the_domain_and_not_to_its_place() -> None:
    experts = [draw_experts(1, 7)[0]] * 2
    alone = [served((Dare, {}), experts, order=[number]) for number in (0, 1)]
    assert not torch.equal(alone[0]["wide.weight"] == 0, alone[1]["wide.weight"] == 0)
    same(served((Dare, {}), experts, order=[1, 0]), {name: alone[0][name] + alone[1][name] for name in alone[0]})


# OSRM's first factors.


@given(st.integers(1, 6), st.integers(0, 999))
@settings(max_examples=20, deadline=None)
def test_quiet_directions_are_orthonormal_and_the_quietest(count: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(30, 6, generator=generator, dtype=torch.float64)
    rows = least_energy_directions(inputs.T @ inputs, count=count)
    torch.testing.assert_close(rows @ rows.T, torch.eye(count, dtype=torch.float64))
    other = torch.linalg.qr(torch.randn(6, count, generator=generator, dtype=torch.float64)).Q.T
    quiet, loud = (torch.linalg.matrix_norm(inputs @ directions.T) for directions in (rows, other))
    assert quiet <= loud + 1e-9
    values = torch.linalg.svdvals(inputs)
    torch.testing.assert_close(quiet, torch.linalg.vector_norm(values[6 - count :]))
    assert (rows.gather(1, rows.abs().argmax(1, keepdim=True)) > 0).all()  # signs are not left to the solver


def test_more_directions_than_inputs_are_refused() -> None:
    with pytest.raises(CosamError, match="A layer with 4 inputs has no 5 orthogonal directions"):
        least_energy_directions(torch.eye(4), count=5)


def test_osrm_begins_away_from_past_domains_and_only_from_those() -> None:
    experts = draw_experts(3, 8)
    bench = Bench(experts)
    learn((TaskArithmetic, {"first_factors": "osrm"}), experts, bench=bench)
    assert bench.hooks[0] is None
    hooks = bench.hooks[2]
    assert hooks is not None
    count = SHAPES["tall"][1] - 2
    factors = {
        name: (nn.Parameter(torch.zeros(count, n)), nn.Parameter(torch.zeros(m, count)), 1.0)
        for name, (m, n) in SHAPES.items()
    }
    hooks.attached(Adapter(factors, {}, Update()))
    tall = factors["tall"][0]
    torch.testing.assert_close(tall @ tall.T, torch.eye(count))
    # Domains 0 and 1 used those inputs; 2, which is about to be learned, is not past.
    assert tall[:, :2].abs().max() < 1e-6
    assert tall[:, 2].abs().max() > 0.1
    assert not factors["tall"][1].any()


def test_experts_that_begin_alike_are_trained_without_hooks() -> None:
    experts = draw_experts(2, 8)
    bench = Bench(experts)
    learn((TaskArithmetic, {}), experts, bench=bench)
    assert bench.hooks == [None, None]


def test_osrm_keeps_the_contract() -> None:
    assert len(check_method(TaskArithmetic, settings={"first_factors": "osrm"})) == 9


@pytest.mark.parametrize("scale", ["2/t", 0.0, -1.0, float("nan")])
def test_a_scale_is_a_positive_number_or_the_mean(scale: Any) -> None:
    for kind in (TaskArithmetic, Dare):
        with pytest.raises(ValueError, match="scale"):
            kind.Settings(scale=scale)


def test_a_sum_is_rounded_once_to_the_experts_dtype() -> None:
    changes = weight_changes(draw_experts(1, 9, dtype=torch.float32)[0])
    mean = add_task_vector(changes, changes, scale="1/t", step=3)
    assert all(torch.equal(mean[name], changes[name]) for name in changes)  # (2/3) x + (1/3) x in float64


def test_tensors_of_different_shapes_are_refused() -> None:
    with pytest.raises(CosamError, match=r"entry by entry: \(65536,\) and \(131072,\)\. Merge only"):
        entrywise(torch.add, torch.ones(131_072), torch.ones(65_536))
    with pytest.raises(CosamError, match=r"\(2, 3\) and \(3, 2\)"):
        entrywise(torch.add, torch.ones(3, 2), torch.ones(2, 3))
