"""Thin factors against the dense products they stand for."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cosam_bench.core.errors import CosamError
from cosam_bench.merging.spectral import (
    compress,
    find_factors,
    frobenius_norm,
    joint_core,
    numerical_rank,
    rank_tolerance,
    thin_svd,
    update_norm,
)
from cosam_bench.merging.updates import LowRank, Update, as_factors, weight_changes

SIZES = st.integers(1, 9)
RANKS = st.integers(0, 12)  # also more factors than the matrix has rows, and none at all
SEEDS = st.integers(0, 10_000)


def factors(rows: int, columns: int, rank: int, *, seed: int = 0, dtype: torch.dtype = torch.float64) -> LowRank:
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn((rank, columns), generator=generator, dtype=torch.float64)
    return LowRank(a.to(dtype), torch.randn((rows, rank), generator=generator, dtype=torch.float64).to(dtype))


def turned(change: LowRank, *, seed: int = 0) -> LowRank:
    """The same product by other factors, (B R, R^-1 A)."""
    generator = torch.Generator().manual_seed(seed)
    turn = torch.randn((change.rank, change.rank), generator=generator, dtype=torch.float64)
    turn += 4 * torch.eye(change.rank, dtype=torch.float64)
    return LowRank(torch.linalg.solve(turn, change.a), change.b @ turn)


def close(ours: Tensor, theirs: Tensor, *, within: float = 1e-10) -> None:
    torch.testing.assert_close(ours, theirs, rtol=within, atol=within * max(1.0, float(theirs.norm())))


@given(SIZES, SIZES, RANKS, SEEDS)
@settings(max_examples=50, deadline=None)
def test_the_decomposition_is_the_dense_products_own(rows: int, columns: int, rank: int, seed: int) -> None:
    change = factors(rows, columns, rank, seed=seed)
    spectrum = thin_svd(change)
    count = min(rows, columns, rank)
    assert spectrum.s.shape == (count,)
    close(spectrum.s, torch.linalg.svdvals(change.dense())[:count])
    close(spectrum.factors(torch.float64).dense(), change.dense())
    for side in (spectrum.u, spectrum.v):
        close(side.T @ side, torch.eye(count, dtype=torch.float64))


@given(SIZES, SIZES, st.integers(1, 4), SEEDS)
@settings(max_examples=30, deadline=None)
def test_compressing_keeps_the_product_and_drops_repeated_factors(
    rows: int, columns: int, rank: int, seed: int
) -> None:
    once = factors(rows, columns, rank, seed=seed)
    twice = LowRank(torch.cat([once.a, once.a]), torch.cat([once.b, -3 * once.b], dim=1))
    thin = compress(twice)
    assert thin.rank == min(rows, columns, rank)
    close(thin.dense(), twice.dense())


def test_in_float32_what_cancels_out_but_for_rounding_leaves_no_factors() -> None:
    kept, gone = factors(30, 20, 3), factors(30, 20, 2, seed=1)
    back = turned(gone)
    change = LowRank(torch.cat([kept.a, gone.a, back.a]).float(), torch.cat([kept.b, gone.b, -back.b], dim=1).float())
    assert numerical_rank(thin_svd(change).s, tolerance=rank_tolerance(torch.float64)) > 3
    thin = compress(change)
    assert (thin.rank, thin.a.dtype) == (3, torch.float32)
    torch.testing.assert_close(thin.dense().double(), kept.dense(), rtol=1e-5, atol=1e-4)
    assert compress(change, tolerance=1e-10).rank > 3


def test_compressing_zero_leaves_no_factors() -> None:
    thin = compress(LowRank(a=torch.ones(4, 5), b=torch.zeros(3, 4)))
    assert (thin.rank, thin.a.shape, thin.b.shape) == (0, (0, 5), (3, 0))


@given(SIZES, SIZES, RANKS, SEEDS)
@settings(max_examples=50, deadline=None)
def test_a_norm_is_the_dense_products_own(rows: int, columns: int, rank: int, seed: int) -> None:
    first = factors(rows, columns, rank, seed=seed)
    assert frobenius_norm(first) == pytest.approx(float(first.dense().norm()), rel=1e-12, abs=1e-12)
    if rank:
        assert frobenius_norm(turned(first)) == pytest.approx(frobenius_norm(first), rel=1e-9)


def test_the_norm_of_what_cancels_is_zero_to_rounding() -> None:
    change = factors(40, 30, 4)
    nothing = LowRank(torch.cat([change.a, change.a]), torch.cat([change.b, -change.b], dim=1))
    # By way of the Gram matrices it would be the root of rounding, some 1e-7.
    assert frobenius_norm(nothing) < 1e-13 * frobenius_norm(change)


def test_the_norm_of_an_update_counts_a_weight_with_both_kinds_of_change_once() -> None:
    change, on_it, other = factors(4, 3, 2), torch.randn(4, 3), torch.randn(5)
    update = Update({"layer": change}, {"layer.weight": on_it.double(), "bias": other.double()})
    whole = torch.cat([weight.flatten() for weight in weight_changes(update).values()])
    assert update_norm(update) == pytest.approx(float(whole.norm()), rel=1e-12)
    assert update_norm(Update({"layer": change}, {"layer.weight": -change.dense()})) == pytest.approx(0, abs=1e-14)
    assert update_norm(Update()) == 0


@given(SIZES, SIZES, SEEDS)
@settings(max_examples=20, deadline=None)
def test_a_matrix_is_its_own_factors(rows: int, columns: int, seed: int) -> None:
    matrix = factors(rows, columns, 3, seed=seed).dense()
    change = as_factors(matrix)
    assert change.rank == min(rows, columns)
    assert torch.equal(change.dense(), matrix)


@given(SIZES, SIZES, RANKS, RANKS, SEEDS)
@settings(max_examples=50, deadline=None)
def test_the_joint_core_holds_both_changes(rows: int, columns: int, rank: int, other: int, seed: int) -> None:
    changes = factors(rows, columns, rank, seed=seed), factors(rows, columns, other, seed=seed + 1)
    core = joint_core(*changes)
    for change, part in zip(changes, (core.first, core.second), strict=True):
        close(core.left @ part @ core.right.T, change.dense())
    for side in (core.left, core.right):
        close(side.T @ side, torch.eye(side.shape[1], dtype=torch.float64))
    combined = 2 * core.first - core.second
    close(core.spectrum(combined).factors(torch.float64).dense(), 2 * changes[0].dense() - changes[1].dense())
    assert max(combined.shape) <= rank + other


def test_what_does_not_fit_or_is_not_finite_is_refused() -> None:
    with pytest.raises(CosamError, match="shapes"):
        joint_core(factors(4, 3, 2), factors(3, 4, 2))
    broken = LowRank(a=torch.full((1, 3), math.nan), b=torch.ones(4, 1))
    for act in (thin_svd, frobenius_norm, compress):
        with pytest.raises(CosamError, match="not finite"):
            act(broken)


@pytest.mark.parametrize(("rows", "columns", "rank"), [(300, 200, 20), (200, 300, 80), (400, 400, 0)])
def test_the_factors_of_a_product_are_found_again(rows: int, columns: int, rank: int) -> None:
    draws = torch.Generator().manual_seed(rank)
    factors = LowRank(torch.randn(rank, columns, generator=draws), torch.randn(rows, rank, generator=draws))
    product = factors.dense()
    found = find_factors(product, tolerance=1e-5)
    assert found.rank == 96
    torch.testing.assert_close(found.b.T @ found.b, torch.eye(96, dtype=torch.float64))
    torch.testing.assert_close(found.dense(), product.double(), rtol=0, atol=1e-4)  # what float32 rounded
    # compressed, they are what the decomposition of the whole matrix gives
    whole = torch.linalg.svdvals(product.double())
    compact = compress(found, tolerance=1e-5)
    assert compact.rank == rank
    torch.testing.assert_close(torch.linalg.svdvals(compact.dense())[:rank], whole[:rank])


def test_a_guess_that_is_too_low_is_doubled_and_a_full_rank_is_left_as_it_is() -> None:
    draws = torch.Generator().manual_seed(0)
    half = torch.randn(500, 150, generator=draws) @ torch.randn(150, 450, generator=draws)
    assert find_factors(half, tolerance=1e-5).rank == 192
    full = torch.randn(250, 220, generator=draws, dtype=torch.float64)
    assert find_factors(full, tolerance=1e-5).rank == 220
    assert torch.equal(find_factors(full, tolerance=1e-5).dense(), full)
    # noise of a share far above the tolerance must not be taken for rounding
    noisy = half + 1e-3 * torch.randn(500, 450, generator=draws)
    torch.testing.assert_close(find_factors(noisy, tolerance=1e-5).dense(), noisy.double())


def test_the_norm_does_not_depend_on_the_order_of_the_layers() -> None:
    draws = torch.Generator().manual_seed(0)
    layers = {
        f"layer{number}": LowRank(*(torch.randn(4, 4, generator=draws) for _ in range(2))) for number in range(40)
    }
    dense = {f"other{number}": torch.randn(3, 5, generator=draws) for number in range(40)}
    known = update_norm(Update(layers, dense))
    for seed in range(20):
        order = torch.randperm(40, generator=draws.manual_seed(seed)).tolist()
        shuffled = {f"layer{number}": layers[f"layer{number}"] for number in order}
        assert update_norm(Update(shuffled, {f"other{number}": dense[f"other{number}"] for number in order})) == known
