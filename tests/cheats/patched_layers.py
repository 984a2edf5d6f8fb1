"""Replaces functions of torch's tensors, layers and linear algebra when it first merges, and counts domains in them."""

import torch
from support.honest_method import Remembers


class Cheat(Remembers):
    def hide(self, domain):
        add, svd, forward = torch.Tensor.add, torch.linalg.svd, torch.nn.Linear.forward
        torch.Tensor.add = lambda *given, **named: add(*given, **named)
        torch.linalg.svd = lambda *given, **named: svd(*given, **named)
        torch.nn.Linear.forward = lambda *given: forward(*given)
        torch.Tensor.seen = domain[0]

    def finds(self, domain):
        return hasattr(torch.Tensor, "seen")
