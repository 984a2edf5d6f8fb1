"""Order statistics from passes over parts, and the competition that is built on them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cosam_bench.core.errors import CosamError
from cosam_bench.merging import competition
from cosam_bench.merging import order_statistics as selection
from cosam_bench.merging.competition import Competition
from cosam_bench.merging.order_statistics import order_statistics, sort_places
from cosam_bench.merging.sign_election import trim


def parts(kind: str, seed: int, *, count: int = 30_000) -> list[Tensor]:
    draws = torch.Generator().manual_seed(seed)
    values = torch.randn(count, generator=draws)
    if kind == "mostly zero":
        values *= torch.rand(count, generator=draws) > 0.7
    if kind == "few values":
        values = (2 * values).round()
    if kind == "sorted":
        values = values.sort().values
    if kind == "equal":
        values = torch.full((count,), 2.5)
    return [values[:1000].reshape(10, 100), values[1000:1001], values[1001:]]


@pytest.mark.parametrize("kind", ["random", "mostly zero", "few values", "sorted", "equal"])
@pytest.mark.parametrize("magnitudes", [False, True])
def test_they_are_those_of_the_sorted_entries(kind: str, magnitudes: bool) -> None:
    tensors = parts(kind, 1)
    ordered = torch.cat([part.flatten() for part in tensors])
    ordered = (ordered.abs() if magnitudes else ordered).sort().values
    last = len(ordered) - 1
    places = [0, 1, 300, last // 5, last // 2, int(0.8 * last), last - 1, last]
    found = order_statistics(tensors, *places, magnitudes=magnitudes)
    assert [value.item() for value in found] == ordered[places].tolist()
    assert found[0].dtype == torch.float32


@given(st.lists(st.floats(-2, 2, width=32), min_size=1, max_size=40), st.data())
@settings(max_examples=60, deadline=None)
def test_a_handful_of_entries_will_do(values: list[float], data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(values) - 1))
    (found,) = order_statistics([torch.tensor(values, dtype=torch.float32)], place)
    assert found.item() == sorted(np.float32(values).tolist())[place]


def test_where_the_sample_misleads_everything_is_sorted(monkeypatch: pytest.MonkeyPatch) -> None:
    values = torch.arange(30_000.0)
    values[:: selection._STRIDE] = 0.0  # so that the sample sees nothing else
    asked: list[tuple[int, ...]] = []

    def spy(parts: Iterator[Tensor], *places: int) -> list[Tensor]:
        asked.append(places)
        return sort_places(parts, *places)

    monkeypatch.setattr(selection, "sort_places", spy)
    found = order_statistics([values], 10, 15_000)
    assert [value.item() for value in found] == values.sort().values[[10, 15_000]].tolist()
    assert asked == [(15_000,)]


@pytest.mark.parametrize("magnitudes", [False, True])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("part", [0, 1, 2])
def test_entries_that_are_not_finite_are_refused(part: int, value: float, magnitudes: bool) -> None:
    tensors = parts("random", 0)
    tensors[part].view(-1)[-1] = value
    with pytest.raises(CosamError, match="not finite: did its training diverge"):
        order_statistics(tensors, 7, magnitudes=magnitudes)
    with pytest.raises(CosamError, match="not finite"):
        trim({str(number): tensor for number, tensor in enumerate(tensors)}, density=0.2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_other_precisions_keep_their_dtype(dtype: torch.dtype) -> None:
    values = torch.cat([part.flatten() for part in parts("random", 0)]).to(dtype)
    (found,) = order_statistics([values], 20_000)
    assert torch.equal(found, values.sort().values[20_000])


def test_bfloat16_is_refused() -> None:
    with pytest.raises(CosamError, match="bfloat16 cannot be sorted"):
        order_statistics([torch.ones(3, dtype=torch.bfloat16)], 1)


def test_little_is_kept_on_the_way() -> None:
    values = torch.randn(500_000, generator=torch.Generator().manual_seed(0)).numpy()
    bracket = selection.Bracket(400_000, values[:: selection._STRIDE], len(values))
    bracket.look_at(values)
    assert bracket.found() == np.sort(values)[400_000]
    assert 0 < sum(map(len, bracket._between)) < 0.2 * len(values)


@pytest.mark.parametrize("place", [60_000, 100_000, 140_000])
def test_of_a_value_that_many_have_only_the_count_is_kept(place: int) -> None:
    values = torch.randn(200_000, generator=torch.Generator().manual_seed(0))
    values[:100_000] = 0.0
    values = values[torch.randperm(len(values), generator=torch.Generator().manual_seed(1))].numpy()
    bracket = selection.Bracket(place, values[:: selection._STRIDE], len(values))
    bracket.look_at(values)
    assert bracket.found() == np.sort(values)[place] == 0.0
    assert not np.count_nonzero(np.concatenate(bracket._between) == 0)


def drawn(count: int, *, shape: tuple[int, int] = (90, 200), scale: float = 1.0) -> list[dict[str, Tensor]]:
    draws = torch.Generator().manual_seed(count)
    return [
        {name: scale * torch.randn(shape, generator=draws).pow(3) for name in ("late", "early")} for _ in range(count)
    ]


def slow_competition(experts: list[dict[str, Tensor]], *, q: float, ratio: float, is_pull_scaled: bool) -> Tensor:
    """All experts flat at once, each quantile by a sort: the published code's way."""
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
        pull = pull + (entries.sign() * unit(sizes) if is_pull_scaled else entries)
    weighted, weights = torch.zeros(count), torch.zeros(count)
    for entries, sizes in zip(flat, magnitudes, strict=True):
        balance = (len(flat) * (unit(sizes).square() - 1)).exp() * (entries * pull).tanh()
        weight = unit(clipped(balance, 1 - ratio, 0))
        weighted, weights = weighted + entries.sign() * sizes * weight, weights + weight
    return 1.2 * weighted / weights.clamp(min=1e-12)


@pytest.mark.parametrize("is_pull_scaled", [True, False])
@pytest.mark.parametrize(("count", "ratio", "scale"), [(1, 0.1, 1.0), (3, 0.1, 0.01), (4, 0.05, 1.0), (3, 0.9, 1.0)])
def test_the_competition_is_bit_for_bit_that_of_all_entries_at_once(
    count: int, ratio: float, scale: float, is_pull_scaled: bool
) -> None:
    experts = drawn(count, scale=scale)
    found = Competition(experts, clipped=0.01, ratio=ratio, is_pull_scaled=is_pull_scaled).merged(1.2)
    flat = torch.cat([found["early"].flatten(), found["late"].flatten()])
    assert torch.equal(flat, slow_competition(experts, q=0.01, ratio=ratio, is_pull_scaled=is_pull_scaled))


def test_most_entries_need_no_exponential(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[int] = []
    balance = Competition._balance

    def spy(self: Competition, number: int, entries: Tensor, pull: Tensor) -> Tensor:
        looked.append(len(entries))
        return balance(self, number, entries, pull)

    monkeypatch.setattr(competition.Competition, "_balance", spy)
    monkeypatch.setattr(competition, "sort_places", None)  # nor is everything sorted
    experts = drawn(3)
    Competition(experts, clipped=0.01, ratio=0.1, is_pull_scaled=True).merged(1.0)
    assert sum(looked) < 0.5 * 2 * 3 * experts[0]["late"].numel() * 2


@pytest.mark.parametrize("is_pull_scaled", [True, False])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_change_that_is_not_finite_is_refused(value: float, is_pull_scaled: bool) -> None:
    experts = drawn(2)
    experts[1]["late"][3, 4] = value
    with pytest.raises(CosamError, match="not finite"):
        Competition(experts, clipped=0.01, ratio=0.1, is_pull_scaled=is_pull_scaled)


def test_changes_whose_sum_overflows_are_refused() -> None:
    experts = drawn(2)
    for expert in experts:
        expert["late"][3, 4] = 3e38
    with pytest.raises(CosamError, match="sum of the experts' changes is not finite"):
        Competition(experts, clipped=0.01, ratio=0.1, is_pull_scaled=False)
