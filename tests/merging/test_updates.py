from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from cosam_bench.core.errors import CosamError
from cosam_bench.core.hashing import digest_tensors
from cosam_bench.merging.updates import (
    LazyTensors,
    LowRank,
    Update,
    add,
    check_same_layers,
    lazy_weight_changes,
    shapes_of,
    weight_changes,
)


def drawn(seed: int, *, rank: int = 2, outputs: int = 3, inputs: int = 4) -> LowRank:
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(rank, inputs, generator=generator, dtype=torch.float64)
    return LowRank(a=a, b=torch.randn(outputs, rank, generator=generator, dtype=torch.float64))


def update(seed: int, *, layers: tuple[str, ...] = ("q", "v"), rank: int = 2) -> Update:
    bias: dict[str, Tensor] = {"bias": torch.full((3,), float(seed), dtype=torch.float64)}
    return Update({name: drawn(seed + place, rank=rank) for place, name in enumerate(layers)}, bias)


def test_a_product_worked_by_hand() -> None:
    factors = LowRank(a=torch.tensor([[1.0, 2.0]]), b=torch.tensor([[3.0], [4.0]]))
    assert factors.rank == 1
    assert factors.dense().tolist() == [[3.0, 6.0], [4.0, 8.0]]
    assert factors.scaled(0.5).dense().tolist() == [[1.5, 3.0], [2.0, 4.0]]


@given(st.integers(0, 1000), st.integers(0, 1000), st.integers(1, 3), st.integers(1, 3))
def test_a_sum_is_the_sum_of_the_products(first: int, second: int, rank: int, other_rank: int) -> None:
    one, other = update(first, rank=rank), update(second, layers=("v", "k"), rank=other_rank)
    total = add(one, other)
    assert set(total.low_rank) == {"q", "v", "k"}
    assert total.low_rank["v"].rank == rank + other_rank
    torch.testing.assert_close(total.low_rank["v"].dense(), one.low_rank["v"].dense() + other.low_rank["v"].dense())
    torch.testing.assert_close(total.low_rank["k"].dense(), other.low_rank["k"].dense())
    assert total.dense["bias"].tolist() == [float(first + second)] * 3


def test_a_flat_form_is_read_back_and_other_keys_are_passed_over() -> None:
    one = update(1, layers=("block.a", "block.dense"))  # names that look like endings
    back = Update.from_tensors(one.tensors("served/") | {"memory/x": torch.ones(1)}, "served/")
    assert back.low_rank.keys() == one.low_rank.keys()
    assert back.digest() == one.digest()


def test_half_a_layer_is_refused() -> None:
    tensors = update(1).tensors()
    del tensors["q.b"]
    with pytest.raises(KeyError):
        Update.from_tensors(tensors)


def test_a_digest_tells_names_shapes_types_and_values_apart_but_not_order() -> None:
    ones = torch.ones(4)
    digests = {
        digest_tensors(tensors)
        for tensors in (
            {"x": ones},
            {"y": ones},
            {"x": ones.reshape(2, 2)},
            {"x": ones.double()},
            {"x": torch.tensor([1.0, 1.0, 1.0, 2.0])},
            {"x": torch.tensor(True)},
            {"x": torch.empty(0)},
            {},
        )
    }
    assert len(digests) == 8
    assert digest_tensors({"x": ones, "y": ones}) == digest_tensors({"y": ones, "x": ones})
    assert digest_tensors({"x": torch.eye(3).T[:, :2]}) == digest_tensors({"x": torch.eye(3)[:, :2].contiguous()})


def test_updates_of_different_layers_do_not_fit() -> None:
    check_same_layers(update(1, rank=1), update(2, rank=3))
    with pytest.raises(CosamError, match=r"at 'k' one changes nothing, the other \(3, 4\)"):
        check_same_layers(update(1), update(2, layers=("q", "v", "k")))
    with pytest.raises(CosamError, match=r"at 'q' one changes \(3, 4\), the other \(3, 5\)"):
        check_same_layers(Update({"q": drawn(0)}), Update({"q": drawn(0, inputs=5)}))


def test_weight_changes_name_each_weight_once_and_sum_both_kinds() -> None:
    both = update(1)
    extra = torch.full((3, 4), 2.0, dtype=torch.float64)
    found = weight_changes(Update(both.low_rank, {"q.weight": extra, **both.dense}))
    assert set(found) == {"q.weight", "v.weight", "bias"}
    torch.testing.assert_close(found["q.weight"], both.low_rank["q"].dense() + extra)
    assert torch.equal(found["v.weight"], both.low_rank["v"].dense())
    assert torch.equal(found["bias"], both.dense["bias"])


def test_lazy_changes_are_formed_again_at_each_read() -> None:
    one = update(1)
    lazy = lazy_weight_changes(Update(one.low_rank, one.dense | {"q.weight": torch.ones(3, 4, dtype=torch.float64)}))
    torch.testing.assert_close(lazy["q.weight"], one.low_rank["q"].dense() + 1)
    assert torch.equal(lazy["v.weight"], one.low_rank["v"].dense())
    assert lazy["v.weight"] is not lazy["v.weight"]
    assert lazy["bias"] is one.dense["bias"]
    assert list(lazy) == ["q.weight", "v.weight", "bias"]
    assert (len(lazy), "bias" in lazy, "q" in lazy) == (3, True, False)
    with pytest.raises(KeyError):
        lazy["q"]


def test_shapes_need_no_lazy_tensor() -> None:
    def never(name: str) -> Tensor:
        raise AssertionError(name)

    shapes = {"w": (2, 3)}
    assert shapes_of(LazyTensors(shapes, never)) == shapes == shapes_of({"w": torch.zeros(2, 3)})
    check_same_layers(Update(dense=LazyTensors(shapes, never)), Update(dense={"w": torch.zeros(2, 3)}))
