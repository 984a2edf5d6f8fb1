"""OPCM on thin factors against the published steps on dense matrices, and what the rule promises."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from cosam_bench.core.errors import CosamError
from cosam_bench.merging.spectral import numerical_rank, thin_svd, update_norm
from cosam_bench.merging.updates import LowRank, Update, as_factors, check_same_layers, weight_changes
from cosam_bench.method.interface import State
from cosam_bench.methods.opcm import (
    OPCM,
    OPCMSettings,
    OPCMState,
    Variant,
    merge_orthogonally,
    parameters_beside_modules,
    split_rank,
)

SHAPES = {"tall": (9, 5), "wide": (4, 8)}
VARIANTS: tuple[Variant, ...] = ("release", "supp")
Result = TypeVar("Result")
SEEDS = st.integers(0, 10_000)


def drawn(seed: int, *, rank: int = 2, shapes: dict[str, tuple[int, int]] = SHAPES, scale: float = 1.0) -> Update:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    low_rank = {name: LowRank(draw(rank, n), scale * draw(m, rank)) for name, (m, n) in shapes.items()}
    return Update(low_rank, {"bias": draw(3)})


def merged(
    experts: list[Update], *, alpha: float = 0.5, variant: Variant = "supp", rank: int | None = None
) -> list[OPCMState]:
    """The state after each expert."""
    state, states = OPCMState(), []
    for expert in experts:
        state = merge_orthogonally(state, expert, alpha=alpha, variant=variant, rank=rank)
        states.append(state)
    return states


def dense_step(
    merged: dict[str, Tensor], expert: dict[str, Tensor], *, scale: float, mean_norm: float, alpha: float, supp: bool
) -> tuple[dict[str, Tensor], float]:
    """The published step, written out on dense matrices with full decompositions."""
    total = {}
    for name, change in expert.items():
        cleaned = change
        if change.ndim == 2:
            u, s, vh = torch.linalg.svd(merged[name], full_matrices=True)
            coordinates = u.T @ change @ vh.T
            split = 0
            while s.sum() > 0 and s[: split + 1].sum() / s.sum() <= alpha:
                split += 1
            coordinates[:split, :split] = 0
            for place in range(int((s > 1e-10 * s.max()).sum()) if supp else 0):
                coordinates[place, place] = 0
            cleaned = u @ coordinates @ vh
        total[name] = scale * merged[name] + cleaned
    norm = math.sqrt(sum(float(change.square().sum()) for change in total.values()))
    return {name: change * mean_norm / norm for name, change in total.items()}, norm / mean_norm


@given(SEEDS, st.integers(1, 6), st.sampled_from(VARIANTS), st.floats(0, 0.95), st.integers(2, 4))
@settings(max_examples=40, deadline=None)
def test_thin_factors_give_the_published_dense_steps(
    seed: int, rank: int, variant: Variant, alpha: float, count: int
) -> None:
    experts = [drawn(seed + step, rank=rank) for step in range(count)]
    norms = [update_norm(expert) for expert in experts]
    dense, scale = weight_changes(experts[0]), 1.0
    for step, state in enumerate(merged(experts, alpha=alpha, variant=variant)):
        if step:
            mean_norm = sum(norms[: step + 1]) / (step + 1)
            dense, scale = dense_step(
                dense,
                weight_changes(experts[step]),
                scale=scale,
                mean_norm=mean_norm,
                alpha=alpha,
                supp=variant == "supp",
            )
        ours = weight_changes(state.change)
        for name, change in dense.items():
            torch.testing.assert_close(ours[name], change, rtol=1e-8, atol=1e-9)
        assert state.scale == pytest.approx(scale, rel=1e-9)


def test_a_step_by_hand() -> None:
    # M = diag(3, 1): of the sum 4 the first value is 3/4 > 1/2, so no block is kept free at alpha 1/2.
    first = Update({"layer": as_factors(torch.diag(torch.tensor([3.0, 1.0], dtype=torch.float64)))})
    second = Update({"layer": as_factors(torch.tensor([[5.0, 2.0], [0.0, 7.0]], dtype=torch.float64))})
    mean_norm = (math.sqrt(10) + math.sqrt(78)) / 2
    for variant, alpha, total in (
        ("release", 0.5, [[8.0, 2.0], [0.0, 8.0]]),
        ("release", 0.8, [[3.0, 2.0], [0.0, 8.0]]),  # one value fits within 0.8: C[0, 0] goes
        ("supp", 0.5, [[3.0, 2.0], [0.0, 1.0]]),  # the diagonal goes
    ):
        state = merged([first, second], alpha=alpha, variant=variant)[1]  # type: ignore[arg-type]
        norm = math.sqrt(sum(entry**2 for row in total for entry in row))
        expected = torch.tensor(total, dtype=torch.float64) * mean_norm / norm
        torch.testing.assert_close(state.change.low_rank["layer"].dense(), expected)
        assert state.scale == pytest.approx(norm / mean_norm)
        assert state.split_ranks == {"layer": 1 if alpha == 0.8 else 0}


@given(SEEDS, st.sampled_from(VARIANTS))
@settings(max_examples=20, deadline=None)
def test_the_first_expert_is_taken_whole_and_the_norm_stays_the_experts_mean(seed: int, variant: Variant) -> None:
    experts = [drawn(seed + step, scale=10.0**step) for step in range(4)]
    states = merged(experts, variant=variant)
    torch.testing.assert_close(weight_changes(states[0].change), weight_changes(experts[0]))
    norms = [update_norm(expert) for expert in experts]
    for count, state in enumerate(states, start=1):
        assert update_norm(state.change) == pytest.approx(sum(norms[:count]) / count)
        assert all(f.rank == min(2 * count, *SHAPES[layer]) for layer, f in state.change.low_rank.items())


@given(SEEDS, st.sampled_from(VARIANTS))
@settings(max_examples=20, deadline=None)
def test_the_split_of_a_change_into_factors_does_not_matter(seed: int, variant: Variant) -> None:
    generator = torch.Generator().manual_seed(seed)
    experts = [drawn(seed + step) for step in range(3)]
    turn = torch.randn((2, 2), generator=generator, dtype=torch.float64) + 3 * torch.eye(2, dtype=torch.float64)
    others = [
        replace(
            expert,
            low_rank={n: LowRank(torch.linalg.solve(turn, f.a), f.b @ turn) for n, f in expert.low_rank.items()},
        )
        for expert in experts
    ]
    ours, theirs = (weight_changes(merged(list_, variant=variant)[-1].change) for list_ in (experts, others))
    torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-8)


def test_the_order_matters() -> None:
    experts = [drawn(step) for step in range(2)]
    one, other = (weight_changes(merged(order)[-1].change)["tall.weight"] for order in (experts, experts[::-1]))
    assert (one - other).abs().max() > 0.1


@given(SEEDS)
@settings(max_examples=10, deadline=None)
def test_an_expert_that_comes_again_adds_nothing_under_supp(seed: int) -> None:
    # All of it lies on the merged update's own diagonal. The dense part has no such rule.
    expert = replace(drawn(seed), dense={})
    first, second = merged([expert, expert])
    torch.testing.assert_close(weight_changes(second.change), weight_changes(first.change))
    assert second.scale == pytest.approx(1)


def test_at_alpha_0_release_is_the_rescaled_sum() -> None:
    experts = [drawn(step) for step in range(3)]
    total = {name: sum(weight_changes(e)[name] for e in experts) for name in weight_changes(experts[0])}
    ours = merged(experts, alpha=0.0, variant="release")[-1]
    for name, change in weight_changes(ours.change).items():
        torch.testing.assert_close(change * ours.scale, total[name])


def test_of_a_rank_1_update_release_keeps_nothing_free() -> None:
    experts = [replace(drawn(step, rank=1), dense={}) for step in range(2)]
    ours = merged(experts, alpha=0.9, variant="release")[-1]
    assert set(ours.split_ranks.values()) == {0}
    for layer, factors in ours.change.low_rank.items():
        plain = sum(expert.low_rank[layer].dense() for expert in experts)
        torch.testing.assert_close(factors.dense() * ours.scale, plain)


@given(SEEDS, st.integers(1, 5), st.sampled_from(VARIANTS))
@settings(max_examples=20, deadline=None)
def test_a_capped_rank_is_kept_at_the_experts_mean_norm(seed: int, rank: int, variant: Variant) -> None:
    experts = [drawn(seed + step, rank=3) for step in range(3)]
    norms = [update_norm(expert) for expert in experts]
    state = OPCMState()
    for count, expert in enumerate(experts, start=1):
        uncapped = merge_orthogonally(state, expert, alpha=0.5, variant=variant)
        state = merge_orthogonally(state, expert, alpha=0.5, variant=variant, rank=rank)
        assert all(factors.rank <= rank for factors in state.change.low_rank.values())
        assert update_norm(state.change) == pytest.approx(sum(norms[:count]) / count)
        whole, kept = (
            sum(float((thin_svd(f).s * each.scale).square().sum()) for f in each.change.low_rank.values())
            for each in (uncapped, state)
        )
        assert state.discarded == pytest.approx(1 - kept / whole, abs=1e-12)
        assert uncapped.discarded == 0


def zeros(update: Update) -> Update:
    low_rank = {name: LowRank(f.a, torch.zeros_like(f.b)) for name, f in update.low_rank.items()}
    return Update(low_rank, {name: torch.zeros_like(change) for name, change in update.dense.items()})


@pytest.mark.parametrize("variant", VARIANTS)
def test_experts_that_changed_nothing_leave_nothing_to_divide_by(variant: Variant) -> None:
    expert = drawn(0)
    nothing = zeros(expert)
    states = merged([nothing, nothing, expert], variant=variant)
    assert [state.scale for state in states[:2]] == [1.0, 1.0]
    assert update_norm(states[1].change) == 0
    check_same_layers(states[0].change, expert)  # the next step asks for the same layers
    for name, change in weight_changes(states[2].change).items():  # a third of the mean norm
        torch.testing.assert_close(change, weight_changes(expert)[name] / 3)
    second = merged([expert, nothing], variant=variant)[1]
    for name, change in weight_changes(second.change).items():
        torch.testing.assert_close(change, weight_changes(expert)[name] / 2)


def test_experts_that_cancel_out_leave_the_update_before() -> None:
    expert = drawn(0)
    opposite = Update(
        {name: f.scaled(-1) for name, f in expert.low_rank.items()}, {n: -change for n, change in expert.dense.items()}
    )
    first, second, third = merged([expert, opposite, expert], alpha=0.0, variant="release")
    assert second.change is first.change
    assert (second.scale, second.count) == (1.0, 2)
    torch.testing.assert_close(weight_changes(third.change), weight_changes(expert))


def test_a_layer_that_only_one_side_changes_is_added_as_it_is() -> None:
    tall, wide = drawn(0, shapes={"tall": (9, 5)}), drawn(1, shapes={"wide": (4, 8)})
    state = merged([tall, wide])[1]
    torch.testing.assert_close(state.change.low_rank["tall"].dense() * state.scale, tall.low_rank["tall"].dense())
    torch.testing.assert_close(state.change.low_rank["wide"].dense() * state.scale, wide.low_rank["wide"].dense())


def test_a_weight_with_both_kinds_of_change_counts_once_in_the_norm() -> None:
    experts = [drawn(step, shapes={"tall": (9, 5)}) for step in range(3)]
    experts = [Update(e.low_rank, {"tall.weight": e.low_rank["tall"].dense().flip(0)}) for e in experts]
    norms = [float(weight_changes(expert)["tall.weight"].norm()) for expert in experts]
    for count, state in enumerate(merged(experts), start=1):
        assert float(weight_changes(state.change)["tall.weight"].norm()) == pytest.approx(sum(norms[:count]) / count)


def test_dead_input_units_stay_dead() -> None:
    experts = [drawn(step) for step in range(3)]
    for expert in experts:
        expert.low_rank["wide"].a[:, :3] = 0
    dense = merged(experts)[-1].change.low_rank["wide"].dense()
    assert torch.isfinite(dense).all()
    assert dense[:, :3].abs().max() < 1e-14


def test_a_parameter_beside_modules_keeps_the_first_domains_value_over_each_scale() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    model.position = nn.Parameter(torch.zeros(3))
    model.add_module("inner", nn.Sequential(nn.Linear(2, 2)))
    assert parameters_beside_modules(model) == {"position"}
    state, experts, scales = OPCMState(), [drawn(step) for step in range(3)], 1.0
    for expert in experts:
        state = merge_orthogonally(state, expert, alpha=0.5, variant="supp", rescaled_only={"bias"})
        scales *= state.scale
        torch.testing.assert_close(state.change.dense["bias"], experts[0].dense["bias"] / scales)


def test_alpha_1_and_broken_factors_are_refused() -> None:
    with pytest.raises(CosamError, match=r"got alpha 1\.0"):
        merged([drawn(0)], alpha=1.0)
    broken = Update({"layer": LowRank(a=torch.ones(1, 3), b=torch.full((4, 1), math.inf))})
    with pytest.raises(CosamError, match="not finite"):
        merged([broken])
    assert split_rank(torch.zeros(3), alpha=0.5) == 0


def stream(method: OPCM, experts: list[Update]) -> tuple[OPCM, list[int]]:
    """The method after these experts, rebuilt from its state each time, and the states' bytes."""
    sizes = []
    for step, expert in enumerate(experts, start=1):
        method.served = method.merge(expert, None, step=step)  # type: ignore[arg-type]
        state = method.state()
        sizes.append(sum(tensor.nbytes for tensor in state.tensors.values()))
        method = OPCM(method.settings, method.bench)  # type: ignore[arg-type]
        method.load(State(dict(state.tensors), dict(state.values)))
    return method, sizes


class Bench:
    sam = nn.Linear(1, 1)


@pytest.mark.parametrize("rank", [None, 3])
def test_the_state_between_domains_is_enough_and_as_large_as_its_factors(rank: int | None) -> None:
    experts = [
        Update({n: LowRank(f.a.float(), f.b.float()) for n, f in drawn(step, rank=1).low_rank.items()})
        for step in range(5)
    ]
    method, sizes = stream(OPCM(OPCMSettings(rank=rank), Bench()), experts)  # type: ignore[arg-type]
    assert method.served is not None
    expected = merged(experts, rank=rank)[-1]
    for name, change in weight_changes(method.served).items():
        torch.testing.assert_close(change.double(), weight_changes(expected.change)[name], rtol=1e-4, atol=1e-5)
    a_rank = 4 * sum(m + n for m, n in SHAPES.values())
    ranks = [1, 2, 3, 3, 3] if rank else [1, 2, 3, 4, 5]
    assert sizes == [16 + sum(min(r, *shape) * 4 * sum(shape) for shape in SHAPES.values()) for r in ranks]
    assert sizes[0] == 16 + a_rank
    assert ("discarded_energy" in method.values) == bool(rank)
    assert numerical_rank(thin_svd(method.served.low_rank["tall"]).s, tolerance=1e-4) == min(ranks[-1], 5)


def best_of(count: int, act: Callable[[], Result]) -> tuple[Result, float]:
    """What it gives, and the seconds of its fastest run."""
    seconds = []
    for _ in range(count):
        start = time.perf_counter()
        result = act()
        seconds.append(time.perf_counter() - start)
    return result, min(seconds)


def test_thin_factors_are_a_hundred_times_faster_than_dense_matrices() -> None:
    shapes = {"qkv": (2304, 768)}
    experts = [replace(drawn(step, rank=8, shapes=shapes), dense={}) for step in range(3)]
    before = merged(experts[:2])[-1]
    dense, expert = weight_changes(before.change)["qkv.weight"], weight_changes(experts[2])["qkv.weight"]
    mean_norm = (before.norm_sum + update_norm(experts[2])) / 3

    def by_dense_matrices() -> Tensor:
        total, _ = dense_step(
            {"qkv": dense}, {"qkv": expert}, scale=before.scale, mean_norm=mean_norm, alpha=0.5, supp=True
        )
        return total["qkv"]

    def by_thin_factors() -> LowRank:
        return merge_orthogonally(before, experts[2], alpha=0.5, variant="supp").change.low_rank["qkv"]

    thin, thin_seconds = best_of(20, by_thin_factors)
    slow, slow_seconds = best_of(1, by_dense_matrices)
    relative = float((thin.dense() - slow).abs().max() / slow.abs().max())
    print(
        f"OPCM, 2304 x 768, rank 8, third domain: thin {1e3 * thin_seconds:.1f} ms, dense {slow_seconds:.2f} s, "
        f"{slow_seconds / thin_seconds:.0f} times; largest relative deviation {relative:.1e}"
    )
    assert relative < 1e-10
    assert slow_seconds > 100 * thin_seconds
