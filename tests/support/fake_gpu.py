"""A GPU that is not there: tensors without numbers that say they are on one.

Every operation checks shapes, types and devices as on a GPU; one that needs a number, for which the program would have
to wait, raises an error.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily

from cosam_bench.sam.inputs import Batch, BatchInputs
from cosam_bench.training.training_batch import TrainingBatch

_Module = TypeVar("_Module", bound=nn.Module)


@dataclass(frozen=True)
class PretendDevice:
    """A device on which nothing is computed."""

    device: torch.device
    mode: FakeTensorMode

    @contextmanager
    def active(self) -> Iterator[None]:
        """Within the context, tensors have no numbers."""
        with self.mode:
            yield

    def drawn(self, draw: Callable[..., tuple[Batch, Tensor]]) -> Callable[..., tuple[Batch, Tensor]]:
        """Draw a batch and its masks on the CPU with their numbers, and copy them to the device."""

        def wrapped(*args: Any, **settings: Any) -> tuple[Batch, Tensor]:
            with unset_fake_temporarily():
                view = replace(settings.pop("view"), device=torch.device("cpu"))
                batch, target = draw(*args, view=view, **settings)
            return self.batch(batch, target)

        return wrapped

    def real(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A function that computes with numbers."""

        def wrapped(*args: Any, **settings: Any) -> Any:
            with unset_fake_temporarily():
                return function(*args, **settings)

        return wrapped

    def fed(
        self, feed: Callable[..., AbstractContextManager[Iterator[Any]]]
    ) -> Callable[..., AbstractContextManager[Iterator[Any]]]:
        """All that a feed gives, drawn on the CPU with numbers: a fake mode is of one thread."""

        @contextmanager
        def wrapped(*args: Any, **settings: Any) -> Iterator[Iterator[Any]]:
            with unset_fake_temporarily():
                view = replace(settings.pop("view"), device=torch.device("cpu"))
                with feed(*args, view=view, **settings) as batches:
                    drawn = list(batches)
            yield iter(drawn)

        return wrapped

    def batch(self, batch: Batch, target: Tensor) -> tuple[Batch, Tensor]:
        """A batch and its masks as if they had been copied to the device."""
        images, masks, prompts = self.of(batch.images), self.of(target), batch.prompts
        parts = {name: self.of(getattr(prompts, name)) for name in ("boxes", "points", "masks")}
        prompts = replace(prompts, **parts)
        assert batch.inputs is not None
        with unset_fake_temporarily():
            assert all(row.digest for row in batch.inputs.rows)  # computed by the thread that loads
        with self.active():
            inputs = BatchInputs.of(images, batch.inputs.rows)
        if not isinstance(batch, TrainingBatch):
            return Batch(images, prompts, batch.domains, inputs), masks
        sampled = {
            name: None if (tensor := getattr(batch, name)) is None else self.of(tensor)
            for name in ("weights", "masks", "ignored", "point_candidates")
        }
        return replace(batch, images=images, prompts=prompts, inputs=inputs, target=masks, **sampled), masks

    def of(self, tensor: Tensor, *, device: torch.device | None = None) -> Tensor:
        """A tensor of the same shape and type on the device, or on another one."""
        with self.mode:
            return torch.empty(tensor.shape, dtype=tensor.dtype, device=device or self.device)

    def module(self, module: _Module) -> _Module:
        """A copy of a module as if it were on the device."""
        module = copy.deepcopy(module)
        for part in module.modules():
            for name, parameter in part._parameters.items():
                if parameter is not None:
                    part._parameters[name] = nn.Parameter(self.of(parameter), requires_grad=parameter.requires_grad)
            for name, buffer in part._buffers.items():
                if buffer is not None:
                    part._buffers[name] = self.of(buffer)
        return module


def pretend_device(monkeypatch: pytest.MonkeyPatch) -> PretendDevice:
    """``cuda:0``; what asks the driver is answered as if there were a GPU."""
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *args: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU that is not there")
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    monkeypatch.setattr(Tensor, "pin_memory", lambda tensor: tensor)
    monkeypatch.setattr(torch, "tensor", _without_constant(torch.tensor))
    monkeypatch.setattr(Tensor, "backward", _reach)
    monkeypatch.setattr(nn.Module, "to", _moved)
    return PretendDevice(torch.device("cuda:0"), FakeTensorMode(allow_non_fake_inputs=True))


def _without_constant(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """As ``torch.tensor``; a fake tensor would remember the list's numbers, and copy them to a real GPU."""

    def wrapped(*args: Any, **settings: Any) -> Tensor:
        made = make(*args, **settings)
        if isinstance(made, FakeTensor) and made.dim():  # Adam reads its number of steps, which is on the host
            made.constant = None
        return made

    return wrapped


def _reach(loss: Tensor) -> None:
    """Give each parameter that the loss depends on a gradient; autograd's engine itself needs a real device."""
    waiting, seen = [loss.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if (parameter := getattr(node, "variable", None)) is not None:
            parameter.grad = torch.empty_like(parameter)
        waiting += [following for following, _ in node.next_functions]


def _moved(module: nn.Module, device: torch.device, dtype: torch.dtype | None = None) -> nn.Module:
    """As ``Module.to``, which exchanges the contents of tensors, as fake ones refuse."""
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                part._parameters[name] = nn.Parameter(parameter.detach().to(device, dtype), parameter.requires_grad)
    return module
