"""NUFILT against a dense version of the released rule, and what its two losses do."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from cosam_bench.core.errors import CosamError
from cosam_bench.core.seeds import torch_generator
from cosam_bench.merging.updates import LowRank, Update
from cosam_bench.method.interface import State
from cosam_bench.methods.nufilt import Nufilt, NufiltSettings, SurrogateLoss
from cosam_bench.methods.nullfilter import filter_change

BENCH: Any = SimpleNamespace(generator=lambda *names: torch_generator(3, *names))


def drawn(seed: int, *, rank: int = 2, rows: int = 6, columns: int = 8) -> LowRank:
    generator = torch.Generator().manual_seed(seed)
    return LowRank(
        torch.randn((rank, columns), generator=generator, dtype=torch.float64),
        torch.randn((rows, rank), generator=generator, dtype=torch.float64),
    )


def released(
    change: Tensor, merged: Tensor, first: Tensor, *, ranks: tuple[int, int], steps: int, rate: float
) -> Tensor:
    """The change that is added, from dense matrices and the losses as they are published."""
    v, u = (torch.linalg.svd(matrix)[2][:rank].T for matrix, rank in zip((merged, change), ranks, strict=True))
    filtered = change @ (torch.eye(len(v), dtype=torch.float64) - v @ v.T)
    d, c = torch.nn.Parameter(first.clone()), torch.nn.Parameter(torch.zeros(first.shape[::-1], dtype=torch.float64))
    optimiser = torch.optim.Adam([d, c], lr=rate)
    for _ in range(steps):
        optimiser.zero_grad()
        after = merged + filtered + change @ c @ d
        loss = ((change - after) @ u).square().sum() + ((merged - after) @ v).square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return (filtered + change @ c @ d).detach()


@pytest.mark.parametrize("ranks", [(3, 2), (2, 1)])
@pytest.mark.parametrize("shape", [(6, 8), (9, 5)])
def test_the_factors_are_adapted_as_the_dense_change_would_be(ranks: tuple[int, int], shape: tuple[int, int]) -> None:
    change, merged = drawn(0, rows=shape[0], columns=shape[1]), drawn(1, rank=3, rows=shape[0], columns=shape[1])
    first = 0.02 * torch.randn(4, shape[1], generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    loss = SurrogateLoss.of(change, merged, null_rank=ranks[0], task_rank=ranks[1])
    ours = loss.adapted(change, first=first, steps=30, learning_rate=0.01)
    expected = released(change.dense(), merged.dense(), first, ranks=ranks, steps=30, rate=0.01)
    torch.testing.assert_close(ours.dense(), expected, rtol=1e-7, atol=1e-8)
    assert ours.b is change.b
    filtered = filter_change(change, merged, rank=ranks[0]).dense()
    assert (expected - filtered).abs().max() > 0.01  # the adapter does something


def test_training_brings_both_surrogates_nearer() -> None:
    change, merged = drawn(0, rows=12, columns=16), drawn(1, rank=3, rows=12, columns=16)
    loss = SurrogateLoss.of(change, merged, null_rank=3, task_rank=2)
    first = 0.02 * torch.randn(8, 16, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    added = loss.adapted(change, first=first, steps=1500, learning_rate=0.01).dense()
    own = change.dense() @ loss.task - (merged.dense() + added) @ loss.task
    filtered = filter_change(change, merged, rank=3).dense()
    before = change.dense() @ loss.task - (merged.dense() + filtered) @ loss.task
    columns = torch.linalg.qr(change.b).Q  # it reaches only the columns of the expert's own change
    assert (columns.T @ own).norm() < 0.05 * (columns.T @ before).norm()
    assert (added @ loss.null).norm() < 0.05 * (change.dense() @ loss.null).norm()


def stream(changes: Sequence[Update], **options: Any) -> list[LowRank]:
    """What is served after each expert, by methods rebuilt from their states."""
    method, served = Nufilt(NufiltSettings(**options), BENCH), []
    for step, expert in enumerate(changes, start=1):
        method.served = method.merge(expert, SimpleNamespace(), step=step)  # type: ignore[arg-type]
        served.append(method.served.low_rank["layer"])
        state = method.state()
        method = Nufilt(method.settings, BENCH)
        method.load(State(dict(state.tensors), dict(state.values)))
    return served


def experts(count: int) -> list[Update]:
    return [Update({"layer": drawn(seed).to(torch.float32)}, {"bias": torch.ones(3)}) for seed in range(count)]


def test_a_stream_grows_by_one_adapters_rank() -> None:
    served = stream(experts(3))
    assert [factors.rank for factors in served] == [2, 4, 6]
    assert torch.equal(served[0].dense(), experts(1)[0].low_rank["layer"].dense())
    assert torch.equal(served[2].a[:4], served[1].a)
    assert torch.equal(served[2].a, stream(experts(3))[2].a)


def test_with_no_time_to_train_it_is_the_filter() -> None:
    one, other = experts(2)
    barely = stream([one, other], steps=1, learning_rate=1e-12)[1]
    filtered = filter_change(other.low_rank["layer"], one.low_rank["layer"], rank=128)
    torch.testing.assert_close(barely.a[2:], filtered.a)


def test_degenerate_experts_stay_finite() -> None:
    one = experts(1)[0]
    zero = Update({"layer": LowRank(one.low_rank["layer"].a, torch.zeros(6, 2))})
    for changes in ([zero, one], [one, zero], [one, one], [zero, zero]):
        assert torch.isfinite(stream(changes)[1].dense()).all()
    with pytest.raises(CosamError, match="do not fit each other"):
        stream([one, Update()])
