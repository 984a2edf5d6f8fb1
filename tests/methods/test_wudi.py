"""WUDI-Merging against a plain version that keeps all experts and differentiates the published loss."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cosam_bench.core.errors import CosamError
from cosam_bench.merging.updates import LowRank, Update, weight_changes
from cosam_bench.method.interface import State
from cosam_bench.methods.wudi import WUDI, WUDISettings

LAYER = "layer.weight"


def expert(seed: int, *, rank: int = 2, dtype: torch.dtype = torch.float64) -> Update:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    return Update({"layer": LowRank(draw(rank, 9), draw(6, rank))}, {"bias": draw(4)})


def stream(changes: Sequence[Update], **options: Any) -> tuple[list[dict[str, Tensor]], list[int]]:
    """What is served after each expert by methods rebuilt from their states, and the states' bytes."""
    method, served, sizes = WUDI(WUDISettings(**options), SimpleNamespace()), [], []  # type: ignore[arg-type]
    for step, one in enumerate(changes, start=1):
        method.served = method.merge(one, SimpleNamespace(), step=step)  # type: ignore[arg-type]
        served.append(weight_changes(method.served))
        state = method.state()
        sizes.append(sum(tensor.nbytes for tensor in state.tensors.values()))
        method = WUDI(method.settings, SimpleNamespace())  # type: ignore[arg-type]
        method.load(State(dict(state.tensors), dict(state.values)))
    return served, sizes


def published_loss(merged: Tensor, changes: Sequence[Tensor]) -> Tensor:
    terms = [((merged - change) @ change.T).square().sum() / change.square().sum() for change in changes]
    return torch.stack(terms).sum()


def dense(changes: Sequence[Update]) -> list[Tensor]:
    return [weight_changes(one)[LAYER] for one in changes]


@pytest.mark.parametrize("count", [2, 4])
def test_adam_takes_the_published_steps(count: int) -> None:
    changes = [expert(seed) for seed in range(count)]
    merged = torch.nn.Parameter(torch.stack(dense(changes)).sum(0))
    optimiser = torch.optim.Adam([merged], lr=0.01)
    for _ in range(40):
        optimiser.zero_grad()
        published_loss(merged, dense(changes)).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    ours = stream(changes, steps=40, learning_rate=0.01)[0][-1]
    torch.testing.assert_close(ours[LAYER], merged.detach(), rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(ours["bias"], torch.stack([one.dense["bias"] for one in changes]).mean(0))


@given(st.integers(0, 999), st.integers(2, 6))
@settings(max_examples=15, deadline=None)
def test_the_closed_solution_is_the_least_squares_one(seed: int, count: int) -> None:
    changes = [expert(seed + number) for number in range(count)]
    ours = stream(changes, solver="closed")[0][-1][LAYER]
    # Each expert's rows, divided by its norm, are the equations M x = tau x for its x.
    inputs = torch.cat([change / change.norm() for change in dense(changes)])
    answers = torch.cat([change @ (change / change.norm()).T for change in dense(changes)], dim=1)
    expected = torch.linalg.lstsq(inputs, answers.T, driver="gelsd").solution.T
    torch.testing.assert_close(ours, expected, rtol=1e-6, atol=1e-6)


def test_adam_comes_to_the_closed_solution() -> None:
    changes = [expert(seed) for seed in range(3)]
    closed = stream(changes, solver="closed")[0][-1][LAYER]
    by_steps = [stream(changes, steps=steps, learning_rate=0.01)[0][-1][LAYER] for steps in (1, 100, 1500)]
    losses = [float(published_loss(merged, dense(changes))) for merged in (*by_steps, closed)]
    assert all(later < earlier for earlier, later in pairwise(losses))
    assert losses[2] < losses[3] + 1e-3 * losses[0]


def test_experts_that_read_other_inputs_are_all_kept() -> None:
    apart = [Update({"layer": LowRank(torch.eye(9)[i : i + 1], torch.ones(6, 1) * (i + 1))}) for i in range(3)]
    ours = stream(apart, solver="closed")[0][-1][LAYER]
    torch.testing.assert_close(ours, torch.stack(dense(apart)).sum(0))
    torch.testing.assert_close(stream(apart)[0][-1][LAYER], ours)  # the sum is the minimum, which Adam does not leave


def test_equal_experts_come_back_and_an_empty_one_counts_for_nothing() -> None:
    one = expert(0, dtype=torch.float32)
    zero = Update({"layer": LowRank(one.low_rank["layer"].a, torch.zeros(6, 2))}, one.dense)
    for solver in ("adam", "closed"):
        assert torch.equal(stream([one], solver=solver)[0][0][LAYER], weight_changes(one)[LAYER])
        assert torch.isfinite(stream([zero, zero, one], solver=solver)[0][-1][LAYER]).all()
    for changes in ([one, one, one], [one, zero], [zero, one]):
        served = stream(changes, solver="closed")[0][-1]
        torch.testing.assert_close(served[LAYER], weight_changes(one)[LAYER], rtol=1e-4, atol=1e-5)
    assert not stream([zero, zero], solver="closed")[0][-1][LAYER].any()


def test_neither_the_order_nor_the_number_of_experts_changes_the_state() -> None:
    changes = [expert(seed) for seed in range(5)]
    served, sizes = stream(changes, solver="closed")
    torch.testing.assert_close(stream(changes[::-1], solver="closed")[0][-1][LAYER], served[-1][LAYER])
    assert len(set(sizes)) == 1


def test_experts_of_other_layers_are_refused() -> None:
    with pytest.raises(CosamError, match="do not fit each other: at 'bias'"):
        stream([expert(0), Update(expert(1).low_rank)])
