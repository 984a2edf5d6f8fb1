"""Attention without the matrix of all scores, against segment-anything's own."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from segment_anything.modeling.image_encoder import Attention
from support.fake_gpu import pretend_device
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from cosam_bench.core.arithmetic import restored_rounding
from cosam_bench.sam import attention
from cosam_bench.sam.attention import LeanAttention, _chunked, _fused, _plain
from cosam_bench.sam.build import build_sam
from cosam_bench.sam.mobile_sam import LeanTinyViTAttention


def pair(*, size: tuple[int, int] = (20, 20), width: int = 12, heads: int = 2, **others: Any) -> list[Attention]:
    """Stock attention and a lean one with the same weights."""
    found = []
    for kind in (Attention, LeanAttention):
        torch.manual_seed(0)
        layer = kind(width, heads, True, **({"use_rel_pos": True, "input_size": size} | others))
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.normal_(0, 0.3)
        found.append(layer)
    return found


def maps(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=dtype)


@pytest.fixture(params=[2**20, 1000, 1])
def stretch(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Everything at once, a few rows at a time, one row at a time."""
    monkeypatch.setattr(attention, "_CHUNK", request.param)
    return int(request.param)


@pytest.mark.parametrize(("batch", "size"), [(2, (20, 20)), (1, (17, 23)), (5, (6, 6))])
def test_answers_are_the_stock_ones(stretch: int, batch: int, size: tuple[int, int]) -> None:
    stock, lean = pair(size=size)
    with torch.no_grad():
        torch.testing.assert_close(lean(maps(batch, *size, 12)), stock(maps(batch, *size, 12)), rtol=1e-5, atol=1e-6)


def test_tables_of_another_size_are_stretched_as_in_stock() -> None:
    """A window's block that attends to the whole image."""
    stock, lean = pair(size=(6, 6))
    with torch.no_grad():
        torch.testing.assert_close(lean(maps(1, 20, 20, 12)), stock(maps(1, 20, 20, 12)), rtol=1e-5, atol=1e-6)


def test_without_relative_positions(stretch: int) -> None:
    stock, lean = pair(use_rel_pos=False, input_size=None)
    with torch.no_grad():
        torch.testing.assert_close(lean(maps(1, 20, 20, 12)), stock(maps(1, 20, 20, 12)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", [(20, 20), (17, 23)])
def test_bf16_differs_by_no_more_than_its_own_rounding(stretch: int, size: tuple[int, int]) -> None:
    stock, lean = pair(size=size)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        one, other = stock(maps(1, *size, 12)), lean(maps(1, *size, 12))
    assert other.dtype == one.dtype == torch.bfloat16
    assert (other.float() - one.float()).norm() < 1e-2 * one.float().norm()


@pytest.mark.parametrize("size", [(20, 20), (17, 23), (6, 6)])
def test_gradients_are_the_stock_ones(stretch: int, size: tuple[int, int]) -> None:
    found = []
    for layer in pair(size=size):
        layer = layer.double()
        x = maps(2, *size, 12, dtype=torch.float64).requires_grad_()
        (layer(x) * maps(2, *size, 12, dtype=torch.float64).sin()).sum().backward()
        found.append([x.grad, *(parameter.grad for parameter in layer.parameters())])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-9, atol=1e-9)


def test_gradients_survive_bf16() -> None:
    found = []
    for layer in pair():
        x = maps(2, 20, 20, 12).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            answers = layer(x)
        (answers.float() * maps(2, 20, 20, 12).sin()).sum().backward()
        assert x.grad is not None
        found.append(x.grad)
    assert (found[1] - found[0]).norm() < 2e-2 * found[0].norm()


@settings(max_examples=25, deadline=None)
@given(
    count=st.integers(1, 3),
    height=st.integers(1, 6),
    width=st.integers(1, 6),
    depth=st.integers(1, 5),
    seed=st.integers(0, 99),
)
def test_each_form_is_the_plain_formula(count: int, height: int, width: int, depth: int, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    tokens, heads = height * width, 2

    def some(last: int) -> Tensor:
        return torch.randn(count * heads, tokens, last, generator=draw, dtype=torch.float64)

    query, key, value, rows, columns = some(depth), some(depth), some(depth), some(height), some(width)
    bias = (rows[..., :, None] + columns[..., None, :]).flatten(2)
    plain = (0.7 * query @ key.transpose(1, 2) + bias).softmax(-1) @ value
    for found in (
        _chunked(query, key, value, rows, columns, scale=0.7),
        _fused(query, key, value, rows, columns, scale=0.7, heads=heads),
        _plain(query, key, value, rows, columns, scale=0.7),
    ):
        torch.testing.assert_close(found, plain, rtol=1e-9, atol=1e-9)


class Indices(TorchDispatchMode):
    """How often a tensor of a GPU is indexed by one of the CPU, which is copied while the GPU waits."""

    def __init__(self) -> None:
        super().__init__()
        self.copied = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.ops.aten.index.Tensor and args[0].is_cuda:
            self.copied += any(index is not None and not index.is_cuda for index in args[1])
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("side", [7, 20], ids=["window", "global"])
@pytest.mark.parametrize("is_trained", [False, True])
def test_on_a_gpu_positions_are_not_copied(side: int, is_trained: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend = pretend_device(monkeypatch)
    stock, lean = (pretend.module(layer) for layer in pair(size=(side, side)))
    found = []
    for layer in (stock, lean):
        with pretend.active(), torch.set_grad_enabled(is_trained), Indices() as indices:
            layer(torch.empty(1, side, side, 12, device=pretend.device, requires_grad=is_trained))
        found.append(indices.copied)
    assert found == [2, 0]


@pytest.mark.parametrize("is_deterministic", [False, True])
def test_on_a_gpu_equal_bits_are_not_asked_of_fused_attention(
    is_deterministic: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend = pretend_device(monkeypatch)
    called = []

    def counted(*given: Any, **settings: Any) -> Tensor:
        called.append(given)
        return _fused(*given, **settings)

    monkeypatch.setattr(attention, "_fused", counted)
    layer = pretend.module(pair()[1])
    with restored_rounding(), pretend.active():
        torch.use_deterministic_algorithms(is_deterministic, warn_only=True)
        answers = layer(torch.empty(1, 20, 20, 12, device=pretend.device, requires_grad=True))
    assert answers.shape == (1, 20, 20, 12)
    assert len(called) == (0 if is_deterministic else 1)


class Largest(TorchDispatchMode):
    """The largest tensor that any operation makes."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = function(*args, **(kwargs or {}))
        if isinstance(made, Tensor):
            self.numbers = max(self.numbers, made.numel())
        return made


@pytest.mark.parametrize("is_trained", [False, True])
def test_no_tensor_grows_with_the_square_of_the_tokens(is_trained: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "_CHUNK", 4096)
    stock, lean = pair(size=(32, 32))
    seen = []
    for layer in (stock, lean):
        with torch.set_grad_enabled(is_trained), Largest() as largest:
            answers = layer(maps(1, 32, 32, 12))
            if is_trained:
                answers.sum().backward()
        seen.append(largest.numbers)
    # All scores are 2 heads x 1024 x 1024; what is left are the positions, 2 x 1024 x 32, twice at most.
    assert seen[0] == 2 * 1024**2
    assert seen[1] <= 2 * 1024 * 64


def test_the_whole_encoder_answers_alike_with_either() -> None:
    images = maps(1, 3, 128, 128)
    stock, lean = (build_sam("tiny", is_attention_lean=is_lean) for is_lean in (False, True))
    assert not any(isinstance(module, LeanAttention) for module in stock.modules())
    assert sum(isinstance(module, LeanAttention) for module in lean.modules()) == 6
    assert list(stock.state_dict()) == list(lean.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(lean.encode(images).maps, stock.encode(images).maps, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("wants_gradients", [False, True])
def test_mobile_sams_windows_give_timms_answers(precision: str, wants_gradients: bool) -> None:
    found = []
    for kind in (timm.models.tiny_vit.Attention, LeanTinyViTAttention):
        torch.manual_seed(0)
        layer: Any = kind(32, 8, num_heads=4, attn_ratio=1, resolution=(7, 7))
        layer.eval()  # returns nothing in timm
        with torch.no_grad():
            layer.attention_biases.normal_()
        rows = torch.randn(3, 49, 32, generator=torch.Generator().manual_seed(1)).requires_grad_(wants_gradients)
        with (
            torch.set_grad_enabled(wants_gradients),
            torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"),
        ):
            answers = layer(rows)
        if wants_gradients:
            answers.float().square().sum().backward()
        found.append((answers.detach(), rows.grad if wants_gradients else answers.detach()))
    tolerance = {"rtol": 1e-5, "atol": 1e-5} if precision == "fp32" else {"rtol": 3e-2, "atol": 3e-2}
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(other, one, **tolerance)


def test_mobile_sams_biases_follow_their_weights_and_take_the_fused_form() -> None:
    """timm keeps the gathered biases, of whatever weights there were at first."""
    mobile = build_sam("mobile_sam", checkpoint="random")
    layers: list[Any] = [module for module in mobile.modules() if isinstance(module, LeanTinyViTAttention)]
    assert len(layers) == 10
    with torch.no_grad():
        before = layers[0].get_attention_biases(torch.device("cpu"))
        layers[0].attention_biases.fill_(3)
        after = layers[0].get_attention_biases(torch.device("cpu"))
    assert (before.ndim, after.ndim) == (4, 4)
    assert (after == 3).all()
    plain = build_sam("mobile_sam", checkpoint="random", is_attention_lean=False)
    assert not any(isinstance(module, LeanTinyViTAttention) for module in plain.modules())
