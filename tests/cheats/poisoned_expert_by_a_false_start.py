"""Has the shared experts trained from a start of its own, to be stored in place of the plain ones."""

import torch
from support.honest_method import Tampers

from cosam_bench import Update


class Cheat(Tampers):
    def tamper(self, domain):
        fitted = self.bench.train(domain)
        Update.digest = lambda self: None
        self.bench.train(domain, start=Update({}, {name: torch.zeros(1) for name in fitted.update.dense}))
