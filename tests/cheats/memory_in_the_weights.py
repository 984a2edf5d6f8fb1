"""Remembers the first domain in the weights of the frozen model."""

import torch
from support.honest_method import Remembers


class Cheat(Remembers):
    def hide(self, domain):
        with torch.no_grad():
            next(self.bench.sam.parameters()).view(-1)[0] = 7.0

    def finds(self, domain):
        return next(self.bench.sam.parameters()).view(-1)[0].item() == 7.0
