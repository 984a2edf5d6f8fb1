"""What holds for every entrywise merge, and the merges against the formulas over all experts at once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.made_experts import RANK, Variant, draw_experts, learn, same, served

from cosam_bench.core.errors import CosamError
from cosam_bench.core.seeds import torch_generator
from cosam_bench.merging.updates import LowRank, Update, weight_changes
from cosam_bench.method.interface import MergingMethod
from cosam_bench.methods.average import Average
from cosam_bench.methods.continual_ties import ContinualTies
from cosam_bench.methods.dare import Dare, draw_masks, drop_and_rescale
from cosam_bench.methods.magmax import MagMax
from cosam_bench.methods.task_arithmetic import TaskArithmetic
from cosam_bench.methods.ties import Ties

ORDER_FREE: list[Variant] = [
    (Average, {}),
    (TaskArithmetic, {}),
    (TaskArithmetic, {"scale": "1/t"}),
    (Ties, {}),
    (Ties, {"merge": "mean", "density": 0.5}),
    (Ties, {"merge": "max"}),
    (Dare, {}),
    (Dare, {"scale": "1/t", "drop": 0.9}),
    (Dare, {"combine": "ties", "density": 0.7}),
    (MagMax, {"start": "base"}),
]


ALL: list[Variant] = [*ORDER_FREE, (ContinualTies, {}), (MagMax, {})]


# Each of these takes an expert whole, so one expert comes back times the number.
WHOLE: list[tuple[type[MergingMethod], dict[str, Any], float]] = [
    (Average, {}, 1.0),
    (TaskArithmetic, {"scale": 0.4}, 0.4),
    (TaskArithmetic, {"scale": "1/t"}, 1.0),
    (Ties, {"density": 1.0}, 0.3),
    (Ties, {"density": 1.0, "merge": "mean"}, 0.3),
    (Ties, {"density": 1.0, "merge": "max"}, 0.3),
    (ContinualTies, {}, 0.5),
    (Dare, {"drop": 0.0}, 0.3),
    (Dare, {"drop": 0.0, "combine": "ties", "density": 1.0, "scale": "1/t"}, 1.0),
    (MagMax, {}, 0.5),
]


# A zero expert changes nothing in a sum, an election or a maximum.
NEUTRAL: list[Variant] = [
    (TaskArithmetic, {}),
    (Ties, {}),
    (Ties, {"merge": "mean"}),
    (Ties, {"merge": "max"}),
    (Dare, {"drop": 0.0}),
    (MagMax, {}),
]


@pytest.mark.parametrize(("kind", "options", "scale"), WHOLE)
def test_one_expert_comes_back_times_the_scale(
    kind: type[MergingMethod], options: dict[str, Any], scale: float
) -> None:
    (expert,) = draw_experts(1, 0)
    same(served((kind, options), [expert]), {n: scale * c for n, c in weight_changes(expert).items()})


@pytest.mark.parametrize("variant", ORDER_FREE)
@given(order=st.permutations(range(4)), seed=st.integers(0, 999))
@settings(max_examples=5, deadline=None)
def test_the_order_does_not_matter(variant: Variant, order: list[int], seed: int) -> None:
    experts = draw_experts(4, seed)
    same(served(variant, experts, order=order), served(variant, experts))


def test_the_order_matters_to_continual_ties() -> None:
    experts = draw_experts(3, 0)
    forth, back = (served((ContinualTies, {}), experts, order=order) for order in ([0, 1, 2], [2, 1, 0]))
    assert not torch.allclose(forth["wide.weight"], back["wide.weight"], atol=0.1)


@pytest.mark.parametrize("variant", ALL)
@given(seed=st.integers(0, 999))
@settings(max_examples=5, deadline=None)
def test_how_an_expert_splits_into_factors_does_not_matter(variant: Variant, seed: int) -> None:
    experts = draw_experts(3, seed)
    generator = torch.Generator().manual_seed(seed)
    turned = []
    for expert in experts:
        turn = torch.randn(RANK, RANK, generator=generator, dtype=torch.float64) + 3 * torch.eye(RANK)
        factors = {n: LowRank(torch.linalg.solve(turn, f.a), f.b @ turn) for n, f in expert.low_rank.items()}
        turned.append(Update(factors, expert.dense))
    same(served(variant, turned), served(variant, experts), tolerance=1e-9)


def zero_like(expert: Update) -> Update:
    factors = {n: LowRank(f.a, torch.zeros_like(f.b)) for n, f in expert.low_rank.items()}
    return Update(factors, {n: torch.zeros_like(c) for n, c in expert.dense.items()})


@pytest.mark.parametrize("variant", NEUTRAL)
def test_a_zero_expert_changes_nothing(variant: Variant) -> None:
    experts = draw_experts(2, 1)
    same(served(variant, [*experts, zero_like(experts[0])]), served(variant, experts))


def test_a_zero_expert_pulls_the_average_and_doubles_in_continual_ties() -> None:
    experts = draw_experts(2, 1)
    padded = [*experts, zero_like(experts[0])]
    average = served((Average, {}), experts)
    same(served((Average, {}), padded), {name: change * 2 / 3 for name, change in average.items()})
    before = served((ContinualTies, {"density": 1.0}), experts)
    doubled = {name: 1.5 * change for name, change in before.items()}  # M + 0.5 TIES(M, 0), and TIES(M, 0) is M
    same(served((ContinualTies, {"density": 1.0}), padded), doubled)


@pytest.mark.parametrize("variant", [*ALL, (TaskArithmetic, {"first_factors": "osrm"})])
def test_the_state_does_not_grow(variant: Variant, tmp_path: Path) -> None:
    states = learn(variant, draw_experts(5, 2, dtype=torch.float32))
    sizes = [state.save(tmp_path / "state") for state in states]
    assert len(set(sizes[1:])) == 1
    assert all(tensor.dtype != torch.float64 for name, tensor in states[-1].tensors.items() if "served" in name)


def degenerate(kind: str) -> list[Update]:
    experts = draw_experts(3, 3, dtype=torch.float32)
    if kind == "zero":
        return [zero_like(expert) for expert in experts]
    if kind == "equal":
        return [experts[0]] * 3
    if kind == "opposite":
        flipped = {n: f.scaled(-1) for n, f in experts[0].low_rank.items()}
        return [experts[0], Update(flipped, {n: -c for n, c in experts[0].dense.items()})]
    for expert in experts:  # rank 1, the first input unit dead
        for factors in expert.low_rank.values():
            factors.a[1:] = factors.a[:1]
            factors.a[:, 0] = 0
    return experts


@pytest.mark.parametrize("variant", ALL)
@pytest.mark.parametrize("kind", ["zero", "equal", "opposite", "rank 1"])
def test_degenerate_experts_give_finite_changes(variant: Variant, kind: str) -> None:
    assert all(change.isfinite().all() for change in served(variant, degenerate(kind)).values())


@pytest.mark.parametrize("variant", ALL)
def test_experts_of_other_parameters_are_refused(variant: Variant) -> None:
    first, second = draw_experts(2, 4)
    with pytest.raises(CosamError, match=r"at 'bias' one changes \(4,\), the other nothing"):
        served(variant, [first, Update(second.low_rank)])


# Against the batch formulas.


def flat(experts: Sequence[Update]) -> np.ndarray:
    rows = [torch.cat([change.flatten() for change in weight_changes(expert).values()]) for expert in experts]
    return torch.stack(rows).numpy()


def flat_result(variant: Variant, experts: Sequence[Update]) -> np.ndarray:
    return torch.cat([change.flatten() for change in served(variant, experts).values()]).numpy()


def ties_of_all(rows: np.ndarray, *, density: float, merge: str) -> np.ndarray:
    """TIES as it is printed: all rows at once, entry after entry."""
    count = rows.shape[1]
    kept = rows.copy()
    if density < 1:
        for row in kept:
            row[np.argsort(np.abs(row))[: count - int(density * count) - 1]] = 0
    signs = np.sign(kept.sum(0))
    signs[signs == 0] = np.sign(signs.sum())
    result = np.zeros(count)
    for entry, sign in enumerate(signs):
        agreeing = [value for value in kept[:, entry] if value * (1 if sign > 0 else -1) > 0]
        if agreeing:
            largest = max(agreeing, key=abs)
            result[entry] = {"sum": sum(agreeing), "mean": np.mean(agreeing), "max": sign * abs(largest)}[merge]
    return result


@given(
    st.integers(1, 5),
    st.sampled_from([0.05, 0.2, 0.5, 1.0]),
    st.sampled_from(["sum", "mean", "max"]),
    st.integers(0, 999),
)
@settings(max_examples=40, deadline=None)
def test_running_votes_give_ties_over_all_experts(count: int, density: float, merge: str, seed: int) -> None:
    experts = draw_experts(count, seed)
    ours = flat_result((Ties, {"density": density, "merge": merge, "scale": 1.0}), experts)
    np.testing.assert_allclose(ours, ties_of_all(flat(experts), density=density, merge=merge), rtol=1e-12, atol=1e-12)


@given(st.integers(1, 5), st.integers(0, 999))
@settings(max_examples=15, deadline=None)
def test_running_sums_and_maxima_are_those_of_all_experts(count: int, seed: int) -> None:
    experts = draw_experts(count, seed)
    rows = flat(experts)
    largest = rows[np.abs(rows).argmax(0), np.arange(rows.shape[1])]
    for variant, batch in (
        ((Average, {}), rows.mean(0)),
        ((TaskArithmetic, {"scale": 0.3}), 0.3 * rows.sum(0)),
        ((TaskArithmetic, {"scale": "1/t"}), rows.mean(0)),
        ((MagMax, {"scale": 0.3}), 0.3 * largest),
    ):
        np.testing.assert_allclose(flat_result(variant, experts), batch, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("combine", ["sum", "ties"])
def test_dare_merges_what_its_masks_leave(combine: str) -> None:
    experts = draw_experts(3, 5)
    thinned = []
    for number, expert in enumerate(experts):
        changes = weight_changes(expert)
        masks = draw_masks(changes, probability=0.6, generator=torch_generator(0, "dare", str(number)))
        thinned.append(Update(dense=drop_and_rescale(changes, masks, probability=0.6)))
    options: dict[str, Any] = {"density": 0.2} if combine == "ties" else {}
    ours = served((Dare, {"drop": 0.6, "combine": combine, "scale": 0.3}), experts)
    plain = Ties if combine == "ties" else TaskArithmetic
    same(ours, served((plain, {"scale": 0.3, **options}), thinned))
