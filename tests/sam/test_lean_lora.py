"""LoRA layers that add where the output lies, against peft's own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from peft.tuners.lora.layer import Linear
from torch import Tensor, nn

from cosam_bench.sam.adapters.adapter_settings import AdapterSettings
from cosam_bench.sam.adapters.attachment import attach
from cosam_bench.sam.adapters.lean_lora import LeanLora
from cosam_bench.sam.sam import Sam

LAYER = "image_encoder.blocks.1.attn.qkv"


@pytest.fixture(params=[8.0, 5.0], ids=["scale 2", "scale 1.25"])
def layer(tiny: Sam, request: pytest.FixtureRequest) -> Iterator[nn.Module]:
    settings = AdapterSettings(rank=4, alpha=request.param)
    with attach(tiny, settings, generator=torch.Generator().manual_seed(0)) as adapter:
        for _, b, _ in adapter.factors.values():
            nn.init.normal_(b, std=0.1, generator=torch.Generator().manual_seed(1))
        yield tiny.get_submodule(LAYER)


def passes(layer: nn.Module, *, shape: tuple[int, ...], is_rough: bool) -> list[Tensor]:
    """The layer's output, and the gradients of its input, A and B."""
    assert isinstance(layer, Linear)
    generator = torch.Generator().manual_seed(2)
    rows = torch.randn(*shape, 96, generator=generator).requires_grad_()
    wanted = torch.randn(*shape, 288, generator=generator)
    with torch.autocast("cpu", torch.bfloat16, enabled=is_rough):
        output = layer(rows)
    trained: list[Any] = [rows, layer.lora_A["adapter"].weight, layer.lora_B["adapter"].weight]
    return [output.detach(), *torch.autograd.grad(output, trained, wanted.to(output.dtype))]


@pytest.mark.parametrize("shape", [(2, 7, 5), (40,)])
def test_in_float32_the_numbers_are_pefts(layer: nn.Module, shape: tuple[int, ...]) -> None:
    lean = passes(layer, shape=shape, is_rough=False)
    assert isinstance(layer, LeanLora)
    scale = layer.scaling["adapter"]
    layer.__class__ = Linear  # type: ignore[assignment]
    plain = passes(layer, shape=shape, is_rough=False)
    for found, expected in zip(lean, plain, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
        if scale == 2:
            assert torch.equal(found, expected)
    assert plain[0].abs().max() > 1


def test_in_bfloat16_they_are_no_further_from_the_exact_ones_than_pefts(layer: nn.Module) -> None:
    exact = passes(layer, shape=(64, 8), is_rough=False)
    lean = passes(layer, shape=(64, 8), is_rough=True)
    layer.__class__ = Linear
    plain = passes(layer, shape=(64, 8), is_rough=True)
    for one, other, fine in zip(lean, plain, exact, strict=True):
        assert one.dtype == other.dtype
        apart, theirs = ((rough.float() - fine).norm() / fine.norm() for rough in (one, other))
        assert apart < 1.02 * theirs
        assert theirs < 0.01


def test_a_layer_may_be_frozen_in_part_and_needs_no_gradient_at_all(layer: nn.Module) -> None:
    assert isinstance(layer, Linear)
    factors: list[Any] = [layer.lora_A["adapter"].weight, layer.lora_B["adapter"].weight]
    rows = torch.randn(3, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = layer.base_layer(rows) + rows @ factors[0].T @ factors[1].T * layer.scaling["adapter"]
        torch.testing.assert_close(layer(rows), expected)
    factors[0].requires_grad_(False)
    layer(rows).sum().backward()
    assert factors[0].grad is None
    assert factors[1].grad is not None
