"""The LoRA layer against peft's own."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn

from benchmarks.stages import peft_layer
from cosam_bench.sam.adapters.lora_linear import LoraLinear


@pytest.fixture(params=[2.0, 1.25], ids=["scale 2", "scale 1.25"])
def layer(request: pytest.FixtureRequest) -> LoraLinear:
    generator = torch.Generator().manual_seed(0)
    base = nn.Linear(96, 288).requires_grad_(False)
    nn.init.normal_(base.weight, std=0.1, generator=generator)
    a, b = (0.1 * torch.randn(shape, generator=generator) for shape in ((4, 96), (288, 4)))
    return LoraLinear(base, a=a, b=b, scale=request.param)


def passes(layer: LoraLinear, runs: nn.Module, *, shape: tuple[int, ...], is_rough: bool) -> list[Tensor]:
    """The output of the layer that runs, and the gradients of its input, A and B."""
    generator = torch.Generator().manual_seed(2)
    rows = torch.randn(*shape, 96, generator=generator).requires_grad_()
    wanted = torch.randn(*shape, 288, generator=generator)
    with torch.autocast("cpu", torch.bfloat16, enabled=is_rough):
        output = runs(rows)
    return [output.detach(), *torch.autograd.grad(output, [rows, layer.a, layer.b], wanted.to(output.dtype))]


@pytest.mark.parametrize("shape", [(2, 7, 5), (40,)])
def test_in_float32_the_numbers_are_pefts(layer: LoraLinear, shape: tuple[int, ...]) -> None:
    ours = passes(layer, layer, shape=shape, is_rough=False)
    theirs = passes(layer, peft_layer(layer), shape=shape, is_rough=False)
    for found, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
        if layer.scale == 2:
            assert torch.equal(found, expected)
    assert theirs[0].abs().max() > 1
    assert not torch.allclose(theirs[0], layer.base_layer(torch.zeros(96)), atol=0.1)


def test_in_bfloat16_they_are_no_further_from_the_exact_ones_than_pefts(layer: LoraLinear) -> None:
    exact = passes(layer, layer, shape=(64, 8), is_rough=False)
    ours = passes(layer, layer, shape=(64, 8), is_rough=True)
    theirs = passes(layer, peft_layer(layer), shape=(64, 8), is_rough=True)
    for one, other, fine in zip(ours, theirs, exact, strict=True):
        assert one.dtype == other.dtype
        apart, their_distance = ((rough.float() - fine).norm() / fine.norm() for rough in (one, other))
        assert apart < 1.02 * their_distance
        assert their_distance < 0.01


def test_a_layer_may_be_frozen_in_part_and_needs_no_gradient_at_all(layer: LoraLinear) -> None:
    rows = torch.randn(3, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = layer.base_layer(rows) + rows @ layer.a.T @ layer.b.T * layer.scale
        torch.testing.assert_close(layer(rows), expected)
    layer.a.requires_grad_(False)
    layer(rows).sum().backward()
    assert layer.a.grad is None
    assert layer.b.grad is not None


def test_training_needs_neither_peft_nor_transformers() -> None:
    """They take a process longer to import than torch does."""
    command = (
        "import sys, torch\n"
        "from cosam_bench.sam.adapters.adapter_settings import AdapterSettings\n"
        "from cosam_bench.sam.adapters.attachment import attach\n"
        "from cosam_bench.sam.build import build_sam\n"
        "with attach(build_sam('tiny'), AdapterSettings(), generator=torch.Generator()) as adapter:\n"
        "    assert adapter.factors\n"
        "print({'peft', 'transformers'} & set(sys.modules))\n"
    )
    run = subprocess.run([sys.executable, "-c", command], check=True, capture_output=True, text=True)
    assert run.stdout == "set()\n"
