"""A GPU that is not there: tensors without numbers that say they are on one, or on torch's meta device.

Every operation checks shapes, types and devices as on a GPU; one that needs a number, for which the program would have
to wait, raises an error.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily

from cosam_bench.sam.inputs import Batch, BatchInputs
from cosam_bench.training.training_batch import TrainingBatch

_Module = TypeVar("_Module", bound=nn.Module)


@dataclass(frozen=True)
class PretendDevice:
    """A device on which nothing is computed."""

    device: torch.device
    mode: FakeTensorMode | None

    @contextmanager
    def active(self) -> Iterator[None]:
        """Within the context, tensors are made without numbers if the device is a GPU."""
        with self.mode or nullcontext():
            yield

    def drawn(self, draw: Callable[..., tuple[Batch, Tensor]]) -> Callable[..., tuple[Batch, Tensor]]:
        """Draw a batch and its masks on the CPU with their numbers, and copy them to the device."""

        def wrapped(*args: Any, **settings: Any) -> tuple[Batch, Tensor]:
            with unset_fake_temporarily():
                view = replace(settings.pop("view"), device=torch.device("cpu"))
                batch, target = draw(*args, view=view, **settings)
            return self.batch(batch, target)

        return wrapped

    def batch(self, batch: Batch, target: Tensor) -> tuple[Batch, Tensor]:
        """A batch and its masks as if they had been copied to the device."""
        images, masks, prompts = self.of(batch.images), self.of(target), batch.prompts
        parts = {name: self.of(getattr(prompts, name)) for name in ("boxes", "points", "masks")}
        prompts = replace(prompts, **parts)
        assert batch.inputs is not None
        with self.active():
            inputs = BatchInputs.of(images, batch.inputs.rows)
        if not isinstance(batch, TrainingBatch):
            return Batch(images, prompts, batch.domains, inputs), masks
        sampled = {
            name: None if (tensor := getattr(batch, name)) is None else self.of(tensor)
            for name in ("masks", "point_candidates")
        }
        return replace(batch, images=images, prompts=prompts, inputs=inputs, target=masks, **sampled), masks

    def of(self, tensor: Tensor) -> Tensor:
        """A tensor as if it had been copied to the device."""
        if self.mode is None:
            return tensor.to(self.device)
        fake = self.mode.from_tensor(tensor.detach())
        with self.mode:
            return fake.to(self.device)

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


def pretend_device(name: str, monkeypatch: pytest.MonkeyPatch) -> PretendDevice:
    """``cuda:0`` or ``meta``; what asks the driver is answered as if there were a GPU."""
    device = torch.device(name)
    if name == "meta":
        return PretendDevice(device, None)
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *args: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU that is not there")
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    monkeypatch.setattr(Tensor, "pin_memory", lambda tensor: tensor)
    return PretendDevice(device, FakeTensorMode(allow_non_fake_inputs=True))
