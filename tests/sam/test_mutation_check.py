"""Changes in place and replaced tensors are told from tensors that stayed as they were."""

from __future__ import annotations

import weakref
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from cosam_bench.sam.mutation_check import MutationCheck


def some_tensors() -> list[Tensor]:
    return [torch.nn.Parameter(torch.ones(2, 3), requires_grad=False), torch.zeros(4)]


@pytest.mark.parametrize("made_in_inference", [False, True])
def test_tensors_that_stay_as_they_are_pass_in_every_mode(made_in_inference: bool) -> None:
    tensors = some_tensors()
    with torch.inference_mode(made_in_inference):
        check = MutationCheck(tensors)
    tensors[0].requires_grad_()
    (tensors[0] * 2).sum().backward()  # type: ignore[no-untyped-call]  # torch ships it without types
    for mode in (torch.no_grad(), torch.inference_mode(), torch.enable_grad()):
        with mode:
            assert check.passes(tensors)
    assert tensors[0].grad is not None  # the check has left the graph alone


@pytest.mark.parametrize(
    "change",
    [
        lambda one: one.add_(0),
        lambda one: one[0].fill_(2),
        lambda one: one.view(-1)[1:2].mul_(3),
        lambda one: one.__setitem__((0, 0), 5.0),
    ],
)
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_change_in_place_is_seen_also_through_a_view(change: Callable[[Tensor], object], mode: type) -> None:
    tensors = some_tensors()
    check = MutationCheck(tensors)
    with mode():
        change(tensors[0])
    assert not check.passes(tensors)


def test_other_tensors_never_pass() -> None:
    tensors = some_tensors()
    check = MutationCheck(tensors)
    for others in ([tensors[0], tensors[1].clone()], tensors[::-1], tensors[:1], [*tensors, tensors[1]], []):
        assert not check.passes(others)
    assert check.passes(tensors)


def test_nothing_passes_if_somebody_elses_hooks_keep_torch_from_checking() -> None:
    tensors = some_tensors()
    with torch.autograd.graph.save_on_cpu():  # type: ignore[no-untyped-call]  # torch ships it without types
        check = MutationCheck(tensors)
    assert not check.passes(tensors)


def test_the_tensors_live_no_longer_than_the_check() -> None:
    tensors = some_tensors()
    check = MutationCheck(tensors)
    last = weakref.ref(tensors.pop())
    assert last() is not None
    del check
    assert last() is None
