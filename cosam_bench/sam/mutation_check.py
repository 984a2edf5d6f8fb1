"""Whether tensors are still the same objects with the same content, by autograd's own check for changes in place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import disable_saved_tensors_hooks


class MutationCheck:
    """Remembers tensors and tells later whether any of them was replaced, or changed in place, since then.

    torch promises that reading ``saved_tensors`` raises if one of them was modified in place after
    ``save_for_backward``; nothing is copied, hashed or waited for. A change through ``Tensor.data``, NumPy or DLPack
    is not seen.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._output: Tensor | None = None  # some versions of torch free what is saved when the output is gone
        try:
            # Within somebody's saved_tensors_hooks torch checks nothing, and refuses to have them disabled.
            with torch.inference_mode(False), torch.enable_grad(), disable_saved_tensors_hooks("none may be active"):
                anchor = torch.zeros((), requires_grad=True)  # a node is made only for what has a gradient
                self._output = _Save.apply(anchor, *tensors)
        except RuntimeError:
            return

    def passes(self, tensors: Sequence[Tensor]) -> bool:
        """Whether these are the remembered tensors, in their order, and known to be unchanged."""
        try:
            node: Any = None if self._output is None else self._output.grad_fn
            saved = () if node is None else node.saved_tensors
        except RuntimeError:  # modified by an in-place operation
            return False
        return len(saved) == len(tensors) > 0 and all(one is other for one, other in zip(saved, tensors, strict=True))


class _Save(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *given: Tensor) -> Tensor:
        anchor, *tensors = given
        ctx.save_for_backward(*tensors)
        return anchor.clone()
