"""Adam by torch's function, without torch's class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.optim.adam import adam


@dataclass(frozen=True)
class _Moments:
    """What Adam keeps of a parameter: exponential means of its gradients and of their squares, and the steps taken."""

    first: Tensor
    second: Tensor
    steps: Tensor = field(default_factory=lambda: torch.tensor(0.0))


class Adam:
    """Adam, or AdamW if ``is_decoupled``, bit for bit as ``torch.optim`` has them.

    Building an optimiser of ``torch.optim`` imports torch's compiler, which no training here uses: three seconds of
    processor time and 150 MB in each process that trains.

    Attributes:
        learning_rate: of the next step; it may be changed between steps.
    """

    def __init__(
        self, parameters: Sequence[Tensor], *, learning_rate: float, weight_decay: float, is_decoupled: bool
    ) -> None:
        self.learning_rate = learning_rate
        self._parameters = tuple(parameters)
        self._weight_decay = weight_decay
        self._is_decoupled = is_decoupled
        self._moments: dict[int, _Moments] = {}

    def zero_grad(self, *, set_to_none: bool = True) -> None:
        """Forget the gradients, or set them to zero."""
        for parameter in self._parameters:
            if set_to_none or parameter.grad is None:
                parameter.grad = None
            else:
                parameter.grad = torch.zeros_like(parameter.grad)

    @torch.no_grad()
    def step(self) -> None:
        """Move the parameters that have a gradient."""
        moved = [(number, one) for number, one in enumerate(self._parameters) if one.grad is not None]
        moments = [self._moments_of(number) for number, _ in moved]
        adam(
            [one for _, one in moved],
            [one.grad for _, one in moved if one.grad is not None],
            [of.first for of in moments],
            [of.second for of in moments],
            [],
            [of.steps for of in moments],
            amsgrad=False,
            beta1=0.9,
            beta2=0.999,
            lr=self.learning_rate,
            weight_decay=self._weight_decay,
            eps=1e-8,
            maximize=False,
            decoupled_weight_decay=self._is_decoupled,
        )

    def _moments_of(self, number: int) -> _Moments:
        if number not in self._moments:
            zeros = torch.zeros_like(self._parameters[number], memory_format=torch.preserve_format)
            self._moments[number] = _Moments(zeros, zeros.clone())
        return self._moments[number]
