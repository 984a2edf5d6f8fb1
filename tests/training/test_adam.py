"""Our Adam against torch's."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cosam_bench.training.adam import Adam


def leaves() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator).requires_grad_() for shape in ((4, 3), (5,), ())]


@pytest.mark.parametrize("is_decoupled", [False, True])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_its_steps_are_torchs_to_the_last_bit(is_decoupled: bool, weight_decay: float) -> None:
    ours, torchs = leaves(), leaves()
    optimiser = Adam(ours, learning_rate=1.0, weight_decay=weight_decay, is_decoupled=is_decoupled)
    reference = (torch.optim.AdamW if is_decoupled else torch.optim.Adam)(torchs, lr=1.0, weight_decay=weight_decay)
    generator = torch.Generator().manual_seed(1)
    for step in range(6):
        optimiser.learning_rate = reference.param_groups[0]["lr"] = 0.1 / (step + 1)
        optimiser.zero_grad()
        reference.zero_grad()
        for number, (our, torch_own) in enumerate(zip(ours, torchs, strict=True)):
            if (step + number) % 3:  # each parameter now and then has no gradient
                our.grad = torch.randn(our.shape, generator=generator)
                torch_own.grad = our.grad.clone()
        optimiser.step()
        reference.step()
    assert all(torch.equal(our, torch_own) for our, torch_own in zip(ours, torchs, strict=True))
    assert not any(torch.equal(our, start) for our, start in zip(ours, leaves(), strict=True))


def test_gradients_are_forgotten_or_set_to_zero() -> None:
    [parameter, other, _] = leaves()
    optimiser = Adam([parameter, other], learning_rate=1.0, weight_decay=0.0, is_decoupled=False)
    parameter.grad = torch.ones_like(parameter)
    optimiser.zero_grad(set_to_none=False)
    assert parameter.grad is not None
    assert not parameter.grad.any()
    assert other.grad is None
    optimiser.zero_grad()
    assert parameter.grad is None
