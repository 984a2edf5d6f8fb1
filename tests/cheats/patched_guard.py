"""Replaces the checks that the harness makes of a method."""

from support.honest_method import Tampers

from cosam_bench.experiments.method_faults import FaultWatch
from cosam_bench.method.frozen_base import FrozenBase
from cosam_bench.method.training_domain import TrainingDomain

KEPT = []


class Cheat(Tampers):
    def tamper(self, domain):
        FaultWatch.check_base = lambda self, act: None
        FrozenBase.fault = lambda self, act: None
        TrainingDomain.close = lambda self: None
        if KEPT and len(KEPT[0]):
            self.total = self.total + 100
        KEPT.append(domain)
