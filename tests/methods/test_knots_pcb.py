"""KnOTS and PCB-Merging, which see all experts at once."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.oracles.store import distance, oracle_runs
from torch import Tensor

from cosam_bench.core.errors import CosamError
from cosam_bench.merging.updates import LowRank, Update, as_factors, weight_changes
from cosam_bench.method.interface import MergingMethod
from cosam_bench.methods.knots import Knots, align, merge_aligned
from cosam_bench.methods.pcb import Pcb, merge_by_competition

SHAPES = {"wide": (6, 9), "tall": (30, 25)}
SOURCES: tuple[Literal["top", "vision"], ...] = ("top", "vision")


def draw_experts(count: int, seed: int, *, rank: int = 2, dtype: torch.dtype = torch.float64) -> list[Update]:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=dtype)

    return [
        Update({name: LowRank(draw(rank, n), draw(m, rank)) for name, (m, n) in SHAPES.items()}, {"bias": draw(4)})
        for _ in range(count)
    ]


def turned(experts: Sequence[Update]) -> list[Update]:
    """The same changes from other factors."""
    result = []
    for expert in experts:
        factors = {}
        for name, both in expert.low_rank.items():
            turn = torch.arange(both.rank**2, dtype=both.a.dtype).reshape(both.rank, -1) + 3 * torch.eye(both.rank)
            factors[name] = LowRank(torch.linalg.solve(turn, both.a), both.b @ turn)
        result.append(Update(factors, expert.dense))
    return result


def knots(experts: Sequence[Update], **options: Any) -> dict[str, Tensor]:
    chosen: dict[str, Any] = {"rule": "ties", "density": 0.2, "merge": "mean", "scale": 1.0, **options}
    return weight_changes(merge_aligned(experts, **chosen))


def pcb(experts: Sequence[Update], source: Literal["top", "vision"] = "vision") -> dict[str, Tensor]:
    return merge_by_competition(experts, ratio=0.1, scale=1.2, source=source)


def same(ours: dict[str, Tensor], others: dict[str, Tensor], *, tolerance: float = 1e-9) -> None:
    assert ours.keys() == others.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], others[name], rtol=tolerance, atol=tolerance)


@given(st.integers(1, 5), st.integers(0, 999))
@settings(max_examples=20, deadline=None)
def test_alignment_is_a_change_of_basis(count: int, seed: int) -> None:
    layers = [expert.low_rank["tall"] for expert in draw_experts(count, seed)]
    basis, factors = align(layers)
    parts = [part.dense() for part in factors]
    assert basis.shape[1] == 2 * count
    torch.testing.assert_close(basis.T @ basis, torch.eye(2 * count, dtype=torch.float64))
    for layer, part in zip(layers, parts, strict=True):
        torch.testing.assert_close(basis @ part, layer.dense())
    singular = torch.linalg.svdvals(torch.cat([layer.dense() for layer in layers], dim=1))
    torch.testing.assert_close(torch.linalg.vector_norm(torch.cat(parts, dim=1), dim=1), singular[: 2 * count])


def test_alignment_is_that_of_the_reference() -> None:
    folder = os.environ.get("COSAM_BENCH_ORACLES")
    if not folder:
        pytest.skip("COSAM_BENCH_ORACLES names no folder of reference numbers")
    cases = {run.case: run for run in oracle_runs(Path(folder)) if run.tree("knots_align")}
    assert cases
    for case, run in cases.items():
        for module in run.arrays.children(f"{case}/knots_align"):
            reference = run.tree(f"knots_align/{module}")
            changes = [change[f"{module}.weight"] for change in run.changes()]
            basis, parts = align([as_factors(change) for change in changes])
            # U and V alone are free in sign; the projection and the products are not.
            ours = {f"{task}": basis @ part.dense() for task, part in enumerate(parts)}
            ours["projection"] = basis @ basis.T
            theirs = {
                f"{task}": reference["U"] * reference["S"] @ reference[f"V{task}"] for task in range(len(changes))
            } | {"projection": reference["U"] @ reference["U"].T}
            assert distance(ours, theirs) <= 1, f"{case}/{module}"


@pytest.mark.parametrize("merge", ["sum", "mean"])
def test_aligning_leaves_task_arithmetic_what_it_is(merge: str) -> None:
    experts = draw_experts(4, 0)
    ours = knots(experts, rule="task_arithmetic", merge=merge, scale=0.6)
    stacks = [weight_changes(expert) for expert in experts]
    totals = {name: torch.stack([stack[name] for stack in stacks]) for name in stacks[0]}
    same(ours, {name: 0.6 * (all_.sum(0) if merge == "sum" else all_.mean(0)) for name, all_ in totals.items()})


@pytest.mark.parametrize("count", [1, 3])
def test_equal_experts_and_one_expert_come_back_times_the_scale(count: int) -> None:
    expert = draw_experts(1, 1)[0]
    ours = knots([expert] * count, density=1.0, scale=0.6)
    same(ours, {name: 0.6 * change for name, change in weight_changes(expert).items()})


def test_knots_serves_thin_factors() -> None:
    merged = merge_aligned(draw_experts(3, 2), rule="ties", density=0.2, merge="mean", scale=0.6)
    assert {name: factors.rank for name, factors in merged.low_rank.items()} == {"wide": 6, "tall": 6}
    assert set(merged.dense) == {"bias"}


def test_knots_is_not_ties_without_alignment() -> None:
    experts = draw_experts(3, 2)
    plain = [Update(dense=weight_changes(expert)) for expert in experts]
    assert not torch.allclose(knots(experts)["tall.weight"], knots(plain)["tall.weight"], atol=0.1)


@given(st.permutations(range(4)), st.integers(0, 999))
@settings(max_examples=10, deadline=None)
def test_neither_the_order_nor_the_factors_matter(order: list[int], seed: int) -> None:
    experts = draw_experts(4, seed)
    shuffled = turned([experts[place] for place in order])
    same(knots(shuffled), knots(experts))
    for source in SOURCES:
        same(pcb(shuffled, source), pcb(experts, source))


def zero_like(expert: Update) -> Update:
    factors = {n: LowRank(f.a, torch.zeros_like(f.b)) for n, f in expert.low_rank.items()}
    return Update(factors, {n: torch.zeros_like(c) for n, c in expert.dense.items()})


@pytest.mark.parametrize("kind", ["zero", "one zero", "equal", "rank 1"])
def test_degenerate_experts_give_finite_changes(kind: str) -> None:
    experts = draw_experts(3, 5, dtype=torch.float32)
    if kind == "zero":
        experts = [zero_like(expert) for expert in experts]
    if kind == "one zero":
        experts[1] = zero_like(experts[1])
    if kind == "equal":
        experts = [experts[0]] * 3
    if kind == "rank 1":  # and the first input unit dead
        for expert in experts:
            for factors in expert.low_rank.values():
                factors.a[1:] = factors.a[:1]
                factors.a[:, 0] = 0
    for merged in (knots(experts), knots(experts, rule="task_arithmetic"), *(pcb(experts, one) for one in SOURCES)):
        assert all(change.isfinite().all() for change in merged.values())
        if kind == "zero":
            assert not any(change.any() for change in merged.values())


@pytest.mark.parametrize("merge", [knots, pcb])
def test_experts_of_other_layers_are_refused(merge: Any) -> None:
    first, second = draw_experts(2, 6)
    with pytest.raises(CosamError, match="do not fit each other: at 'bias'"):
        merge([first, Update(second.low_rank)])


@pytest.mark.parametrize("merge", [knots, pcb])
def test_experts_that_change_nothing_give_no_change(merge: Any) -> None:
    assert merge([Update(), Update()]) == {}


@pytest.mark.parametrize("kind", [Knots, Pcb])
def test_every_experts_factors_are_kept(kind: type[MergingMethod], tmp_path: Path) -> None:
    experts = draw_experts(12, 7, dtype=torch.float32)
    assert "not continual" in kind.card.title
    method = kind(kind.Settings(), SimpleNamespace())  # type: ignore[arg-type]
    sizes = []
    for step, expert in enumerate(experts, start=1):
        method.served = method.merge(expert, SimpleNamespace(), step=step)  # type: ignore[arg-type]
        rebuilt = kind(kind.Settings(), SimpleNamespace())  # type: ignore[arg-type]
        rebuilt.load(method.state())
        method = rebuilt
        sizes.append(method.state().save(tmp_path / "state"))
    assert all(later > earlier for earlier, later in pairwise(sizes))
    direct = knots(experts, scale=0.6) if kind is Knots else pcb(experts)
    assert method.served is not None
    same(weight_changes(method.served), direct, tolerance=1e-6)
