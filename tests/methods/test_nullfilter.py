"""The null-space filter against dense projections, and what it promises."""

from __future__ import annotations

from itertools import pairwise

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cosam_bench.merging.updates import LowRank, Update
from cosam_bench.method.interface import State
from cosam_bench.methods.nullfilter import NullFilter, NullFilterSettings, filter_change

SEEDS = st.integers(0, 10_000)
RANKS = st.integers(1, 4)


def drawn(seed: int, rank: int = 2, rows: int = 6, columns: int = 8) -> LowRank:
    generator = torch.Generator().manual_seed(seed)
    return LowRank(
        torch.randn((rank, columns), generator=generator, dtype=torch.float64),
        torch.randn((rows, rank), generator=generator, dtype=torch.float64),
    )


@given(SEEDS, RANKS, RANKS, st.integers(1, 5) | st.none())
@settings(max_examples=40, deadline=None)
def test_the_factors_are_filtered_as_the_dense_change_would_be(
    seed: int, rank: int, other: int, kept: int | None
) -> None:
    change, merged = drawn(seed, rank), drawn(seed + 1, other)
    _, _, vh = torch.linalg.svd(merged.dense())
    v = vh[: other if kept is None else min(kept, other)].T
    expected = change.dense() @ (torch.eye(8, dtype=torch.float64) - v @ v.T)
    filtered = filter_change(change, merged, rank=kept)
    torch.testing.assert_close(filtered.dense(), expected, rtol=1e-9, atol=1e-10)
    assert filtered.rank == rank
    assert filtered.b is change.b


@given(SEEDS)
@settings(max_examples=20, deadline=None)
def test_the_split_of_a_change_into_factors_does_not_matter(seed: int) -> None:
    change, merged = drawn(seed), drawn(seed + 1)
    turn = torch.tensor([[2.0, 1.0], [0.0, -1.0]], dtype=torch.float64)
    others = (LowRank(torch.linalg.solve(turn, each.a), each.b @ turn) for each in (change, merged))
    torch.testing.assert_close(filter_change(*others).dense(), filter_change(change, merged).dense())


def test_degenerate_changes_stay_finite() -> None:
    change, zero = drawn(0), LowRank(torch.ones(2, 8).double(), torch.zeros(6, 2).double())
    torch.testing.assert_close(filter_change(change, zero).dense(), change.dense())
    assert not filter_change(zero, change).dense().any()
    assert filter_change(change, change).dense().abs().max() < 1e-13
    # Of a repeated direction only one is counted, and rounding beside it not at all.
    twice = LowRank(torch.cat([change.a, change.a]), torch.cat([change.b, change.b], dim=1))
    torch.testing.assert_close(filter_change(drawn(1), twice).a, filter_change(drawn(1), change).a)


def experts(count: int, *, rows: int = 6) -> list[Update]:
    changes = [drawn(step, rows=rows) for step in range(count)]
    return [
        Update({"layer": LowRank(change.a.float(), change.b.float())}, {"bias": torch.ones(3)}) for change in changes
    ]


def stream(changes: list[Update], **options: object) -> tuple[list[LowRank], list[int]]:
    """What is served after each expert, by methods rebuilt from their states, and the states' bytes."""
    method, served, sizes = NullFilter(NullFilterSettings(**options), None), [], []  # type: ignore[arg-type]
    for step, expert in enumerate(changes, start=1):
        method.served = method.merge(expert, None, step=step)  # type: ignore[arg-type]
        assert not method.served.dense  # other parameters stay at the base
        served.append(method.served.low_rank["layer"])
        state = method.state()
        sizes.append(sum(tensor.nbytes for tensor in state.tensors.values()))
        method = NullFilter(method.settings, None)  # type: ignore[arg-type]
        method.load(State(dict(state.tensors), dict(state.values)))
    return served, sizes


def test_inputs_that_were_read_before_are_answered_as_before() -> None:
    changes = experts(3)
    served, sizes = stream(changes)
    torch.testing.assert_close(served[0].dense(), changes[0].low_rank["layer"].dense())
    for before, after in pairwise(served):
        torch.testing.assert_close(after.dense() @ before.a.T, before.dense() @ before.a.T, rtol=1e-4, atol=1e-4)
    inner = served[-1].a @ served[-1].a.T
    for row in range(6):  # the experts' rows are orthogonal to one another's
        others = [column for column in range(6) if column // 2 != row // 2]
        assert inner[row, others].abs().max() < 1e-5
    assert [factors.rank for factors in served] == [2, 4, 6]
    assert sizes == [4 * 14 * rank for rank in (2, 4, 6)]


def test_a_layer_that_reads_all_its_inputs_takes_up_nothing_more() -> None:
    served, _ = stream(experts(6, rows=9))
    torch.testing.assert_close(served[5].dense(), served[3].dense(), rtol=1e-4, atol=1e-4)


def test_a_lower_rank_leaves_later_experts_more() -> None:
    changes = experts(2)
    left = [(stream(changes, rank=rank)[0][1].dense() - changes[0].low_rank["layer"].dense()).norm() for rank in (1, 2)]
    assert left[0] > left[1] > 0
    by_default, of_all = (stream(changes, **options)[0][1].dense() for options in ({}, {"rank": None}))
    assert torch.equal(by_default, of_all)


def test_the_order_matters() -> None:
    changes = experts(2)
    one, other = (stream(order)[0][1].dense() for order in (changes, changes[::-1]))
    assert (one - other).abs().max() > 0.1
