"""PCB-Merging's competition against the published formula on all experts at once."""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cosam_bench.core.errors import CosamError
from cosam_bench.merging.updates import LowRank, Update, weight_changes
from cosam_bench.methods.pcb import merge_by_competition

Source: TypeAlias = Literal["top", "vision"]
SOURCES: tuple[Source, ...] = get_args(Source)
SHAPES = {"wide": (6, 9), "tall": (30, 25)}


def draw_experts(count: int, seed: int, *, rank: int = 2, dtype: torch.dtype = torch.float64) -> list[Update]:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=dtype)

    return [
        Update({name: LowRank(draw(rank, n), draw(m, rank)) for name, (m, n) in SHAPES.items()}, {"bias": draw(4)})
        for _ in range(count)
    ]


def pcb(experts: list[Update], source: Source = "vision") -> dict[str, Tensor]:
    return merge_by_competition(experts, ratio=0.1, scale=1.2, source=source)


def competition_of_all(rows: np.ndarray, *, ratio: float, scale: float, source: str) -> np.ndarray:
    """PCB as it is printed: every row sorted, all rows at once."""
    tasks, count = rows.shape
    share = 1e-4 if source == "top" else 0.01
    magnitudes = np.sort(np.abs(rows), axis=1)
    low, high = magnitudes[:, [int(count * share)]], magnitudes[:, [int(count * (1 - share) - 1)]]
    clipped = np.clip(np.abs(rows), low, high)
    unit = (clipped - clipped.min(1, keepdims=True)) / np.ptp(clipped, axis=1, keepdims=True)
    pull = rows.sum(0) if source == "top" else (np.sign(rows) * unit).sum(0)
    balance = np.exp(tasks * unit**2) * np.tanh(rows * pull)
    balance = np.maximum(balance, np.sort(balance, axis=1)[:, [int(count * (1 - ratio))]])
    weights = (balance - balance.min(1, keepdims=True)) / np.ptp(balance, axis=1, keepdims=True)
    return scale * (np.sign(rows) * clipped * weights).sum(0) / np.maximum(weights.sum(0), 1e-12)


@pytest.mark.parametrize("source", SOURCES)
@given(st.integers(1, 6), st.sampled_from([0.05, 0.1, 0.5]), st.integers(0, 999))
@settings(max_examples=15, deadline=None)
def test_one_row_at_a_time_gives_the_competition_of_all(source: Source, count: int, ratio: float, seed: int) -> None:
    experts = draw_experts(count, seed)
    merged = merge_by_competition(experts, ratio=ratio, scale=1.2, source=source)
    names = sorted(merged)
    rows = np.stack([torch.cat([weight_changes(one)[name].flatten() for name in names]).numpy() for one in experts])
    ours = torch.cat([merged[name].flatten() for name in names]).numpy()
    theirs = competition_of_all(rows, ratio=ratio, scale=1.2, source=source)
    np.testing.assert_allclose(ours, theirs, rtol=1e-8, atol=1e-10)


def test_one_expert_keeps_its_largest_entries() -> None:
    (expert,) = draw_experts(1, 3)
    merged, change = pcb([expert])["tall.weight"], weight_changes(expert)["tall.weight"]
    kept = merged != 0
    assert 0.05 < kept.float().mean() < 0.2
    assert change[kept].abs().min() > change[~kept].abs().max()
    assert (merged[kept].sign() == change[kept].sign()).all()


@pytest.mark.parametrize("source", SOURCES)
def test_many_experts_do_not_overflow(source: Source) -> None:
    merged = pcb(draw_experts(100, 4, dtype=torch.float32), source)
    assert all(change.isfinite().all() for change in merged.values())
    assert merged["tall.weight"].any()


def drawn(count: int, *, shape: tuple[int, int] = (90, 200), scale: float = 1.0) -> list[dict[str, Tensor]]:
    draws = torch.Generator().manual_seed(count)
    return [
        {name: scale * torch.randn(shape, generator=draws).pow(3) for name in ("late", "early")} for _ in range(count)
    ]


def slow_competition(experts: list[dict[str, Tensor]], *, ratio: float, source: Source) -> Tensor:
    """All experts flat at once, each quantile by a sort: the published code's way."""
    q = 1e-4 if source == "top" else 0.01
    flat = [torch.cat([expert["early"].flatten(), expert["late"].flatten()]) for expert in experts]
    count = len(flat[0])

    def clipped(values: Tensor, below: float, above: float) -> Tensor:
        ordered = values.sort().values
        return values.clamp(ordered[min(int(count * below), count - 1)], ordered[int(count * (1 - above) - 1)])

    def unit(values: Tensor) -> Tensor:
        low, high = values.aminmax()
        return (values - low) / (high - low) if high > low else torch.zeros_like(values)

    magnitudes = [clipped(entries.abs(), q, q) for entries in flat]
    pull = torch.zeros(count)
    for entries, sizes in zip(flat, magnitudes, strict=True):
        pull = pull + (entries.sign() * unit(sizes) if source == "vision" else entries)
    weighted, weights = torch.zeros(count), torch.zeros(count)
    for entries, sizes in zip(flat, magnitudes, strict=True):
        balance = (len(flat) * (unit(sizes).square() - 1)).exp() * (entries * pull).tanh()
        weight = unit(clipped(balance, 1 - ratio, 0))
        weighted, weights = weighted + entries.sign() * sizes * weight, weights + weight
    return 1.2 * weighted / weights.clamp(min=1e-12)


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize(("count", "ratio", "scale"), [(1, 0.1, 1.0), (3, 0.1, 0.01), (4, 0.05, 1.0), (3, 0.9, 1.0)])
def test_the_competition_is_bit_for_bit_that_of_all_entries_at_once(
    count: int, ratio: float, scale: float, source: Source
) -> None:
    experts = drawn(count, scale=scale)
    found = merge_by_competition([Update(dense=expert) for expert in experts], ratio=ratio, scale=1.2, source=source)
    flat = torch.cat([found["early"].flatten(), found["late"].flatten()])
    assert torch.equal(flat, slow_competition(experts, ratio=ratio, source=source))


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_change_that_is_not_finite_is_refused(value: float, source: Source) -> None:
    experts = drawn(2)
    experts[1]["late"][3, 4] = value
    with pytest.raises(CosamError, match="not finite"):
        merge_by_competition([Update(dense=expert) for expert in experts], ratio=0.1, scale=1.0, source=source)


def test_changes_whose_sum_overflows_are_refused() -> None:
    experts = drawn(2)
    for expert in experts:
        expert["late"][3, 4] = 3e38
    with pytest.raises(CosamError, match="sum of the experts' changes is not finite"):
        merge_by_competition([Update(dense=expert) for expert in experts], ratio=0.1, scale=1.0, source="top")
