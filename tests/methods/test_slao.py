"""SLAO against its formulas by hand, over a stream of small domains."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cosam_bench.merging.scale import ServedScale
from cosam_bench.merging.updates import LowRank, Update
from cosam_bench.method.trial import TRIAL_ADAPTER, trial_domain, trial_split, trial_workbench
from cosam_bench.method.workbench import Workbench
from cosam_bench.methods.slao import SLAO, merge_factors, orthonormal_rows
from cosam_bench.training.fit import Fitted


@given(st.integers(0, 999))
@settings(max_examples=20, deadline=None)
def test_orthonormal_rows_are_those_of_gram_and_schmidt(seed: int) -> None:
    a = torch.randn(3, 7, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    rows: list[Tensor] = []
    for row in a:
        rest = row - sum(((row @ other) * other for other in rows), torch.zeros(7, dtype=torch.float64))
        rows.append(rest / rest.norm())
    torch.testing.assert_close(orthonormal_rows(a), torch.stack(rows), rtol=1e-8, atol=1e-8)


def test_rows_that_are_orthonormal_stay() -> None:
    a = torch.tensor([[0.0, -1.0, 0.0], [0.6, 0.0, 0.8]])
    torch.testing.assert_close(orthonormal_rows(a), a)
    assert torch.isfinite(orthonormal_rows(torch.zeros(2, 3))).all()


def test_merging_takes_the_new_a_and_moves_b() -> None:
    old = Update({"layer": LowRank(torch.ones(1, 2), torch.tensor([[4.0], [0.0]]))}, {"bias": torch.tensor([1.0])})
    new = Update({"layer": LowRank(2 * torch.ones(1, 2), torch.tensor([[0.0], [8.0]]))}, {"bias": torch.tensor([5.0])})
    merged = merge_factors(old, new, weight=0.25)
    assert merged.low_rank["layer"].a.tolist() == [[2.0, 2.0]]
    assert merged.low_rank["layer"].b.tolist() == [[3.0], [2.0]]
    assert merged.dense["bias"].tolist() == [2.0]
    whole = merge_factors(old, new, weight=1.0)
    assert whole.digest() == new.digest()


@pytest.fixture(scope="module")
def trained() -> tuple[list[Update | None], list[Update], list[Update], list[int]]:
    """Each training's start and end, what was served, and the states' bytes, with a rebuilt method per domain."""
    starts, experts, served, sizes = [], [], [], []
    bench = trial_workbench(adapter=TRIAL_ADAPTER, batch_size=2)
    plain = Workbench.train

    def watched(self: Workbench, *arguments: object, **options: object) -> Fitted:
        fitted = plain(self, *arguments, **options)  # type: ignore[arg-type]
        starts.append(options["start"])
        experts.append(fitted.update)
        return fitted

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Workbench, "train", watched)
        method = SLAO(ServedScale(), bench)
        for step in (1, 2, 3):
            domain = trial_domain(trial_split(f"domain {step}", shift=step))
            method.learn(domain, step=step)
            domain.close()
            assert method.served is not None
            served.append(method.served)
            state = method.state()
            sizes.append(sum(tensor.nbytes for tensor in state.tensors.values()))
            method = SLAO(ServedScale(), bench)
            method.load(state)
    return starts, experts, served, sizes  # type: ignore[return-value]


def test_each_training_starts_from_the_last_ones_factors(
    trained: tuple[list[Update | None], list[Update], list[Update], list[int]],
) -> None:
    starts, experts, _, _ = trained
    assert starts[0] is None
    for start, before in zip(starts[1:], experts, strict=False):
        assert start is not None
        for layer, factors in before.low_rank.items():
            assert torch.equal(start.low_rank[layer].b, factors.b)
            assert torch.equal(start.low_rank[layer].a, orthonormal_rows(factors.a))


def test_the_served_adapter_follows_the_rule_with_a_constant_state(
    trained: tuple[list[Update | None], list[Update], list[Update], list[int]],
) -> None:
    _, experts, served, sizes = trained
    assert served[0].digest() == experts[0].digest()
    for step, ((before, after), expert) in enumerate(zip(pairwise(served), experts[1:], strict=True), start=2):
        for layer, factors in expert.low_rank.items():
            assert torch.equal(after.low_rank[layer].a, factors.a)
            b = before.low_rank[layer].b
            expected = b + (factors.b - b) / math.sqrt(step)
            torch.testing.assert_close(after.low_rank[layer].b, expected, rtol=1e-5, atol=1e-7)
    assert len(set(sizes)) == 1
