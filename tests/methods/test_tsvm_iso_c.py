"""TSV-Merge and Iso-C against dense decompositions of their released rules, and on experts of low rank."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cosam_bench.core.errors import CosamError
from cosam_bench.merging.updates import LowRank, Update, as_factors, weight_changes
from cosam_bench.method.interface import State
from cosam_bench.methods.iso_c import IsoC, IsoCSettings, isotropic
from cosam_bench.methods.tsvm import merge_singular_vectors, nearest_orthonormal, sum_along_orthogonal_vectors

SEEDS = st.integers(0, 10_000)


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def thin(seed: int, *, rank: int = 2, shape: tuple[int, int] = (6, 9)) -> LowRank:
    return LowRank(drawn(rank, shape[1], seed=2 * seed), drawn(shape[0], rank, seed=2 * seed + 1))


def experts(count: int, *, dtype: torch.dtype = torch.float64) -> list[Update]:
    return [
        Update({"layer": thin(seed).to(dtype)}, {"bias": drawn(4, seed=100 + seed).to(dtype)}) for seed in range(count)
    ]


def polar(matrix: Tensor) -> Tensor:
    """The nearest orthonormal columns by Newton's iteration: no singular value decomposition."""
    q, nearest = torch.linalg.qr(matrix)
    for _ in range(60):
        nearest = (nearest + torch.linalg.inv(nearest).T) / 2
    return q @ nearest


def released_tsvm(changes: Sequence[Tensor]) -> Tensor:
    """The published rule on changes of full rank, dense."""
    kept = min(changes[0].shape) // len(changes)
    parts = [torch.linalg.svd(change, full_matrices=False) for change in changes]
    left = torch.cat([u[:, :kept] for u, _, _ in parts], dim=1)
    right = torch.cat([vh[:kept].T for _, _, vh in parts], dim=1)
    values = torch.cat([s[:kept] for _, s, _ in parts])
    return polar(left) @ torch.diag(values) @ polar(right).T


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("shape", [(8, 6), (6, 9)])
def test_tsvm_is_the_released_rule_on_changes_of_full_rank(count: int, shape: tuple[int, int]) -> None:
    changes = [drawn(*shape, seed=seed) for seed in range(count)]
    ours = sum_along_orthogonal_vectors([as_factors(change) for change in changes]).dense()
    torch.testing.assert_close(ours, released_tsvm(changes), rtol=1e-8, atol=1e-8)


def test_tsvm_cuts_nothing_off_while_the_ranks_fit() -> None:
    merged = sum_along_orthogonal_vectors([thin(seed) for seed in range(3)])
    every = torch.cat([torch.linalg.svdvals(thin(seed).dense())[:2] for seed in range(3)])
    assert merged.rank == 6
    torch.testing.assert_close(torch.linalg.svdvals(merged.dense()), every.sort(descending=True).values)
    assert sum_along_orthogonal_vectors([thin(seed) for seed in range(4)]).rank == 4  # floor(6 / 4) each


@given(SEEDS, st.integers(1, 3))
@settings(max_examples=20, deadline=None)
def test_tsvm_returns_equal_experts_and_adds_up_orthogonal_ones(seed: int, count: int) -> None:
    change = thin(seed)
    torch.testing.assert_close(sum_along_orthogonal_vectors([change] * count).dense(), change.dense())
    apart = [
        LowRank(
            torch.zeros(1, 9).double().index_fill(1, torch.tensor(i), 1), torch.eye(6)[:, i : i + 1].double() * (i + 2)
        )
        for i in range(3)
    ]
    torch.testing.assert_close(
        sum_along_orthogonal_vectors(apart).dense(), torch.stack([one.dense() for one in apart]).sum(0)
    )


@given(st.permutations(range(3)))
@settings(max_examples=6, deadline=None)
def test_the_order_does_not_matter_to_tsvm(order: list[int]) -> None:
    ours, others = (
        weight_changes(merge_singular_vectors(chosen, scale=0.5))
        for chosen in (experts(3), [experts(3)[place] for place in order])
    )
    for name, change in ours.items():
        torch.testing.assert_close(change, others[name])


def test_tsvm_averages_other_parameters() -> None:
    chosen = experts(3)
    merged = merge_singular_vectors(chosen, scale=0.5)
    torch.testing.assert_close(merged.dense["bias"], 0.5 * sum(one.dense["bias"] for one in chosen) / 3)
    with pytest.raises(CosamError, match="do not fit each other: at 'bias'"):
        merge_singular_vectors([chosen[0], Update(chosen[1].low_rank)], scale=1.0)


def test_the_nearest_orthonormal_matrix_leaves_out_what_is_missing() -> None:
    column = torch.tensor([[3.0], [4.0]], dtype=torch.float64)
    nearest = nearest_orthonormal(torch.cat([column, column], dim=1), tolerance=1e-10)
    torch.testing.assert_close(nearest, torch.cat([column, column], dim=1) / (5 * 2**0.5))


def stream(changes: Sequence[Update], **options: float) -> list[Update]:
    """What Iso-C serves after each expert, rebuilt from its state in between."""
    method, served = IsoC(IsoCSettings(**options), SimpleNamespace()), []  # type: ignore[arg-type]
    for step, expert in enumerate(changes, start=1):
        method.served = method.merge(expert, SimpleNamespace(), step=step)  # type: ignore[arg-type]
        served.append(method.served)
        state = method.state()
        method = IsoC(method.settings, SimpleNamespace())  # type: ignore[arg-type]
        method.load(State(dict(state.tensors), dict(state.values)))
    return served


def test_iso_c_is_the_released_rule_on_a_sum_of_full_rank() -> None:
    chosen = experts(4)  # 4 experts of rank 2 fill a layer of 6 rows
    served = stream(chosen, scale=0.7)[-1]
    total = sum(one.low_rank["layer"].dense() for one in chosen)
    u, s, vh = torch.linalg.svd(total, full_matrices=False)
    torch.testing.assert_close(served.low_rank["layer"].dense(), 0.7 * s.mean() * u @ vh)
    torch.testing.assert_close(served.dense["bias"], 0.7 * sum(one.dense["bias"] for one in chosen) / 4)


@given(SEEDS, st.integers(1, 5))
@settings(max_examples=20, deadline=None)
def test_iso_c_makes_singular_values_equal_within_the_rank(seed: int, rank: int) -> None:
    change = thin(seed, rank=rank)
    flat = isotropic(LowRank(torch.cat([change.a, change.a]), torch.cat([change.b, change.b], dim=1)))
    before, after = (torch.linalg.svdvals(one) for one in (2 * change.dense(), flat.dense()))
    assert flat.rank == rank
    torch.testing.assert_close(after[:rank], before[:rank].mean().expand(rank))
    assert after[rank:].abs().max() < 1e-9
    # It is the nearest such change: its inner product with the change is the sum of the singular values.
    torch.testing.assert_close((flat.dense() * 2 * change.dense()).sum(), before.sum() * before[:rank].mean())


def test_iso_c_keeps_no_more_factors_than_a_layer_needs() -> None:
    ranks = [update.low_rank["layer"].rank for update in stream(experts(5, dtype=torch.float32))]
    assert ranks == [2, 4, 6, 6, 6]


def test_iso_c_serves_nothing_for_experts_that_change_nothing() -> None:
    zero = LowRank(torch.ones(2, 9), torch.zeros(6, 2))
    served = stream([Update({"layer": zero})] * 2)[-1].low_rank["layer"]
    assert served.rank == 0
    assert served.dense().shape == (6, 9)


def test_iso_c_refuses_experts_of_other_layers() -> None:
    one, other = experts(2)
    with pytest.raises(CosamError, match="do not fit each other: at 'bias'"):
        stream([one, Update(other.low_rank)])
