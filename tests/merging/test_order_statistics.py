"""Order statistics against a sort of all entries."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cosam_bench.core.errors import CosamError
from cosam_bench.merging.order_statistics import order_statistics
from cosam_bench.merging.sign_election import trim
from cosam_bench.merging.updates import LazyTensors


def parts(kind: str, seed: int, *, count: int = 30_000) -> dict[str, Tensor]:
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
    return {"matrix": values[:1000].reshape(10, 100), "one": values[1000:1001], "rest": values[1001:]}


@pytest.mark.parametrize("kind", ["random", "mostly zero", "few values", "sorted", "equal"])
@pytest.mark.parametrize("magnitudes", [False, True])
def test_they_are_those_of_the_sorted_entries(kind: str, magnitudes: bool) -> None:
    tensors = parts(kind, 1)
    before = torch.cat([part.flatten() for part in tensors.values()])
    ordered = (before.abs() if magnitudes else before).sort().values
    last = len(ordered) - 1
    ranks = [0, 1, 300, last // 5, last // 2, int(0.8 * last), last - 1, last]
    found = order_statistics(tensors, *ranks, magnitudes=magnitudes)
    assert [value.item() for value in found] == ordered[ranks].tolist()
    assert all(value.nbytes == value.untyped_storage().nbytes() for value in found)  # no views of the copy
    assert torch.equal(torch.cat([part.flatten() for part in tensors.values()]), before)


@given(st.lists(st.floats(-2, 2, width=32), min_size=1, max_size=40), st.data())
@settings(max_examples=60, deadline=None)
def test_a_handful_of_entries_will_do(values: list[float], data: st.DataObject) -> None:
    rank = data.draw(st.integers(0, len(values) - 1))
    (found,) = order_statistics({"x": torch.tensor(values, dtype=torch.float32)}, rank)
    assert found.item() == sorted(np.float32(values).tolist())[rank]


def test_lazy_tensors_are_each_computed_once() -> None:
    tensors, read = parts("random", 2), []

    def compute(name: str) -> Tensor:
        read.append(name)
        return tensors[name]

    lazy = LazyTensors({name: tuple(tensor.shape) for name, tensor in tensors.items()}, compute)
    assert order_statistics(lazy, 12_345) == order_statistics(tensors, 12_345)
    assert read == list(tensors)


@pytest.mark.parametrize("magnitudes", [False, True])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("part", ["matrix", "one", "rest"])
def test_entries_that_are_not_finite_are_refused(part: str, value: float, magnitudes: bool) -> None:
    tensors = parts("random", 0)
    tensors[part].view(-1)[-1] = value
    with pytest.raises(CosamError, match="not finite: did its training diverge"):
        order_statistics(tensors, 7, magnitudes=magnitudes)
    with pytest.raises(CosamError, match="not finite"):
        trim(tensors, density=0.2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_other_precisions_keep_their_dtype(dtype: torch.dtype) -> None:
    values = torch.cat([part.flatten() for part in parts("random", 0).values()]).to(dtype)
    (found,) = order_statistics({"x": values}, 20_000)
    assert torch.equal(found, values.sort().values[20_000])


def test_bfloat16_is_refused() -> None:
    with pytest.raises(CosamError, match="bfloat16 cannot be sorted"):
        order_statistics({"x": torch.ones(3, dtype=torch.bfloat16)}, 1)
