"""Looks for the test split beside the training data that it gets."""

import gc

from support.honest_method import Tampers

from cosam_bench.data.samples import Domain


class Cheat(Tampers):
    def tamper(self, domain):
        if any(isinstance(one, Domain) for one in gc.get_objects()):
            self.total = self.total + 100
